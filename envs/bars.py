"""Frames for environments that draw none: a bar chart of the observation."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from envs.spaces import observation_leaves

SIZE = 64
"""Height and width of a frame."""


class Bars(gymnasium.Wrapper):
    """Draw every observed value as a bar, upward from the middle if positive and downward if negative.

    The bar of a value x takes |x| / (1 + |x|) of half the height, so that different values look different.
    """

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self._leaves = observation_leaves(env.observation_space)
        self._values = np.zeros(1)
        self.metadata = {**env.metadata, "render_modes": ["rgb_array"], "render_fps": 5}

    @property
    def render_mode(self) -> str:  # type: ignore[override]
        """Name of Gymnasium's mode in which `render` returns frames as arrays."""
        return "rgb_array"

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        obs, info = self.env.reset(seed=seed, options=options)
        self._keep(obs)
        return obs, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, *rest = self.env.step(action)
        self._keep(obs)
        return obs, *rest

    def render(self) -> np.ndarray:
        lengths = np.round(SIZE // 2 * self._values / (1 + np.abs(self._values)))
        of_column = lengths[np.arange(SIZE) * len(lengths) // SIZE]
        above = SIZE // 2 - np.arange(SIZE)[:, None]  # pixels above the middle; the first row is the highest
        filled = ((above > 0) & (above <= of_column)) | ((above <= 0) & (above > of_column))
        frame = np.full((SIZE, SIZE, 3), 255, np.uint8)
        frame[filled] = (30, 60, 160)
        return frame

    def _keep(self, obs: Any) -> None:
        self._values = np.concatenate([leaf.extract(obs).ravel() for leaf in self._leaves.values()]).astype(np.float64)
