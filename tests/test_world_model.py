"""Encoder, decoder, heads, and the loss terms of the world model."""

import dataclasses
import math

import pytest
import torch
from tiny import awaken, make_agent, make_batch, mode_latents, unchecked

from dreamer.nn.distributions import symexp, symexp_bins, symlog, two_hot
from dreamer.world_model.decoder import DecoderConfig, VectorDecoder
from dreamer.world_model.encoder import EncoderConfig, VectorEncoder
from dreamer.world_model.heads import ContinueHead, HeadConfig, ScalarHead

DISCOUNT = 332 / 333


def model(seed=0, **changes):
    agent = make_agent(changes, seed=seed)
    return agent.world_model, make_batch(agent)


def losses(world_model, batch):
    embeds = world_model.encoder(batch.obs)
    states = world_model.observe(batch, embeds)
    return world_model.losses(states, world_model.core.features(states), embeds, batch)[0]


# Encoder and decoder


def test_encoder_reads_keys_in_alphabetical_order_through_symlog():
    torch.manual_seed(0)
    encoder = VectorEncoder(EncoderConfig(units=8), {"b": (1,), "a": (2,)})
    obs = {"b": torch.randn(4, 1) * 100, "a": torch.randn(4, 2) * 100}
    x = symlog(torch.cat([obs["a"], obs["b"]], -1))
    torch.testing.assert_close(encoder(obs), encoder.mlp(x))
    assert torch.equal(encoder(dict(reversed(obs.items()))), encoder(obs))
    assert encoder.embed_dim == 8
    plain = VectorEncoder(EncoderConfig(units=8, symlog=False), {"a": (2,)})
    torch.testing.assert_close(plain({"a": obs["a"]}), plain.mlp(obs["a"]))


def test_reconstruction_error_is_summed_without_a_half():
    """Pitfall 45: an error of 0.1 in each of 24 numbers is a loss of 0.24."""
    sizes = {"height": 1, "orientations": 14, "velocity": 9}
    decoder = VectorDecoder(DecoderConfig(units=8), 5, {key: (size,) for key, size in sizes.items()})
    torch.nn.init.zeros_(decoder.output.weight)
    torch.nn.init.constant_(decoder.output.bias, 0.1)
    obs = {key: torch.zeros(2, 3, size) for key, size in sizes.items()}
    terms = decoder.loss(torch.randn(2, 3, 5), obs)
    assert terms.keys() == sizes.keys()
    for key, size in sizes.items():
        torch.testing.assert_close(terms[key], torch.full((2, 3), 0.01 * size))
    assert sum(term.mean().item() for term in terms.values()) == pytest.approx(0.24)


CHOICES = {"cell": (1, 5), "cards": (2, 3)}


def one_hot(*choices, classes):
    return torch.nn.functional.one_hot(torch.tensor(choices), classes).float()


def test_discrete_values_are_encoded_as_they_are_and_decoded_by_cross_entropy():
    """Uniform logits lose ln n per value; a squared error of symlogs would lose at most 0.48, whatever n is."""
    torch.manual_seed(0)
    obs = {
        "x": torch.tensor([[100.0]]),
        "cell": one_hot(3, classes=5)[None],
        "cards": one_hot(0, 2, classes=3)[None],
    }
    encoder = VectorEncoder(EncoderConfig(units=8), {"x": (1,), **CHOICES})
    x = torch.cat([symlog(obs["x"]), obs["cards"].flatten(-2), obs["cell"].flatten(-2)], -1)
    torch.testing.assert_close(encoder(obs), encoder.mlp(x))
    decoder = VectorDecoder(DecoderConfig(units=8), 4, {"x": (1,), **CHOICES})
    torch.nn.init.zeros_(decoder.output.weight)
    losses = decoder.loss(torch.randn(1, 4), obs)
    expected = {"cards": 2 * math.log(3), "cell": math.log(5), "x": symlog(obs["x"]).item() ** 2}
    assert {key: loss.item() for key, loss in losses.items()} == pytest.approx(expected)
    with torch.no_grad():
        decoder.output.bias[6 + 3] = 2.0  # "cards" have six logits, the fourth of "cell" follows
    right = math.exp(2) / (math.exp(2) + 4)
    assert decoder.loss(torch.randn(1, 4), obs)["cell"].item() == pytest.approx(-math.log(right))
    decoded = decoder(torch.randn(1, 4))
    assert decoded["cell"][0, 0].tolist() == pytest.approx([(1 - right) / 4] * 3 + [right] + [(1 - right) / 4])
    assert decoded["cards"].shape == (1, 2, 3) and decoded["x"].shape == (1, 1)


