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
        self._image = spaces.Box(0, 255, (*size, 3), np.uint8)
        self.observation_space = spaces.Dict(dict(sorted({**kept, KEY: self._image}.items())))

    def observation(self, observation: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if self._draw is None:
            image = resize(self._frame(), self._size)
        else:
            image = fitted(self._draw(*self._size), self._image, "the frame of draw()")
        return dict(sorted({**observation, KEY: image}.items())) if self._keep else {KEY: image}

    def _frame(self) -> np.ndarray:
        frame: Any = self.env.render()
        if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            found = f"{frame.dtype} {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
            raise UserError(f"render() must return a uint8 array [height, width, 3] to be observed, got {found}")
        return frame


def fitted(value: Any, space: spaces.Space[Any], name: str) -> np.ndarray:
    """Array of the shape and dtype of a Box or Discrete; it may be the value itself.

    Raises ValueError where the shape is another, apart from axes of length 1, or where the dtype cannot hold a value.
    """
    shape, dtype = space.shape or (), space.dtype or np.dtype(object)
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} is no array of its space {space}: {error}") from None
    if array.dtype == dtype and array.shape == shape:
        return array
    if [size for size in array.shape if size != 1] != [size for size in shape if size != 1]:
        raise ValueError(f"{name} has shape {array.shape}, but its space has {shape}")
    array = array.reshape(shape)
    if array.dtype.kind in "fiub":
        with np.errstate(all="ignore"):
            cast = array.astype(dtype)
        if dtype.kind == "f" or np.array_equal(cast, array):
            return cast
    raise ValueError(
        f"{name} has a value of dtype {array.dtype} that does not fit its space {' '.join(str(space).split())}"
    )


def resize(image: np.ndarray, size: Size) -> np.ndarray:
    """Copy of a uint8 image `[height, width, channel]` at another size; a pixel is the mean of the area it covers."""
    if image.shape[:2] == size:
        return image.copy()
    planes = [Image.fromarray(np.ascontiguousarray(image[..., i])) for i in range(image.shape[2])]
    return np.stack([np.asarray(plane.resize(size[::-1], Image.Resampling.BOX)) for plane in planes], -1)
