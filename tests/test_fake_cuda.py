"""Types of tensors under the autocast of a GPU, on tensors without content: needs PyTorch built for CUDA, but no GPU.

The tests are skipped elsewhere. `scripts/fake_cuda` installs that build in a virtual environment of its own and runs
them.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tiny import make_agent, make_batch
from torch._subclasses.fake_tensor import FakeTensorMode

from dreamer.fast import filter as fast_filter

pytestmark = pytest.mark.skipif(torch.version.cuda is None, reason="PyTorch is not built for CUDA")


@pytest.fixture
def gpu(monkeypatch):
    """A GPU that multiplies bfloat16 and computes nothing."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("dreamer.agent.multiplies_bfloat16", lambda: True)
    with FakeTensorMode(), torch.device("cuda"):
        yield


CORES = [("rssm", "categorical"), ("rssm", "gaussian"), ("ssm", "gaussian"), ("rnn", "auto"), ("gru", "auto")]
CORES += [("mdn_rnn", "auto")]


@pytest.mark.parametrize("cell", ["block_gru", "gru"])
@pytest.mark.parametrize(("core", "latent"), CORES)
def test_states_stay_in_float32(gpu, core, latent, cell):
    cells = {f"dynamics.{name}.cell": cell for name in ("rssm", "rnn", "gru")}
    agent = make_agent({"dynamics.core": core, "dynamics.latent": latent, **cells})
    batch, model = make_batch(agent).to("cuda"), agent.world_model.core
    with agent.autocast():
        assert torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype == torch.bfloat16, "autocast is on"
        states = agent.world_model.observe(batch, agent.world_model.embed(batch.obs))
        imagined = model.imagine_step(states[:, 0], torch.zeros(3, agent.action.dim))
    for state in (states, imagined):
        for field in dataclasses.fields(state):
            if field.metadata["stored"] or latent != "categorical":
                assert getattr(state, field.name).dtype == torch.float32, field.name


@pytest.mark.parametrize(("core", "latent"), CORES)
def test_an_update_never_waits_and_leaves_float32(gpu, core, latent):
    """Reading a tensor without content raises, so any wait of the host for the GPU would."""
    agent = make_agent({"dynamics.core": core, "dynamics.latent": latent})
    metrics, packed = agent.update(make_batch(agent).to("cuda"))
    assert packed.dtype == torch.float32 and {value.device.type for value in metrics.values()} == {"cuda"}
    assert {param.dtype for param in agent.parameters()} == {torch.float32}


@pytest.mark.parametrize("latent", ["categorical", "gaussian"])
def test_the_filter_s_equivalent_has_the_types_of_the_plain_code(gpu, latent):
    agent = make_agent({"dynamics.latent": latent})
    core, batch = agent.world_model.core, make_batch(agent).to("cuda")
    with agent.autocast():
        embeds = agent.world_model.embed(batch.obs)
        plain = core.observe(embeds, batch.prev_action, batch.is_first)
        fast = fast_filter.observe(core, embeds, batch.prev_action, batch.is_first)
    for field in dataclasses.fields(plain):
        assert getattr(plain, field.name).dtype == getattr(fast, field.name).dtype, field.name
