"""The agent's methods for research, on every core, from state and from pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pytest
import torch
from tiny import CONTINUOUS, DISCRETE, OBS, PIXELS, TINY_RSSM, awaken, make_agent, make_batch, unchecked

from dreamer.agent import Agent
from dreamer.batch import Batch
from dreamer.dynamics import CoreName, DynamicsConfig
from dreamer.dynamics.core import DynamicsCore
from dreamer.errors import UserError
from dreamer.nn.struct import Struct

SIZES = {
    f"dynamics.{core}.{name}": value
    for core in get_args(CoreName)
    for name, value in (TINY_RSSM | {"components": 2}).items()
    if hasattr(getattr(DynamicsConfig(), core), name)
}
CASES = [(core, kind) for core in get_args(CoreName) for kind in ("state", "pixels", "discrete")]


def agent_for(core: str, kind: str = "state", **changes: Any) -> Agent:
    obs = {**OBS, **PIXELS} if kind == "pixels" else OBS
    agent = make_agent(SIZES | {"dynamics.core": core} | changes, DISCRETE if kind == "discrete" else CONTINUOUS, obs)
    awaken(agent)
    return agent.eval()


@pytest.fixture(params=CASES, ids=["-".join(case) for case in CASES])
def agent(request: pytest.FixtureRequest) -> Agent:
    return agent_for(*request.param)


def same(first: Struct, second: Struct) -> None:
    assert type(first) is type(second)
    for name, value in vars(first).items():
        torch.testing.assert_close(value, vars(second)[name], rtol=1e-5, atol=1e-5)


def episodes(agent: Agent) -> Batch:
    """Sequences that begin with the first step of an episode."""
    is_first = torch.zeros(3, 5, dtype=torch.bool)
    is_first[:, 0] = is_first[:2, 2] = True
    core = agent.world_model.core
    return make_batch(agent, is_first=is_first, context=core.pack(core.initial_state(3)))


def filtered(agent: Agent, batch: Batch) -> Struct:
    torch.manual_seed(1)
    return agent.observe(batch.obs, batch.prev_action, batch.is_first)


def test_sequences_are_filtered_as_in_training_and_step_by_step(agent: Agent) -> None:
    batch = episodes(agent)
    states = filtered(agent, batch)
    torch.manual_seed(1)
    with torch.no_grad():
        same(states, agent.world_model.observe(batch))
    torch.manual_seed(1)
    state, steps = None, []
    for t in range(5):
        obs = {key: value[:, t].numpy() for key, value in batch.obs.items()}
        action, is_first = batch.prev_action[:, t].numpy(), batch.is_first[:, t].numpy()
        indices = agent.action.discrete and not is_first.any()
        state = agent.observe(obs, (action.argmax(-1) if indices else action) if t else None, is_first, state)
        steps.append(state)
    same(type(states).stack(steps, 1), states)


def test_imagination_is_that_of_training_and_does_not_see_observations(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = filtered(agent, episodes(agent))[:, -1]
    torch.manual_seed(2)
    expected = agent.imagine_trajectory(start)
    monkeypatch.setattr(type(agent.world_model.core), "observe_step", None)
    monkeypatch.setattr(DynamicsCore, "observe", None)
    monkeypatch.setattr(agent.world_model, "encoder", torch.nn.Identity())
    torch.manual_seed(2)
    found = agent.imagine(start)
    assert found.rewards.shape == (3, 4) and not found.rewards.requires_grad
    for ours, theirs in (
        (found.features, expected.features),
        (found.actions, expected.action),
        (found.rewards, expected.reward),
        (found.continues, expected.discount),
    ):
        assert torch.equal(ours, theirs)
    same(found.states[:, 0], start)
    assert torch.equal(found.values, agent.value(found.states))
    decoded = found.observations()
    assert {key: value.shape for key, value in decoded.items()} == {k: (3, 4, *s) for k, s in agent.obs_shapes.items()}
    assert all(torch.equal(value, agent.decode(found.states)[key]) for key, value in decoded.items())


def test_given_actions_are_followed(agent: Agent) -> None:
    start = filtered(agent, episodes(agent))[:, -1]
    actions = make_batch(agent, time=2, seed=3).prev_action
    torch.manual_seed(0)
    found = agent.imagine(start, actions=actions)
    assert found.rewards.shape == (3, 3) and torch.equal(found.actions, actions)
    torch.manual_seed(0)
    core = agent.world_model.core
    with torch.no_grad():
        state = core.imagine_step(core.imagine_step(start, actions[:, 0]), actions[:, 1])
    same(found.states[:, 2], state)
    if agent.action.discrete:
        torch.manual_seed(0)
        assert torch.equal(agent.imagine(start, 2, actions.argmax(-1)).features, found.features)


def test_gradients_flow_only_when_asked(agent: Agent) -> None:
    obs = {key: np.ones(shape, np.uint8 if len(shape) == 3 else float) for key, shape in agent.obs_shapes.items()}
    _, carry = agent.act(obs)
    assert not agent.imagine(carry, 2).values.requires_grad
    actions = torch.full((1, 2, agent.action.dim), 0.1, requires_grad=True)
    start = agent.observe(obs).map(lambda x: x.requires_grad_())
    for state in (carry, start):  # `act` returns tensors of inference mode
        found = agent.imagine(state, 2, actions, gradients=True)
        for output in (found.rewards, found.continues, found.values, *found.observations().values()):
            (gradient,) = torch.autograd.grad(output[:, -1].sum(), actions, retain_graph=True)
            assert gradient.isfinite().all() and gradient.any()
    gradients = torch.autograd.grad(found.values.sum(), list(vars(start).values()), allow_unused=True)
    assert any(gradient is not None and gradient.any() for gradient in gradients)
    for ask in (
        agent.value,
        lambda *args, **asked: agent.policy(*args, **asked).entropy(),
        lambda *args, **asked: agent.decode(*args, **asked)["velocity"],
    ):
        assert not ask(start).requires_grad and ask(start, gradients=True).requires_grad


def test_observations_can_have_gradients() -> None:
    agent = agent_for("rssm", **{"dynamics.latent": "gaussian"})
    obs = {key: torch.ones(2, 3, *shape, requires_grad=True) for key, shape in OBS.items()}
    states = agent.observe(obs, np.zeros((2, 3, 2)), gradients=True)
    (gradient,) = torch.autograd.grad(agent.value(states[:, -1], gradients=True).sum(), obs["position"])
    assert gradient[:, 0].abs().sum() > 0 and agent.encode(obs, gradients=True).requires_grad
    assert not agent.encode(obs).requires_grad and agent.encode(obs).shape == (2, 3, 8)


def test_value_and_policy_are_those_of_the_networks() -> None:
    agent = agent_for("rssm")
    states = filtered(agent, episodes(agent))
    features = agent.world_model.core.features(states)
    with torch.no_grad():
        assert torch.equal(agent.value(states), agent.actor_critic.critic(features).mean())
        assert torch.equal(agent.policy(states).mode(), agent.actor_critic.policy(sample=False)(features))
    mode = agent.imagine(states[:, 0], 2, mode="mode")
    assert torch.equal(mode.actions, agent.policy(mode.states).mode()[:, :2])


def test_results_show_their_shapes_and_no_numbers() -> None:
    agent = agent_for("rssm")
    found = agent.imagine(agent.world_model.core.initial_state(3), 2)
    size = agent.world_model.core.feature_dim
    state = "RSSMState(deter=[3, 3, 16], stoch=[3, 3, 12], params=[3, 3, 12])"
    head = f"Imagination(states={state}, features=[3, 3, {size}], actions=[3, 2, 2], "
    assert repr(found) == f"{head}rewards=[3, 3], continues=[3, 3], values=[3, 3])"


def test_one_true_starts_every_sequence_at_its_first_step() -> None:
    agent = agent_for("rssm")
    batch = make_batch(agent)
    before = filtered(agent, batch)[:, -1]
    torch.manual_seed(1)
    states = agent.observe(batch.obs, batch.prev_action, True, before)
    torch.manual_seed(1)
    same(states, agent.observe(batch.obs, batch.prev_action))
    torch.manual_seed(1)
    following = agent.observe(batch.obs, batch.prev_action, False, before)
    assert not torch.equal(states.deter, following.deter)


WRONG: dict[str, tuple[Callable[[Agent, Struct], Any], str]] = {
    "horizon 0": (lambda agent, state: agent.imagine(state, 0), "horizon must be a whole number of at least 1, got 0"),
    "horizon 1.5": (lambda agent, state: agent.imagine(state, 1.5), "horizon must be a whole number"),
    "no actions": (lambda agent, state: agent.imagine(state, actions=np.zeros((3, 0, 2))), "at least 1, got 0"),
    "actions of one step": (
        lambda agent, state: agent.imagine(state, 4, np.zeros((3, 2))),
        r"action is float64 \[3, 2\]; it must be \[3, 4, 2\]",
    ),
    "actions without a start": (
        lambda agent, state: agent.imagine(state, actions=np.zeros((4, 2))),
        r"actions have shape \[4, 2\]; they must be \[start, step, 2\]$",
    ),
    "ragged actions": (
        lambda agent, state: agent.imagine(state, actions=[[[0.0]], [[0.0, 1.0]]]),
        "actions is no array",
    ),
    "more actions": (lambda agent, state: agent.imagine(state, 4, np.zeros((3, 5, 2))), r"it must be \[3, 4, 2\]"),
    "actions not finite": (lambda agent, state: agent.imagine(state, 1, np.full((3, 1, 2), np.nan)), "not finite"),
    "sequences of states": (
        lambda agent, state: agent.imagine(type(state).stack([state, state], 1)),
        r"one leading axis, got \[3, 2\]; index or flatten",
    ),
    "mode": (lambda agent, state: agent.imagine(state, mode="best"), "mode must be one of sample, mode"),
    "another agent's state": (lambda agent, state: agent_for("ssm").value(state), "state is not one of this agent's"),
    "no state": (lambda agent, state: agent.value(None), "state is not one of this agent's"),
    "two environments": (
        lambda agent, state: agent.observe({k: np.zeros((2, *s)) for k, s in OBS.items()}, state=state),
        r"state has leading axes \[3\]; the observations need \[2\]",
    ),
    "three axes": (
        lambda agent, state: agent.encode({k: np.zeros((2, 2, 2, *s)) for k, s in OBS.items()}),
        "learned from a vector",
    ),
    "is_first of other steps": (
        lambda agent, state: agent.observe({k: np.zeros((2, 3, *s)) for k, s in OBS.items()}, is_first=np.zeros(3)),
        r"for each step of sequences \[2, 3\]",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_arguments_are_one_line(wrong: str) -> None:
    agent = agent_for("rssm")
    call, message = WRONG[wrong]
    with unchecked(), pytest.raises(UserError, match=message):
        call(agent, agent.world_model.core.initial_state(3))


def test_indices_out_of_range_and_a_missing_decoder_are_refused() -> None:
    agent = agent_for("rssm", "discrete", **{"world_model.representation.objective": "r2"})
    start = agent.world_model.core.initial_state(1)
    with pytest.raises(UserError, match=r"indices from 0 to 3; they must be from 0 to 2"):
        agent.imagine(start, 2, [[0, 3]])
    with pytest.raises(UserError, match=r"must be \[1, 2, 3\], or indices \[1, 2\]"):
        agent.imagine(start, 2, [0, 1])
    with pytest.raises(UserError, match=r"shape \[2\]; they must be \[start, step, 3\], or indices \[start, step\]"):
        agent.imagine(start, actions=[0, 1])
    rollouts = agent.imagine(start, 2)
    for decode in (rollouts.observations, lambda: agent.decode(start)):
        with pytest.raises(UserError, match="--objective r2, which has no decoder"):
            decode()
