"""Images as observations: frames of an environment beside its numbers or in their place, at one size."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from PIL import Image

from envs.errors import UserError

KEY = "image"
"""The name of the frame among the observations."""
Size = tuple[int, int]
"""Height and width in pixels."""


class Pixels(gymnasium.ObservationWrapper):
    """Show the frame after every step as the uint8 observation `image` [height, width, 3], alone or with the others.

    An environment with a method `draw(height, width)` draws at that size; frames of others are resized. It wraps
    prepared observations, outside of the action repeat, so that nothing is drawn that nobody sees. Raises UserError
    where the environment draws no frames and where it has an observation `image` of its own.
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
            what = f"{frame.dtype} {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
            raise UserError(f"render() must return a uint8 array [height, width, 3] to be observed, got {what}")
        return frame


def resize(image: np.ndarray, size: Size) -> np.ndarray:
    """A uint8 image `[height, width, channel]` at another size, every pixel the mean of what it covers; a copy."""
    if image.shape[:2] == size:
        return image.copy()
    planes = [Image.fromarray(np.ascontiguousarray(image[..., i])) for i in range(image.shape[2])]
    return np.stack([np.asarray(plane.resize(size[::-1], Image.Resampling.BOX)) for plane in planes], -1)
