"""Frames of an environment as observations, instead of or in addition to its own."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from PIL import Image

from envs.errors import UserError
from envs.settings import Size

KEY = "image"
"""Name of the frame among the observations."""


class Pixels(gymnasium.ObservationWrapper):
    """Observe the frame after every step as `image` (uint8, [height, width, 3]), alone or with the other observations.

    An environment with a method `draw(height, width)` draws at that size; frames of others are resized. This wrapper
    is outside of the action repeat, so that only observed frames are drawn. Raises UserError where the environment
    draws no frames and where it has an observation `image` of its own.
    """

    def __init__(self, env: gymnasium.Env, size: Size, keep: bool) -> None:
        super().__init__(env)
        assert isinstance(env.observation_space, spaces.Dict)
        kept = dict(env.observation_space.spaces) if keep else {}
        if KEY in kept:
            raise UserError(f"obs='both': the environment has an observation '{KEY}' of its own; use obs='state'")
        self._draw = getattr(env.unwrapped, "draw", None)
        if self._draw is None and env.render_mode != "rgb_array":
            raise UserError(
                "the environment draws no frames (render_mode 'rgb_array'), so it cannot be observed as pixels; "
                "use obs='state'"
            )
        self._size, self._keep = size, keep
        image = spaces.Box(0, 255, (*size, 3), np.uint8)
        self.observation_space = spaces.Dict(dict(sorted({**kept, KEY: image}.items())))

    def observation(self, observation: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        image = self._draw(*self._size) if self._draw is not None else resize(self._frame(), self._size)
        return dict(sorted({**observation, KEY: image}.items())) if self._keep else {KEY: image}

    def _frame(self) -> np.ndarray:
        frame: Any = self.env.render()
        if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            found = f"{frame.dtype} {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
            raise UserError(f"render() must return a uint8 array [height, width, 3] to be observed, got {found}")
        return frame


def resize(image: np.ndarray, size: Size) -> np.ndarray:
    """Copy of a uint8 image `[height, width, channel]` at another size; a pixel is the mean of the area it covers."""
    if image.shape[:2] == size:
        return image.copy()
    planes = [Image.fromarray(np.ascontiguousarray(image[..., i])) for i in range(image.shape[2])]
    return np.stack([np.asarray(plane.resize(size[::-1], Image.Resampling.BOX)) for plane in planes], -1)
