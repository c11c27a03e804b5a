"""The pushed box: how it moves, and how well anyone can predict what is seen of it."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

import envs
from envs.push import Push, displacement, next_observation_modes, predictive_log_density


def episode(seed=0, length=16, actions=None):
    """True and observed positions `[time]`, actions `[time - 1]` and rewards of one episode with random actions."""
    env = Push(length=length)
    env.action_space.seed(seed)
    obs, info = env.reset(seed=seed)
    true, seen, taken, rewards, ends = [info["position"]], [obs["position"][0]], [], [], []
    for t in range(length):
        taken.append(env.action_space.sample() if actions is None else np.array([actions[t]], np.float32))
        obs, reward, terminated, truncated, info = env.step(taken[-1])
        true.append(info["position"])
        seen.append(obs["position"][0])
        rewards.append(reward)
        ends.append((terminated, truncated))
    assert ends == [(False, False)] * (length - 1) + [(False, True)]
    return np.array(true), np.array(seen, np.float64), np.array(taken, np.float64)[:, 0], np.array(rewards)


def test_every_action_pushes_at_least_half_a_step():
    actions = [-1.0, -0.5, -0.0, 0.0, 0.5, 1.0]
    assert displacement(actions).tolist() == [-1.0, -0.75, 0.5, 0.5, 0.75, 1.0]


def test_the_box_moves_by_the_displacement_or_not_at_all():
    moved = []
    for seed in range(200):
        true, _, actions, rewards = episode(seed)
        steps, pushes = np.diff(true), displacement(actions)
        moved.append(steps != 0)
        np.testing.assert_allclose(steps, pushes * moved[-1], atol=1e-12)
        assert rewards.tolist() == (-np.abs(true[1:])).tolist()
    assert np.mean(moved) == pytest.approx(0.7, abs=3 * np.sqrt(0.7 * 0.3 / 3200))


def test_starts_are_uniform_and_the_noise_is_normal():
    starts, noise = [], []
    for seed in range(2000):
        true, seen, *_ = episode(seed, length=1)
        starts.append(true[0])
        noise += list(seen - true)
    assert min(starts) >= -1 and max(starts) <= 1
    assert np.var(starts) == pytest.approx(1 / 3, rel=0.06)
    assert np.mean(noise) == pytest.approx(0, abs=0.005)
    assert np.std(noise) == pytest.approx(0.1, rel=0.05)
    assert np.mean(np.abs(noise) < 0.1) == pytest.approx(0.6827, abs=0.025)


@pytest.mark.parametrize("action", [-1.0, 0.2])
def test_next_observations_follow_their_two_modes(action):
    """A chi-square test of how often the next observation falls into each tenth of its distribution."""
    quantiles = []
    for seed in range(1000):
        true, seen, actions, _ = episode(seed, length=1, actions=[action])
        means, weights, sigma = next_observation_modes(true[:1], actions[:1])
        quantiles.append((weights[0] * [normal_cdf((seen[1] - mean) / sigma) for mean in means[0]]).sum())
    counts, _ = np.histogram(quantiles, bins=10, range=(0, 1))
    assert ((counts - 100) ** 2 / 100).sum() < 27.9  # exceeded once in a thousand


def normal_cdf(value):
    return 0.5 * math.erfc(-value / math.sqrt(2))


def test_modes_have_the_shape_of_the_positions():
    means, weights, sigma = next_observation_modes(np.array([[1.0, 2.0]]), np.array([[-1.0, 0.0]]), 0.6, 0.2)
    assert means.tolist() == [[[0.0, 1.0], [2.5, 2.0]]]
    assert weights.tolist() == [[[0.6, 0.4], [0.6, 0.4]]]
    assert sigma == 0.2


def integrated(seen, actions, move_probability, sigma):
    """The same prediction from the joint density of all that is seen, integrated over starts, summed over histories."""
    starts = np.linspace(-1, 1, 20_001)
    joint = []
    for t in range(len(seen)):
        total = np.zeros_like(starts)
        for moves in itertools.product([0, 1], repeat=t):
            true = starts + np.concatenate([[0.0], np.cumsum(displacement(actions[:t]) * moves)])[:, None]
            likelihood = np.exp(-0.5 * ((seen[: t + 1, None] - true) / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi))
            count = sum(moves)
            total += move_probability**count * (1 - move_probability) ** (t - count) * likelihood.prod(0)
        joint.append(np.log((total[1:] + total[:-1]).sum() / 4 * (starts[1] - starts[0])))
    return np.diff(joint)


@pytest.mark.parametrize(("move_probability", "sigma"), [(0.7, 0.1), (0.5, 0.3), (0.9, 0.03)])
def test_the_prediction_is_that_of_numerical_integration(move_probability, sigma):
    generator = np.random.default_rng(1)
    for start in (-1.0, 0.99, 0.2):  # at the ends of the interval of starts, the cut matters
        actions = generator.uniform(-1, 1, 5)
        moves = generator.random(5) < move_probability
        true = start + np.concatenate([[0.0], np.cumsum(displacement(actions) * moves)])
        seen = true + generator.normal(0, sigma, 6)
        expected = integrated(seen, actions, move_probability, sigma)
        np.testing.assert_allclose(
            predictive_log_density(seen, actions, move_probability, sigma, components=64), expected, atol=1e-5
        )


def test_few_components_are_enough():
    for seed in range(20):
        _, seen, actions, _ = episode(seed, length=12)
        everything = predictive_log_density(seen, actions, components=2**12)
        np.testing.assert_allclose(predictive_log_density(seen, actions), everything, atol=1e-6)


def test_nothing_predicts_better_than_the_true_position_and_the_prediction_comes_close():
    best, filtered, blind = [], [], []
    for seed in range(300):
        true, seen, actions, _ = episode(seed)
        best.append(mixture(seen[1:], *next_observation_modes(true[:-1], actions)))
        filtered.append(predictive_log_density(seen, actions))
        blind.append(mixture(seen[1:], *next_observation_modes(seen[:-1], actions, sigma=0.1 * np.sqrt(2))))
    assert filtered[0].shape == (16,)
    assert np.mean(best) > np.mean(filtered) > np.mean(blind) + 0.1
    assert np.mean(best) - np.mean(filtered) < 0.15
    entropy = 0.5 * np.log(2 * np.pi * np.e * 0.01) - 0.7 * np.log(0.7) - 0.3 * np.log(0.3)
    assert np.mean(best) == pytest.approx(-entropy, abs=0.05)


def mixture(value, means, weights, sigma):
    """Log density `[...]` of a Gaussian mixture `[..., mode]`."""
    density = np.exp(-0.5 * ((value[..., None] - means) / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi))
    return np.log((weights * density).sum(-1))


@pytest.mark.parametrize("move_probability", [0.0, 1.0])
def test_certain_outcomes_are_predicted(move_probability):
    actions = np.array([0.5, -0.5, 1.0])
    seen = 0.1 + np.concatenate([[0.0], np.cumsum(displacement(actions) * move_probability)])
    found = predictive_log_density(seen, actions, move_probability)
    spread = np.sqrt(0.01 * (1 + 1 / np.array([1.0, 2.0, 3.0])))
    np.testing.assert_allclose(found, -np.log(spread * np.sqrt(2 * np.pi)), atol=1e-9)


def test_observations_and_actions_must_fit():
    with pytest.raises(ValueError, match="longer"):
        predictive_log_density(np.zeros(4), np.zeros(2))


def test_it_is_a_task():
    env = envs.make("toy:push", seed=3)
    assert isinstance(env.unwrapped, Push)
    _, info = env.reset()
    assert env.step(np.array([1.0], np.float32))[1] in (-abs(info["position"]), -abs(info["position"] + 1.0))
