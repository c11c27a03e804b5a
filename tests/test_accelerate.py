"""Ways to run an update faster, which must not change it."""

import copy

import numpy as np
import pytest
import torch
from tiny import CORES, awaken, make_agent, make_batch

from dreamer.fast.kernels import two_hot_head
from dreamer.system.transfer import LateResults
from dreamer.training import accelerate


@pytest.fixture
def uncompiled():
    yield
    torch._dynamo.reset()


def updated(agent, update):
    """Metrics and weights after two updates with fixed noise."""
    torch.manual_seed(7)
    metrics = [update(make_batch(agent, seed=n))[0] for n in range(2)]
    return metrics, dict(agent.named_parameters())


@pytest.mark.slow
@pytest.mark.compiled
@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("core", CORES)
def test_compiled_steps_change_no_number(core):
    plain = make_agent({"dynamics.core": core, "optimizer.warmup": 0})
    awaken(plain)
    compiled = copy.deepcopy(plain)
    update = accelerate.accelerated(compiled, "on", 0)
    expected, found = updated(plain, plain.update), updated(compiled, update)
    for mine, theirs in zip(found[0], expected[0], strict=True):
        for name, value in theirs.items():
            torch.testing.assert_close(
                mine[name], value, rtol=1e-3, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
            )
    assert {"imagine_step"} <= {name for _, name, _ in update.methods}
    assert not update.code.edited, "what torch.compile leaves in modules is no edit"


def test_short_runs_are_not_compiled_and_long_ones_are():
    agent = make_agent()
    for choice, updates, expected in (
        ("auto", 9_999, False),
        ("auto", 10_000, True),
        ("off", 10**6, False),
        ("on", 1, True),
    ):
        assert accelerate.accelerated(agent, choice, updates).compiled is expected, (choice, updates)


def test_without_a_compiler_one_line_says_so(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    agent = make_agent()
    assert not accelerate.accelerated(agent, "auto", 10**6).compiled
    assert capsys.readouterr().err == ""
    assert not accelerate.accelerated(agent, "on", 1).compiled
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "C++ compiler" in message


def test_states_reach_replay_at_once_on_a_cpu():
    late = LateResults()
    late.send("update", torch.ones(2, 3, 4), torch.tensor(1.0))
    ((item, states, flag),) = late.arrived()
    assert item == "update" and np.array_equal(states, np.ones((2, 3, 4))) and flag is True
    assert list(late.arrived(wait=True)) == []


@pytest.mark.parametrize("core", CORES)
def test_bfloat16_products_leave_everything_else_in_float32(core):
    """Pitfall 22: heads at their initialization decode to exactly 0 with short products too."""
    losses = {}
    for precision in ("float32", "bfloat16"):
        agent = make_agent({"dynamics.core": core, "precision": precision})
        heads = [agent.world_model.reward, agent.actor_critic.critic]
        with agent.autocast():
            for head in heads:
                features = torch.randn(4, agent.world_model.core.feature_dim)
                assert not head(features).mean().any()
                with torch.no_grad():
                    assert not two_hot_head(head, features).mean().any()
        awaken(agent)
        torch.manual_seed(1)
        terms, _, packed = agent.loss_terms(make_batch(agent)) if precision == "float32" else in_autocast(agent)
        assert packed.dtype == torch.float32
        assert {term.dtype for term in terms.values()} == {torch.float32}
        losses[precision] = {name: term.mean().item() for name, term in terms.items()}
        metrics, _ = agent.update(make_batch(agent))
        assert metrics["loss/total"].isfinite()
        assert {param.dtype for param in agent.parameters()} == {torch.float32}
    assert losses["bfloat16"] != losses["float32"]
    for name in ("reconstruction", "cont"):
        assert losses["bfloat16"][name] == pytest.approx(losses["float32"][name], rel=0.1)


def in_autocast(agent):
    with agent.autocast():
        return agent.loss_terms(make_batch(agent))


def test_a_batch_is_copied_in_place():
    agent = make_agent()
    first, second = make_batch(agent, seed=0), make_batch(agent, seed=1)
    copied = first.clone()
    copied.copy_(second)
    assert all(torch.equal(copied.obs[key], second.obs[key]) for key in second.obs)
    assert torch.equal(copied.reward, second.reward) and torch.equal(copied.context, second.context)
    assert not torch.equal(first.reward, second.reward), "the original is untouched"
