"""Conversion of the spaces of any supported environment to those of an agent: named vectors and images, one action."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from envs.errors import UserError
from envs.pixels import resize
from envs.settings import Size

SUPPORTED_OBSERVATIONS = "supported observations: Box, Discrete, and Dict of those"
SUPPORTED_ACTIONS = "supported actions: Box of floats, and Discrete"
UNBOUNDED = 1e9
"""Bounds of this magnitude count as none (MuJoCo writes 1e10), so nothing is scaled to them."""


class Leaf(NamedTuple):
    """One entry of an observation."""

    path: tuple[str, ...]
    """Keys that lead to the entry."""
    space: spaces.Box
    """Its space for the agent."""
    read: Callable[[Any], np.ndarray]
    """Conversion of the native value to an element of that space; always a copy."""

    def extract(self, observation: Any) -> np.ndarray:
        """Value of this entry in a native observation, converted."""
        for key in self.path:
            observation = observation[key]
        return self.read(observation)


def observation_leaves(space: spaces.Space[Any], image_size: Size = (64, 64)) -> dict[str, Leaf]:
    """Non-empty entries of an observation space by "/"-joined key, sorted; a lone Box or Discrete is "observation".

    A uint8 Box with three axes is an image, which is resized to `image_size`; all others become float32 vectors.
    Raises UserError for spaces that are not supported, and where there is nothing to observe.
    """
    leaves: dict[str, Leaf] = {}
    for path, leaf_space in _walk(space, ()):
        leaf = _leaf(path, leaf_space, image_size)
        key = "/".join(path) or "observation"
        if key in leaves:
            raise UserError(f"two observations have the name '{key}' after nested keys are joined with '/'; rename one")
        if leaf.space.shape != (0,):
            leaves[key] = leaf
    if not leaves:
        raise UserError(f"the observation space {space} has no values; {SUPPORTED_OBSERVATIONS}")
    return dict(sorted(leaves.items()))


def action_codec(space: spaces.Space[Any]) -> tuple[spaces.Box | spaces.Discrete, Callable[[Any], Any]]:
    """Normalised action space, Box(-1, 1, [n]) or Discrete(n) from 0, and the map from its actions to native ones.

    Raises UserError for action spaces that are not supported.
    """
    if isinstance(space, spaces.Discrete):
        start, kind = int(space.start), space.dtype.type
        return spaces.Discrete(int(space.n)), lambda action: kind(int(action) + start)
    if not isinstance(space, spaces.Box) or space.dtype.kind != "f" or space.low.size == 0:
        raise UserError(f"the action space {space} is not supported; {SUPPORTED_ACTIONS}")
    return spaces.Box(-1.0, 1.0, (space.low.size,), np.float32), _box_decoder(space)


def _walk(space: spaces.Space[Any], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], spaces.Space[Any]]]:
    if isinstance(space, spaces.Dict):
        for key, inner in space.spaces.items():
            yield from _walk(inner, (*path, str(key)))
    else:
        yield path, space


def _leaf(path: tuple[str, ...], space: spaces.Space[Any], image_size: Size) -> Leaf:
    where = f"observation '{'/'.join(path)}'" if path else "the observation"
    if isinstance(space, spaces.Discrete):
        count, start = int(space.n), int(space.start)
        return Leaf(path, spaces.Box(0.0, 1.0, (count,), np.float32), lambda value: _one_hot(int(value) - start, count))
    if not isinstance(space, spaces.Box) or space.dtype.kind not in "fiub":
        raise UserError(f"{where} has the space {space}, which is not supported; {SUPPORTED_OBSERVATIONS}")
    if space.dtype == np.uint8 and len(space.shape) == 3:
        if space.shape[2] > min(space.shape[:2]):
            raise UserError(f"{where} is an image of shape {space.shape}; images must be [height, width, channels]")
        image = spaces.Box(0, 255, (*image_size, space.shape[2]), np.uint8)
        return Leaf(path, image, lambda value: resize(np.asarray(value), image_size))
    with np.errstate(over="ignore"):
        low, high = (np.asarray(bound, np.float32).reshape(-1) for bound in (space.low, space.high))
    return Leaf(path, spaces.Box(low, high, dtype=np.float32), _read_vector)


def _read_vector(value: Any) -> np.ndarray:
    """A float32 vector; always a copy, because environments may reuse one buffer."""
    return np.array(value, dtype=np.float32).reshape(-1)


def _one_hot(choice: int, count: int) -> np.ndarray:
    vector = np.zeros(count, np.float32)
    vector[choice] = 1.0
    return vector


def _box_decoder(space: spaces.Box) -> Callable[[Any], np.ndarray]:
    low, high = (np.asarray(bound, np.float64).reshape(-1) for bound in (space.low, space.high))
    bounded = (np.abs(low) < UNBOUNDED) & (np.abs(high) < UNBOUNDED)
    scale, offset = np.ones_like(low), np.zeros_like(low)
    scale[bounded] = (high[bounded] - low[bounded]) / 2
    offset[bounded] = (high[bounded] + low[bounded]) / 2
    shape, dtype = space.shape, space.dtype

    def decode(action: Any) -> np.ndarray:
        # np.clip takes several times as long as these two calls on short vectors.
        normalised = np.minimum(np.maximum(np.asarray(action, np.float64), -1.0), 1.0)
        native = np.minimum(np.maximum(normalised * scale + offset, low), high)
        return native.astype(dtype).reshape(shape)

    return decode