@pytest.mark.parametrize("compress", [True, False])
def test_decoder_predicts_in_the_units_of_the_observations(compress):
    decoder = VectorDecoder(DecoderConfig(units=8, symlog=compress), 5, {"b": (2,), "a": (1,)})
    awaken(decoder)
    torch.nn.init.constant_(decoder.output.bias, 3.0)
    features = torch.randn(4, 5)
    predictions = decoder(features)
    assert {key: value.shape for key, value in predictions.items()} == {"a": (4, 1), "b": (4, 2)}
    for value in decoder.loss(features, predictions).values():
        torch.testing.assert_close(value, torch.zeros(4), atol=1e-8, rtol=0)
    raw = decoder.output(decoder.mlp(features))
    torch.testing.assert_close(torch.cat([predictions["a"], predictions["b"]], -1), symexp(raw) if compress else raw)


# Heads


def test_scalar_heads_start_at_exactly_zero():
    """Pitfalls 22 and 24: also after moving features to large values."""
    torch.manual_seed(0)
    head = ScalarHead(HeadConfig(units=8), 5)
    scalar = head(torch.randn(3, 7, 5) * 100)
    assert not scalar.logits.any() and not scalar.mean().any()
    assert scalar.cross_entropy((torch.randn(3, 7), 1.0)).mean().item() == pytest.approx(math.log(255), rel=1e-5)


def test_continue_labels_fold_in_the_discount():
    """Pitfalls 5 and 6: the best logit is that of the discount on live rows, and none on terminal rows."""
    head = ContinueHead(HeadConfig(units=8), 5, DISCOUNT)
    best = torch.tensor(math.log(DISCOUNT / (1 - DISCOUNT)), requires_grad=True)
    live = head.loss(best, torch.tensor(False))
    entropy = -(DISCOUNT * math.log(DISCOUNT) + (1 - DISCOUNT) * math.log(1 - DISCOUNT))
    assert live.item() == pytest.approx(entropy, rel=1e-4)
    assert torch.autograd.grad(live, best)[0].abs().item() < 1e-6
    logit = torch.tensor(0.7, requires_grad=True)
    terminal = head.loss(logit, torch.tensor(True))
    assert terminal.item() == pytest.approx(math.log(1 + math.exp(0.7)), rel=1e-5)


def test_predictions_start_neutral():
    """Pitfall 24."""
    world_model, _ = model()
    reward, discount = world_model.predict(torch.randn(5, world_model.core.feature_dim))
    assert not reward.any()
    assert ((discount > 0) & (discount < 1)).all(), "pitfall 33: a probability and not a decision"


# Loss terms


def test_terms_are_unreduced_and_have_a_scale_each():
    world_model, batch = model()
    terms = losses(world_model, batch)
    assert terms.keys() == world_model.scales.keys()
    assert world_model.scales == {"reconstruction": 1.0, "reward": 1.0, "cont": 1.0, "dyn": 1.0, "rep": 0.1}
    assert all(term.shape == (3, 5) for term in terms.values())


