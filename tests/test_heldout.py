"""What evaluation says about the model and the critic: exact where the answer is known, and never felt elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from running import tiny_config
from tiny import CORES, mode_latents

import envs
from dreamer.agent import Agent
from dreamer.experience.spaces import spec_of
from dreamer.training import heldout
from dreamer.training.evaluate import Evaluator, summarize
from envs import EVAL_INDEX
from envs.toy import Copy

DISCOUNT = 1 - 1 / 333


class Wage(Copy):
    """Pays 2 for every step; episodes last 7 or 12 steps, and the short ones end in a terminal state."""

    def __init__(self, terminal):
        super().__init__(length=12)
        self._terminal = terminal

    def reset(self, *, seed=None, options=None):
        answer = super().reset(seed=seed)
        self.short = self.np_random.random() < 0.5
        return answer

    def step(self, action):
        obs, _, _, truncated, info = super().step(action)
        ended = self.short and self._step >= 7
        return obs, 2.0, ended and self._terminal, truncated or (ended and not self._terminal), info


def evaluate(env, agent=None, episodes=8, mode="sample", changes=None):
    make = lambda index: envs.prepare(env(), seed=0, index=index)  # noqa: E731
    if agent is None:
        torch.manual_seed(0)
        probe = make(0)
        agent = Agent(tiny_config(**changes or {}).agent, *spec_of(probe.observation_space, probe.action_space))
    evaluator = Evaluator(make, episodes, seed=0)
    try:
        return evaluator.run(agent, mode), agent
    finally:
        evaluator.close()


class Certain:
    """A distribution with one value."""

    def __init__(self, value):
        self.value = value

    def mean(self):
        return self.value

    def cross_entropy(self, *targets):
        pytest.fail("held-out errors train nothing")

    def __getitem__(self, index):
        return Certain(self.value[index])


def with_value(agent, value):
    agent.actor_critic.critic.forward = lambda features: Certain(torch.full(features.shape[:-1], value))
    return agent


@pytest.mark.parametrize("core", CORES)
def test_an_agent_that_computes_in_bfloat16_is_evaluated_in_full_precision(core):
    changes = {"agent.precision": "bfloat16", "agent.dynamics.core": core}
    evaluation, agent = evaluate(lambda: Wage(False), changes=changes)
    assert np.isfinite(evaluation.held_out["eval/model_error"]) and np.isfinite(evaluation.held_out["eval/value_bias"])
    obs, _ = envs.prepare(Wage(False), seed=0, index=0).reset()
    _, carry = agent.act(obs, True)
    assert {value.dtype for value in vars(carry.state).values()} == {torch.float32}


@pytest.mark.parametrize("bias", [-30.0, 0.0, 12.5])
def test_a_constant_bias_is_measured_exactly_though_time_limits_hide_part_of_it(bias):
    """A wage of 2 for ever is worth 2 / (1 - discount)."""
    agent = with_value(evaluate(lambda: Wage(False))[1], 2 / (1 - DISCOUNT) + bias)
    result, _ = evaluate(lambda: Wage(False), agent)
    assert set(result.lengths) == {7, 12}
    assert result.held_out["eval/value_bias"] == pytest.approx(bias, abs=1e-2)
    assert result.held_out["eval/discounted_return"] == pytest.approx(2 / (1 - DISCOUNT), rel=1e-5)


def test_a_terminal_state_is_worth_nothing():
    agent = with_value(evaluate(lambda: Wage(True))[1], 5.0)
    result, _ = evaluate(lambda: Wage(True), agent)
    gaps, decided, returns = 0.0, 0.0, []
    for length in result.lengths:
        for step in range(0, length, heldout.EVERY):
            left = int(length) - step
            wages = sum(2 * DISCOUNT**i for i in range(left))
            followed = wages if length == 7 else wages + DISCOUNT**left * 5.0
            gaps, decided = gaps + 5.0 - followed, decided + (1 if length == 7 else 1 - DISCOUNT**left)
            returns.append(wages)
    assert result.held_out["eval/value_bias"] == pytest.approx(gaps / decided, rel=1e-5)
    assert result.held_out["eval/discounted_return"] == pytest.approx(sum(returns) / decided, rel=1e-5)


def test_the_model_error_is_that_of_the_prior_one_step_ahead(monkeypatch):
    """Against a second filter, step by step, with the actions that the environments were given."""
    monkeypatch.setattr(heldout, "EVERY", 1)
    with mode_latents():
        result, agent = evaluate(Copy, episodes=1)
        model, errors = agent.world_model, []
        env = envs.prepare(Copy(), seed=0, index=EVAL_INDEX)
        obs, _ = env.reset()
        carry, ended = None, False
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(0)
            while not ended:
                action, carry = agent.act({k: v[None] for k, v in obs.items()}, carry is None, carry)
                predicted = model.core.imagine_step(carry.state, carry.action)
                obs, _, terminated, truncated, _ = env.step(action[0])
                ended = terminated or truncated
                decoded = model.objective.decoder.loss(
                    model.core.features(predicted), {k: torch.as_tensor(v[None]) for k, v in obs.items()}
                )
                errors.append(sum(value.item() for value in decoded.values()))
    assert len(errors) == 32 and result.held_out["eval/model_error"] == pytest.approx(np.mean(errors), rel=1e-4)


def test_looking_changes_no_episode(monkeypatch):
    seen, agent = evaluate(Copy)
    assert seen.held_out.keys() == {"eval/model_error", "eval/value_bias", "eval/discounted_return"}
    assert summarize(seen, seen).items() >= seen.held_out.items()
    monkeypatch.setattr(heldout.HeldOut, "chosen", lambda *_: None)
    monkeypatch.setattr(heldout.HeldOut, "arrived", lambda *_: None)
    monkeypatch.setattr(heldout.HeldOut, "metrics", lambda *_: {})
    assert (evaluate(Copy, agent)[0].returns == seen.returns).all()
    assert evaluate(Copy, agent, mode="mode")[0].held_out == {}


def test_without_a_decoder_there_is_no_model_error():
    agent = evaluate(Copy, changes={"agent.world_model.representation.objective": "r2"})[1]
    assert evaluate(Copy, agent)[0].held_out.keys() == {"eval/value_bias", "eval/discounted_return"}
