"""Objectives of representation: R2's loss against its definition, what it trains, and what cannot be decoded."""

import pytest
import torch
from tiny import CORES, PIXELS, make_agent, make_batch

from dreamer.errors import UserError
from dreamer.world_model.objectives.r2 import R2, R2Config, standardized

R2_AGENT = {"world_model.representation.objective": "r2"}


def test_the_loss_is_that_of_its_definition():
    torch.manual_seed(0)
    objective = R2(R2Config(redundancy=0.1), input_dim=6, embed_dim=4)
    inputs, embeds = torch.randn(3, 5, 6), torch.randn(3, 5, 4)
    loss, metrics = objective.loss(inputs, embeds, {})
    k, e = (objective.projector(inputs).reshape(15, 4), embeds.reshape(15, 4))
    k, e = ((x - x.mean(0)) / (x.std(0) + 1e-8) for x in (k, e))
    expected, diagonal = 0.0, []
    for i in range(4):
        for j in range(4):
            m = sum(k[n, i] * e[n, j] for n in range(15)) / 15
            expected = expected + ((m - 1) ** 2 if i == j else 0.1 * m**2)
            diagonal += [m] if i == j else []
    assert loss.shape == (3, 5) and loss.unique().numel() == 1
    torch.testing.assert_close(loss[0, 0], expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(metrics["model/r2_correlation"], sum(diagonal) / 4)
    assert objective.projector.bias is None


def test_the_target_gets_no_gradient_and_constant_columns_are_harmless():
    objective = R2(R2Config(), input_dim=3, embed_dim=4)
    inputs, embeds = torch.zeros(2, 4, 3, requires_grad=True), torch.randn(2, 4, 4, requires_grad=True)
    objective.loss(inputs, embeds, {})[0].mean().backward()
    assert embeds.grad is None
    assert torch.isfinite(inputs.grad).all() and torch.isfinite(objective.projector.weight.grad).all()
    assert not standardized(torch.full((5, 2), 3.0)).any()


@pytest.mark.parametrize("core", CORES)
def test_every_core_learns_without_a_decoder(core):
    agent = make_agent(R2_AGENT | {"dynamics.core": core}, obs=PIXELS)
    assert agent.world_model.scales.keys() == {"r2", "reward", "cont", "dyn", "rep"}
    assert agent.world_model.scales["r2"] == 0.05
    counts = agent.parameter_counts()
    assert counts["projector"] == agent.world_model.core.decoder_dim * agent.world_model.encoder.embed_dim
    assert "decoder" not in counts
    batch = make_batch(agent)
    before = agent.world_model.encoder.image.net[0].weight.detach().clone()
    for _ in range(3):
        metrics, _ = agent.update(batch)
    assert torch.isfinite(metrics["loss/r2"]) and "loss/reconstruction" not in metrics
    assert not torch.equal(agent.world_model.encoder.image.net[0].weight, before)


def test_the_encoder_learns_through_the_states():
    """The gradient of the objective reaches the encoder along the posterior, though its target is stopped."""
    agent = make_agent(R2_AGENT, obs=PIXELS)
    batch = make_batch(agent)
    terms, _, _ = agent.loss_terms(batch)
    terms["r2"].mean().backward()
    trained = {name.split(".")[1] for name, p in agent.named_parameters() if p.grad is not None and p.grad.any()}
    assert trained == {"encoder", "core", "objective"}


def test_what_was_trained_without_a_decoder_cannot_be_decoded():
    agent = make_agent(R2_AGENT, obs=PIXELS)
    with pytest.raises(UserError, match="trained with --objective r2, which has no decoder") as error:
        agent.world_model.decode(agent.world_model.core.initial_state(1))
    assert "\n" not in str(error.value)
