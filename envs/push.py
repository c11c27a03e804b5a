"""A box that is pushed and sometimes stuck, with a known, bimodal distribution of the next observation."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from envs.interface import Observation, ResetResult, StepResult

MOVE_PROBABILITY = 0.7
"""Probability that a push moves the box."""
SIGMA = 0.1
"""Standard deviation of the noise of observations."""


class Push(gymnasium.Env):
    """Push a box along an infinite line; the reward is minus its distance from 0.

    Action a moves the box by `displacement(a)` with probability `move_probability`; otherwise it is stuck. The
    observation `position` is the true position plus Gaussian noise of standard deviation `sigma`; `info["position"]`
    is the true position. Episodes start uniformly in [-1, 1] and are truncated after `length` steps.
    """

    def __init__(self, length: int = 16, move_probability: float = MOVE_PROBABILITY, sigma: float = SIGMA) -> None:
        self._length, self._move_probability, self._sigma = length, move_probability, sigma
        self.observation_space = spaces.Dict({"position": spaces.Box(-np.inf, np.inf, (1,), np.float32)})
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self._position, self._step = 0.0, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> ResetResult:
        super().reset(seed=seed)
        self._position, self._step = float(self.np_random.uniform(-1.0, 1.0)), 0
        return self._observation(), {"position": self._position}

    def step(self, action: Any) -> StepResult:
        self._step += 1
        if self.np_random.random() < self._move_probability:
            self._position += float(displacement(action[0]))
        over = self._step >= self._length
        return self._observation(), -abs(self._position), False, over, {"position": self._position}

    def _observation(self) -> Observation:
        return {"position": np.array([self.np_random.normal(self._position, self._sigma)], np.float32)}


def displacement(action: Any) -> np.ndarray:
    """Displacement of a box that is not stuck by an action in [-1, 1]: 0.5 to 1 in its direction, 0.5 for action 0."""
    action = np.asarray(action, np.float64)
    distance: np.ndarray = np.where(action < 0, -1.0, 1.0) * (0.5 + 0.5 * np.abs(action))
    return distance


def next_observation_modes(
    position: Any, action: Any, move_probability: float = MOVE_PROBABILITY, sigma: float = SIGMA
) -> tuple[np.ndarray, np.ndarray, float]:
    """Distribution of the next observation given the true position: a mixture of two Gaussians.

    `position` and `action` have the same shape `[...]`. Returns the means `[..., 2]` and weights `[..., 2]` of the
    moved and the stuck box, in this order, and the standard deviation of both.
    """
    position = np.asarray(position, np.float64)
    means = np.stack([position + displacement(action), position], -1)
    return means, np.broadcast_to([move_probability, 1.0 - move_probability], means.shape), sigma


def predictive_log_density(
    observations: Any,
    actions: Any,
    move_probability: float = MOVE_PROBABILITY,
    sigma: float = SIGMA,
    components: int = 32,
) -> np.ndarray:
    """Log density of the best possible prediction without the true position: log p(o[t + 1] | o[0..t], a[0..t]).

    Takes the observed positions `[time]` of an episode from its reset on and its actions `[time - 1]`; returns nats
    per observation `[time - 1]`. Bayes' rule is exact: each history of moves is a component, for which the start
    position given the observations is a Gaussian truncated to [-1, 1]. Only the `components` most likely are kept.
    Raises ValueError where the numbers of observations and actions do not match.
    """
    seen = np.asarray(observations, np.float64).reshape(-1)
    pushes = displacement(actions).reshape(-1)
    with np.errstate(divide="ignore"):
        choices = np.log([move_probability, 1.0 - move_probability])
    # Per component: distance moved, mean of the start position, and log weight, the last two before truncation.
    travelled, start, weight, variance = np.zeros(1), seen[:1], -_log_inside(seen[:1], sigma), sigma**2
    densities = []
    for push, now in zip(pushes, seen[1:], strict=True):
        travelled = np.add.outer(travelled, [push, 0.0]).ravel()
        weight, start = np.add.outer(weight, choices).ravel(), start.repeat(2)
        surprise, spread = now - travelled - start, variance + sigma**2
        weight = weight - 0.5 * (surprise**2 / spread + math.log(2 * math.pi * spread))
        start, variance = start + surprise * variance / spread, variance * sigma**2 / spread
        joint = weight + _log_inside(start, math.sqrt(variance))
        densities.append(np.logaddexp.reduce(joint))
        kept = np.argsort(joint)[-components:]
        travelled, start, weight = travelled[kept], start[kept], weight[kept] - np.logaddexp.reduce(joint[kept])
    return np.array(densities)


def _log_inside(mean: np.ndarray, sigma: float) -> np.ndarray:
    """Log probability of [-1, 1] under N(mean, sigma^2), for means `[component]`."""
    scale = math.sqrt(2) * sigma
    inside = [math.erfc((abs(m) - 1.0) / scale) - math.erfc((abs(m) + 1.0) / scale) for m in mean]
    with np.errstate(divide="ignore"):
        log: np.ndarray = np.log(np.array(inside) / 2)
    return log
