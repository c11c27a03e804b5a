"""Pictures of environments that have no picture of their own: every observed number is a bar."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from envs.spaces import observation_leaves


class Bars(gymnasium.Wrapper):
    """Draw the observation as bars side by side, up from the middle where a number is positive, down where negative.

    A number x is |x| / (1 + |x|) of half the height long, so that different numbers look different. An environment that
    draws itself has no need of this.
    """

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self._leaves = observation_leaves(env.observation_space)
        self._numbers = np.zeros(1)
        self.metadata = {**env.metadata, "render_modes": ["rgb_array"], "render_fps": 5}

    @property
    def render_mode(self) -> str:  # type: ignore[override]
        """Frames are returned, as arrays."""
        return "rgb_array"

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        obs, info = self.env.reset(seed=seed, options=options)
        self._remember(obs)
        return obs, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, *rest = self.env.step(action)
        self._remember(obs)
        return obs, *rest

    def render(self) -> np.ndarray:
        size = 64
        lengths = np.round(size // 2 * self._numbers / (1 + np.abs(self._numbers)))
        of_column = lengths[np.arange(size) * len(lengths) // size]
        above = size // 2 - np.arange(size)[:, None]  # rows above the middle, the first row the highest
        filled = ((above > 0) & (above <= of_column)) | ((above <= 0) & (above > of_column))
        frame = np.full((size, size, 3), 255, np.uint8)
        frame[filled] = (30, 60, 160)
        return frame

    def _remember(self, obs: Any) -> None:
        values = []
        for leaf in self._leaves.values():
            value = obs
            for name in leaf.path:
                value = value[name]
            values.append(leaf.read(value))
        self._numbers = np.concatenate(values).astype(np.float64)
