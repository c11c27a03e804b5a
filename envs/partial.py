"""Partial observation: some of what the environment tells is hidden, blurred or lost; `prepare` applies it."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from envs.errors import UserError
from envs.velocities import velocity_masks

VELOCITIES = "velocities"
"""The word that stands for every observation known to be a velocity."""

Named = dict[str, np.ndarray]


def partially_observed(
    env: gymnasium.Env,
    *,
    hide: Sequence[str] = (),
    blank: Sequence[str] = (),
    flicker: float = 0.0,
    obs_noise: float = 0.0,
) -> gymnasium.Env:
    """Wrap an environment with named observations in those of this module's wrappers that change anything.

    The noise comes first, so that what is blank is exactly 0. Raises UserError as the wrappers do.
    """
    if obs_noise:
        env = ObservationNoise(env, obs_noise)
    if hide or blank:
        env = HideKeys(env, hide, blank)
    return Flicker(env, flicker) if flicker else env


class HideKeys(gymnasium.ObservationWrapper):
    """Remove the observations named in `hide`, and replace those named in `blank` by zeros.

    A name is a key of the observations, or `velocities` for all that is known to be a velocity, be it part of a vector.
    Raises UserError for a name that there is not, for `velocities` where none is known, and when nothing is left.
    """

    def __init__(self, env: gymnasium.Env, hide: Sequence[str], blank: Sequence[str] = ()) -> None:
        super().__init__(env)
        boxes = _boxes(env)
        hidden, blanked = _named(env, hide), _named(env, blank)
        # An image is hidden and blanked as a whole, so that its rows can stand for its numbers.
        self._kept = {key: np.flatnonzero(~hidden[key]) for key in boxes if not hidden[key].all()}
        self._shown = {key: ~blanked[key][kept] for key, kept in self._kept.items()}
        if not any(shown.any() for shown in self._shown.values()):
            raise UserError(f"nothing left to observe: all of {', '.join(boxes)} would be hidden")
        self.observation_space = spaces.Dict(
            {key: _with_zeros(boxes[key], kept, ~self._shown[key]) for key, kept in self._kept.items()}
        )

    def observation(self, observation: Named) -> Named:
        named = {key: observation[key][kept] for key, kept in self._kept.items()}
        for key, value in named.items():
            value[~self._shown[key]] = 0
        return named


class _Random(gymnasium.ObservationWrapper):
    """Changes observations at random, but the same way whenever the episode's seed is the same."""

    STREAM = 0
    """Sets the random numbers of one wrapper apart from those of others, and of the environment."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self._random = np.random.default_rng()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            self._random = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(self.STREAM,)))
        return super().reset(seed=seed, options=options)


class ObservationNoise(_Random):
    """Add normal noise of standard deviation `sigma` to every number, and to images in units of their range 0 to 255.

    Raises UserError unless it is finite and >= 0.
    """

    STREAM = 1

    def __init__(self, env: gymnasium.Env, sigma: float) -> None:
        super().__init__(env)
        if not 0 <= sigma < np.inf:
            raise UserError(f"observation noise must be a finite number of at least 0, got {sigma}")
        self._sigma = sigma
        self.observation_space = spaces.Dict(
            {
                key: box if box.dtype == np.uint8 else spaces.Box(-np.inf, np.inf, box.shape, np.float32)
                for key, box in _boxes(env).items()
            }
        )

    def observation(self, observation: Named) -> Named:
        return {key: self._blurred(value) for key, value in observation.items()}

    def _blurred(self, value: np.ndarray) -> np.ndarray:
        noise = self._random.normal(0.0, self._sigma, value.shape)
        if value.dtype == np.uint8:
            return np.clip(np.rint(value + 255 * noise), 0, 255).astype(np.uint8)
        return (value + noise).astype(np.float32)


class Flicker(_Random):
    """Lose a whole observation with a probability, the first of an episode too: all its numbers are zeros then.

    Raises UserError unless the probability is at least 0 and below 1.
    """

    STREAM = 2

    def __init__(self, env: gymnasium.Env, probability: float) -> None:
        super().__init__(env)
        if not 0 <= probability < 1:
            raise UserError(f"flicker must be at least 0 and below 1, got {probability}")
        self._probability = probability
        self.observation_space = spaces.Dict(
            {key: _with_zeros(box, np.arange(box.shape[0]), np.True_) for key, box in _boxes(env).items()}
        )

    def observation(self, observation: Named) -> Named:
        lost = self._random.random() < self._probability
        return {key: np.zeros_like(value) for key, value in observation.items()} if lost else observation


def _boxes(env: gymnasium.Env) -> dict[str, spaces.Box]:
    assert isinstance(env.observation_space, spaces.Dict)
    return {key: box for key, box in env.observation_space.items() if isinstance(box, spaces.Box)}


def _named(env: gymnasium.Env, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Which numbers of each vector, and rows of each image, the names stand for: masks by key."""
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
            close = difflib.get_close_matches(name, [*masks, VELOCITIES], n=3)
            hint = f"did you mean {', '.join(close)}? " if close else ""
            raise UserError(f"no observation {name!r} to hide; {hint}there are {', '.join(masks)}")
        for key, mask in found.items():
            masks[key] |= mask
    return masks


def _with_zeros(box: spaces.Box, kept: np.ndarray, where: np.ndarray | np.bool_) -> spaces.Box:
    """The bounds of the numbers with the indices `kept`, of which those at the mask `where` may be zero, too."""
    low, high = box.low[kept], box.high[kept]
    if box.dtype != np.uint8:  # the bounds of images include 0
        low, high = np.where(where, np.minimum(low, 0), low), np.where(where, np.maximum(high, 0), high)
    return spaces.Box(low, high, dtype=box.dtype.type)
