"""A box that is pushed and sometimes stuck: the distribution of the next observation is known, and has two modes."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

MOVE_PROBABILITY = 0.7
SIGMA = 0.1


class Push(gymnasium.Env):
    """Push a box along an endless line; the reward is minus its distance from 0.

    Action a moves the box by `displacement(a)` with probability `move_probability`, else it is stuck. The observation
    `position` is the true position plus normal noise of standard deviation `sigma`; the true one is in
    `info["position"]`. Episodes start uniformly in [-1, 1] and a time limit truncates them after `length` steps.
    """

    def __init__(self, length: int = 16, move_probability: float = MOVE_PROBABILITY, sigma: float = SIGMA) -> None:
        self._length, self._move_probability, self._sigma = length, move_probability, sigma
        self.observation_space = spaces.Dict({"position": spaces.Box(-np.inf, np.inf, (1,), np.float32)})
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self._position, self._step = 0.0, 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        super().reset(seed=seed)
        self._position, self._step = float(self.np_random.uniform(-1.0, 1.0)), 0
        return self._observation(), {"position": self._position}

    def step(self, action: Any) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        self._step += 1
        if self.np_random.random() < self._move_probability:
            self._position += float(displacement(action[0]))
        over = self._step >= self._length
        return self._observation(), -abs(self._position), False, over, {"position": self._position}

    def _observation(self) -> dict[str, np.ndarray]:
        return {"position": np.array([self.np_random.normal(self._position, self._sigma)], np.float32)}


def displacement(action: Any) -> np.ndarray:
    """How far an action in [-1, 1] moves a box that is not stuck: 0.5 to 1 either way, and 0.5 for action 0."""
    action = np.asarray(action, np.float64)
    return np.where(action < 0, -1.0, 1.0) * (0.5 + 0.5 * np.abs(action))


def next_observation_modes(
    position: Any, action: Any, move_probability: float = MOVE_PROBABILITY, sigma: float = SIGMA
) -> tuple[np.ndarray, np.ndarray, float]:
    """The distribution of the next observation where the true position is known: a mixture of two Gaussians.

    `position` and `action` have the same shape `[...]`. Returns means `[..., 2]` and weights `[..., 2]` of moved and
    stuck, in this order, and the standard deviation of both.
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
    """The best possible prediction without the true position: log p(o[t + 1] | o[0..t], a[0..t]) for each t.

    Takes the observed positions `[time]` of an episode from its reset on and its actions `[time - 1]`, in nats of one
    observation; returns `[time - 1]`. Bayes' rule is exact: each history of moved and stuck is a component, in which
    the start given the observations is a Gaussian cut to [-1, 1]. Only the `components` most likely ones are kept.
    Raises ValueError where the number of observations and actions does not fit.
    """
    seen = np.asarray(observations, np.float64).reshape(-1)
    pushes = displacement(actions).reshape(-1)
    with np.errstate(divide="ignore"):
        choices = np.log([move_probability, 1.0 - move_probability])
    # Per component: how far the box has come, the uncut mean of its start, and the log weight without the cut.
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
    """Log of the probability that N(mean, sigma^2) gives to [-1, 1], for means `[component]`."""
    scale = math.sqrt(2) * sigma
    inside = [math.erfc((abs(m) - 1.0) / scale) - math.erfc((abs(m) + 1.0) / scale) for m in mean]
    with np.errstate(divide="ignore"):
        return np.log(np.array(inside) / 2)