@pytest.mark.parametrize(("batch", "time"), [(1, 1), (1, 4), (2, 1)])
def test_single_sequences_and_single_rows(batch, time):
    """Pitfall 52: axes of length 1 are axes."""
    agent = make_agent()
    rows = make_batch(agent, batch, time)
    terms = losses(agent.world_model, rows)
    assert all(term.shape == (batch, time) for term in terms.values())


def test_each_row_is_scored_on_its_own_reward_and_flag():
    """Pitfalls 2 and 6: row t predicts the reward that arrived with it; a time limit is no reason to discontinue."""
    world_model, batch = model()
    awaken(world_model.reward)
    embeds = world_model.encoder(batch.obs)
    states = world_model.observe(batch, embeds)
    features = world_model.core.features(states)

    def terms(rows):
        return world_model.losses(states, features, embeds, rows)[0]

    base = terms(batch)
    for t in range(5):
        reward, terminal = batch.reward.clone(), batch.is_terminal.clone()
        reward[:, t] += 1.0
        terminal[:, t] ^= True
        changed = terms(dataclasses.replace(batch, reward=reward, is_terminal=terminal))
        for name in ("reward", "cont"):
            assert ((changed[name] != base[name]).any(0) == (torch.arange(5) == t)).all(), name
    limited = terms(dataclasses.replace(batch, is_last=torch.ones_like(batch.is_last)))
    assert all(torch.equal(limited[name], base[name]) for name in base)


def test_context_supplies_the_state_before_the_first_row_unless_it_starts_an_episode():
    world_model, batch = model()
    other = dataclasses.replace(batch, context=batch.context + 1.0)
    first = torch.zeros_like(batch.is_first)
    first[0, 0] = True
    with torch.no_grad():
        torch.manual_seed(0)
        a = world_model.observe(dataclasses.replace(batch, is_first=first)).deter
        torch.manual_seed(0)
        b = world_model.observe(dataclasses.replace(other, is_first=first)).deter
    assert torch.equal(a[0], b[0]) and not torch.equal(a[1, 0], b[1, 0])


def test_every_group_of_parameters_is_trained():
    """Pitfall 60: nothing silently stays as it was drawn."""
    world_model, batch = model(**{"dynamics.rssm.free_nats": 0.0})
    awaken(world_model)
    sum(term.mean() for term in losses(world_model, batch).values()).backward()
    for name, param in world_model.named_parameters():
        assert param.grad is not None and param.grad.any(), name


@pytest.mark.parametrize("latent", ["categorical", "gaussian"])
def test_overfits_one_batch(latent):
    """Sanity ladder (i): reconstruction falls to nearly 0, the reward's cross-entropy to its entropy floor."""
    widths = {f"world_model.{part}.units": 32 for part in ("encoder", "decoder", "reward", "cont")}
    widths |= {"dynamics.rssm.deter": 32, "dynamics.rssm.hidden": 32, "dynamics.rssm.cell": "gru"}
    agent = make_agent(widths | {"dynamics.latent": latent})
    world_model, batch = agent.world_model, make_batch(agent, time=3)
    optimizer = torch.optim.Adam(world_model.parameters(), 1e-2)
    with unchecked():
        for _ in range(80):
            terms = {name: term.mean() for name, term in losses(world_model, batch).items()}
            optimizer.zero_grad()
            sum(world_model.scales[name] * term for name, term in terms.items()).backward()
            optimizer.step()
    with torch.no_grad(), mode_latents():
        terms = {name: term.mean() for name, term in losses(world_model, batch).items()}
    _, _, weight = two_hot(batch.reward, symexp_bins())
    entropy = -(torch.xlogy(weight, weight) + torch.xlogy(1 - weight, 1 - weight)).mean().item()
    spread = sum(symlog(value).flatten(0, 1).var(0).sum().item() for value in batch.obs.values())
    assert terms["reconstruction"].item() < 0.1 * spread
    assert entropy - 1e-4 < terms["reward"].item() < entropy + 0.1
    assert terms["cont"].item() < 0.1
