"""Under autocast, matrix products are short and everything that needs every bit stays in float32."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tiny import CORES, make_agent, make_batch
from torch import nn

from dreamer.dynamics import LATENTS
from dreamer.fast import filter as fast_filter


def agent_with(core, cell="gru", family=None):
    cells = {"dynamics.rssm.cell": cell, "dynamics.rnn.cell": cell, "dynamics.gru.cell": cell}
    family = family or ("gaussian" if "gaussian" in LATENTS[core] else "auto")
    return make_agent({"dynamics.core": core, "dynamics.latent": family, "precision": "bfloat16", **cells})


@pytest.mark.parametrize("core", CORES)
def test_states_and_gaussian_parameters_are_float32(core):
    agent = agent_with(core)
    batch, model = make_batch(agent), agent.world_model.core
    outputs = []
    agent.actor_critic.actor.output.register_forward_hook(lambda module, args, output: outputs.append(output.dtype))
    with agent.autocast():
        states = agent.world_model.observe(batch, agent.world_model.embed(batch.obs))
        imagined = model.imagine_step(states[:, 0], torch.zeros(3, agent.action.dim))
        agent.actor_critic.actor(model.features(imagined))
    for state in (states, imagined):
        for field in dataclasses.fields(state):
            assert getattr(state, field.name).dtype == torch.float32, field.name
    assert outputs == [torch.float32], "the policy is a Gaussian too"


@pytest.mark.parametrize("core", [core for core, families in LATENTS.items() if "categorical" in families])
def test_the_memory_beside_categorical_latents_is_float32(core):
    """Their parameters may be in bfloat16, which replay never keeps; what is computed from them is not."""
    agent = agent_with(core, family="categorical")
    batch, model = make_batch(agent), agent.world_model.core
    with agent.autocast():
        states = agent.world_model.observe(batch, agent.world_model.embed(batch.obs))
        imagined = model.imagine_step(states[:, 0], torch.zeros(3, agent.action.dim))
        terms, metrics = model.loss(states)
    for state in (states, imagined):
        for field in dataclasses.fields(state):
            assert getattr(state, field.name).dtype == torch.float32 or not field.metadata["stored"], field.name
    assert {value.dtype for value in (*terms.values(), *metrics.values())} == {torch.float32}


@pytest.mark.parametrize(
    ("core", "kind"), [("rssm", nn.GRUCell), ("rnn", nn.GRUCell), ("gru", nn.GRUCell), ("mdn_rnn", nn.LSTMCell)]
)
def test_cells_run_without_autocast(core, kind, monkeypatch):
    """In bfloat16 a memory that moves by 0.2 % a step would stand still. Autocast of a GPU would cast the cells."""
    agent = agent_with(core)
    batch, plain, seen = make_batch(agent), kind.forward, []

    def forward(self, inputs, state=None):
        seen.append((torch.is_autocast_enabled("cpu"), inputs.dtype))
        return plain(self, inputs, state)

    monkeypatch.setattr(kind, "forward", forward)
    with agent.autocast():
        states = agent.world_model.observe(batch, agent.world_model.embed(batch.obs))
        agent.world_model.core.imagine_step(states[:, 0], torch.zeros(3, agent.action.dim))
    assert set(seen) == {(False, torch.float32)}


@pytest.mark.parametrize("latent", ["categorical", "gaussian"])
def test_the_filter_s_equivalent_is_as_precise_as_the_plain_code(latent):
    agent = make_agent({"dynamics.latent": latent, "precision": "bfloat16"})
    core, batch = agent.world_model.core, make_batch(agent)
    with agent.autocast(), torch.no_grad():
        embeds = agent.world_model.embed(batch.obs)
        results = []
        for observe in (core.observe, lambda *args: fast_filter.observe(core, *args)):
            torch.manual_seed(0)
            results.append(observe(embeds, batch.prev_action, batch.is_first))
    plain, fast = results
    for field in dataclasses.fields(plain):
        left, right = getattr(plain, field.name), getattr(fast, field.name)
        assert left.dtype == right.dtype, field.name
        assert torch.allclose(left[:, 0].float(), right[:, 0].float(), atol=0.02), field.name
