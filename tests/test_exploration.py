"""Held random actions: how often, how long, which, and that they are what environments and replay get."""

import itertools

import numpy as np
import pytest
import torch
from tiny import CONTINUOUS, DISCRETE

from dreamer.experience.exploration import Exploration

ENVS, STEPS = 50, 2000
POLICY = {CONTINUOUS: torch.full((ENVS, 2), 7.0), DISCRETE: torch.full((ENVS, 3), 7.0)}
NEVER = torch.zeros(ENVS, dtype=torch.bool)


def explore(action, epsilon, longest, steps=STEPS, is_first=NEVER):
    """Actions taken `[step, env, action]`; the policy's are all sevens."""
    torch.manual_seed(0)
    exploration = Exploration(ENVS, action, epsilon, longest)
    return torch.stack([exploration(POLICY[action], is_first) for _ in range(steps)])


def bursts(taken):
    """Lengths of the bursts that are not cut off at either end: runs of one action that is not the policy's."""
    lengths = []
    for env in range(ENVS):
        rows = taken[:, env]
        edges = np.flatnonzero((rows[1:] != rows[:-1]).any(1)) + 1
        runs = itertools.pairwise(edges)
        lengths += [end - start for start, end in runs if (rows[start] != 7).any()]
    return np.array(lengths)


def test_without_epsilon_the_policy_acts_and_nothing_is_drawn():
    exploration = Exploration(ENVS, CONTINUOUS, 0.0, 20)
    before = torch.get_rng_state()
    assert exploration(POLICY[CONTINUOUS], NEVER) is POLICY[CONTINUOUS]
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("epsilon", "longest"), [(0.05, 20), (0.3, 3), (0.1, 1)])
def test_bursts_begin_with_probability_epsilon_and_all_lengths_are_as_likely(epsilon, longest):
    taken = explore(CONTINUOUS, epsilon, longest)
    lengths = bursts(taken)
    assert set(lengths) == set(range(1, longest + 1))
    assert lengths.mean() == pytest.approx((longest + 1) / 2, rel=0.05)
    free, held = (1 - epsilon) / epsilon, (longest + 1) / 2
    assert (taken != 7).all(-1).float().mean().item() == pytest.approx(held / (free + held), rel=0.05)


def test_continuous_actions_are_uniform_and_differ_between_environments_and_dimensions():
    taken = explore(CONTINUOUS, 1.0, 1)
    assert taken.min() >= -1 and taken.max() < 1
    assert taken.mean().abs() < 0.01 and taken.var().item() == pytest.approx(1 / 3, rel=0.02)
    assert abs(np.corrcoef(taken[..., 0].flatten(), taken[..., 1].flatten())[0, 1]) < 0.01
    assert len(taken[0].unique()) == 2 * ENVS


def test_discrete_actions_are_one_hot_and_every_choice_is_as_likely():
    taken = explore(DISCRETE, 1.0, 4)
    assert set(taken.unique().tolist()) == {0.0, 1.0} and (taken.sum(-1) == 1).all()
    np.testing.assert_allclose(taken.mean((0, 1)), [1 / 3] * 3, atol=0.02)


def test_a_burst_ends_with_its_episode():
    """Where every step begins an episode, every step is as random as the first."""
    taken = explore(CONTINUOUS, 0.1, 20, is_first=~NEVER)
    assert (taken != 7).all(-1).float().mean().item() == pytest.approx(0.1, rel=0.05)
    torch.manual_seed(0)
    exploration = Exploration(ENVS, CONTINUOUS, 1.0, 1000)
    first, second = (exploration(POLICY[CONTINUOUS], NEVER) for _ in range(2))
    some = torch.arange(ENVS) < 10
    third = exploration(POLICY[CONTINUOUS], some)
    held = exploration.left > 0
    assert torch.equal(first[held], second[held]) and torch.equal(second[held & ~some], third[held & ~some])
    assert (second[some] != third[some]).all()


def test_a_restored_exploration_goes_on():
    torch.manual_seed(0)
    one, other = (Exploration(ENVS, CONTINUOUS, 0.2, 9) for _ in range(2))
    for _ in range(20):
        one(POLICY[CONTINUOUS], NEVER)
    state, rng = one.state_dict(), torch.get_rng_state()
    expected = [one(POLICY[CONTINUOUS], NEVER) for _ in range(20)]
    other.load_state_dict(state)
    torch.set_rng_state(rng)
    for action in expected:
        assert torch.equal(other(POLICY[CONTINUOUS], NEVER), action)
