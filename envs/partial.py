"""Partial observation: observations that are hidden, blanked, noisy or lost; `prepare` applies these wrappers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from envs.errors import UserError, did_you_mean
from envs.interface import Observation
from envs.settings import EnvSettings
from envs.velocities import velocity_masks

VELOCITIES = "velocities"
"""Name that stands for all observations that are known to be velocities."""


def partially_observed(env: gymnasium.Env, settings: EnvSettings) -> gymnasium.Env:
    """Wrap an environment with named observations in the wrappers of this module that its settings ask for.

    The noise comes first, so that blanked values are exactly 0. Raises UserError as the wrappers do.
    """
    if settings.obs_noise:
        env = ObservationNoise(env, settings.obs_noise)
    if settings.hide or settings.blank:
        env = HideKeys(env, settings.hide, settings.blank)
    return Flicker(env, settings.flicker) if settings.flicker else env


class HideKeys(gymnasium.ObservationWrapper):
    """Remove the observations named in `hide`, and replace those named in `blank` by zeros.

    A name is a key of the observations, or `velocities` for all values that are known to be velocities, also within a
    vector. Raises UserError for a name that does not exist, for `velocities` where none is known, and where nothing is
    left to observe.
    """

    def __init__(self, env: gymnasium.Env, hide: Sequence[str], blank: Sequence[str] = ()) -> None:
        super().__init__(env)
        boxes = _boxes(env)
        hidden, blanked = _named(env, hide), _named(env, blank)
        # An image is hidden and blanked as a whole, so a mask of its first axis is enough.
        self._kept = {key: np.flatnonzero(~hidden[key]) for key in boxes if not hidden[key].all()}
        self._shown = {key: ~blanked[key][kept] for key, kept in self._kept.items()}
        if not any(shown.any() for shown in self._shown.values()):
            raise UserError(f"nothing left to observe: all of {', '.join(boxes)} would be hidden")
        self.observation_space = spaces.Dict(
            {key: _with_zeros(boxes[key], kept, ~self._shown[key]) for key, kept in self._kept.items()}
        )

    def observation(self, observation: Observation) -> Observation:
        named = {key: observation[key][kept] for key, kept in self._kept.items()}
        for key, value in named.items():
            value[~self._shown[key]] = 0
        return named


class _Random(gymnasium.ObservationWrapper):
    """Change observations at random, reproducibly for each seed of an episode."""

    STREAM = 0
    """Key that makes the random stream of a wrapper independent of those of others and of the environment."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self._random = np.random.default_rng()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            self._random = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(self.STREAM,)))
        return super().reset(seed=seed, options=options)


class ObservationNoise(_Random):
    """Add Gaussian noise of standard deviation `sigma` to vectors and, in units of 255, to images.

    Discrete values have no noise: their one-hot vectors are targets of a cross-entropy. Raises UserError where all
    observations are discrete.
    """

    STREAM = 1

    def __init__(self, env: gymnasium.Env, sigma: float) -> None:
        super().__init__(env)
        if all(len(box.shape) == 2 for box in _boxes(env).values()):
            raise UserError(
                "obs_noise adds nothing to discrete values, and this task observes nothing else; use flicker"
            )
        self._sigma = sigma
        self.observation_space = spaces.Dict(
            {
                key: box if len(box.shape) > 1 else spaces.Box(-np.inf, np.inf, box.shape, np.float32)
                for key, box in _boxes(env).items()
            }
        )

    def observation(self, observation: Observation) -> Observation:
        return {key: self._noisy(value) for key, value in observation.items()}

    def _noisy(self, value: np.ndarray) -> np.ndarray:
        if value.ndim == 2:
            return value
        noise = self._random.normal(0.0, self._sigma, value.shape)
        if value.dtype == np.uint8:
            return np.clip(np.rint(value + 255 * noise), 0, 255).astype(np.uint8)
        return (value + noise).astype(np.float32)


class Flicker(_Random):
    """Replace a whole observation by zeros with a probability, the first of an episode included."""

    STREAM = 2

    def __init__(self, env: gymnasium.Env, probability: float) -> None:
        super().__init__(env)
        self._probability = probability
        self.observation_space = spaces.Dict(
            {key: _with_zeros(box, np.arange(box.shape[0]), np.True_) for key, box in _boxes(env).items()}
        )

    def observation(self, observation: Observation) -> Observation:
        lost = self._random.random() < self._probability
        return {key: np.zeros_like(value) for key, value in observation.items()} if lost else observation


def _boxes(env: gymnasium.Env) -> dict[str, spaces.Box]:
    assert isinstance(env.observation_space, spaces.Dict)
    return {key: box for key, box in env.observation_space.items() if isinstance(box, spaces.Box)}


def _named(env: gymnasium.Env, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Masks by key of the values that the names stand for; for an image, a mask of its first axis."""
    masks = {key: np.zeros(box.shape[0], bool) for key, box in _boxes(env).items()}
    for name in names:
        if name == VELOCITIES:
            sizes = {key: box.shape[0] for key, box in _boxes(env).items() if len(box.shape) == 1}
            found = velocity_masks(env.unwrapped, sizes)
            if not found:
                raise UserError(f"no observation is known to be a velocity; there are {', '.join(masks)}")
        elif name in masks:
            found = {name: np.ones_like(masks[name])}
        else:
            hint = did_you_mean(name, [*masks, VELOCITIES])
            raise UserError(f"no observation {name!r} to hide; {hint}there are {', '.join(masks)}")
        for key, mask in found.items():
            masks[key] |= mask
    return masks


def _with_zeros(box: spaces.Box, kept: np.ndarray, where: np.ndarray | np.bool_) -> spaces.Box:
    """Bounds of the values at the indices `kept`, extended to zero at the mask `where`."""
    low, high = box.low[kept], box.high[kept]
    if low.ndim == 1:  # the bounds of images and classes include 0
        low, high = np.where(where, np.minimum(low, 0), low), np.where(where, np.maximum(high, 0), high)
    return spaces.Box(low, high, dtype=box.dtype.type)
