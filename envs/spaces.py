"""Conversion of the spaces of any supported environment to those of an agent: vectors, classes and images; actions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from envs.errors import UserError, did_you_mean
from envs.pixels import fitted, resize
from envs.settings import DEFAULTS, EnvSettings

SUPPORTED_OBSERVATIONS = "supported observations: Box, Discrete, and Dict of those"
SUPPORTED_ACTIONS = "supported actions: Box of floats, and Discrete"
UNBOUNDED = 1e9
"""Bounds of this magnitude count as none (MuJoCo writes 1e10), so nothing is scaled to them."""
FEW_VALUES = 32
"""Largest number of values of an integer that is encoded as classes; a Discrete always is."""


class Leaf(NamedTuple):
    """One entry of an observation."""

    path: tuple[str, ...]
    """Keys that lead to the entry."""
    native: Any
    """Its space in the environment: a Box or Discrete."""
    space: spaces.Box
    """Its space for the agent."""
    convert: Callable[[np.ndarray], np.ndarray]
    """Conversion of a native array to an element of that space; always a copy."""

    @property
    def is_plain(self) -> bool:
        """True for a vector whose values are those of the environment."""
        return self.convert is _read_vector

    def extract(self, observation: Any) -> np.ndarray:
        """Value of this entry in a native observation, converted; raises ValueError for one that does not fit."""
        for key in self.path:
            try:
                observation = observation[key]
            except (KeyError, TypeError, IndexError):
                raise ValueError(f"the observation has no {_name(self.path)!r}") from None
        return self.convert(fitted(observation, self.native, _called(self.path)))


def observation_leaves(space: spaces.Space[Any], settings: EnvSettings = DEFAULTS) -> dict[str, Leaf]:
    """Non-empty entries of an observation space by "/"-joined key, sorted; a lone Box or Discrete is "observation".

    The kind of each is that of `_kind`; images are resized to `image_size`. An entry that is not supported is left out
    where `hide` names it. Raises UserError for others that are not supported, and where there is nothing to observe.
    """
    leaves: dict[str, Leaf] = {}
    entries = list(_walk(space, ()))
    _require_names([_name(path) for path, _ in entries], settings)
    for path, inner in entries:
        key = _name(path)
        if key in settings.hide and not _supported(inner):  # nothing reads it
            continue
        if key in leaves:
            raise UserError(f"two observations have the name '{key}' after nested keys are joined with '/'; rename one")
        leaf = _leaf(path, inner, settings)
        if 0 not in leaf.native.shape:
            leaves[key] = leaf
    if not leaves:
        raise UserError(f"the observation space {space} has no values; {SUPPORTED_OBSERVATIONS}")
    return dict(sorted(leaves.items()))


def unsupported(space: spaces.Space[Any]) -> set[str]:
    """Names of the entries of an observation space that no agent can observe."""
    return {_name(path) for path, inner in _walk(space, ()) if not _supported(inner)}


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


def _name(path: tuple[str, ...]) -> str:
    return "/".join(path) or "observation"


def _called(path: tuple[str, ...]) -> str:
    return f"observation '{_name(path)}'" if path else "the observation"


def _supported(space: spaces.Space[Any]) -> bool:
    return isinstance(space, spaces.Discrete) or (isinstance(space, spaces.Box) and space.dtype.kind in "fiub")


def _require_names(keys: list[str], settings: EnvSettings) -> None:
    for setting in ("images", "vectors"):
        for name in getattr(settings, setting):
            if name not in keys:
                hint = did_you_mean(name, keys)
                raise UserError(f"{setting}: no observation {name!r}; {hint}there are {', '.join(keys)}")
    both = set(settings.images) & set(settings.vectors)
    if both:
        raise UserError(f"observation {min(both)!r} is named among images and among vectors; name it once")


def _leaf(path: tuple[str, ...], space: Any, settings: EnvSettings) -> Leaf:
    if not _supported(space):
        raise UserError(
            f"{_called(path)} has the space {space}, which is not supported; {SUPPORTED_OBSERVATIONS}"
            + (f"; --hide {_name(path)} leaves it out" if path else "")
        )
    kind = _kind(_name(path), space, settings)
    if kind == "image":
        return _image(path, space, settings)
    if kind == "classes" or isinstance(space, spaces.Discrete):
        return _classes(path, space, flat=kind == "vector")
    with np.errstate(over="ignore"):
        low, high = (np.asarray(bound, np.float32).reshape(-1) for bound in (space.low, space.high))
    return Leaf(path, space, spaces.Box(low, high), _read_vector)


def _read_vector(value: np.ndarray) -> np.ndarray:
    """A float32 vector; always a copy, because environments may reuse one buffer."""
    with np.errstate(over="ignore"):
        return np.array(value, np.float32).reshape(-1)


def _kind(key: str, space: Any, settings: EnvSettings) -> str:
    """Kind of an observation: "image", "classes" or "vector".

    Bytes from 0 to 255 with at least two axes are images; discrete values and integers of few values are classes; all
    others are vectors. The settings `images` and `vectors` overrule that. With the encoding "dtype", bytes with three
    axes are images, whatever their bounds, and all others vectors.
    """
    if key in settings.images:
        return "image"
    if key in settings.vectors:
        return "vector"
    if settings.encoding == "dtype":
        return "image" if space.dtype == np.uint8 and len(space.shape) == 3 else "vector"
    if isinstance(space, spaces.Discrete):
        return "classes"
    if (
        space.dtype == np.uint8
        and len(space.shape) in (2, 3, 4)
        and (space.low == 0).all()
        and (space.high == 255).all()
    ):
        return "image"
    integer = space.dtype.kind in "iub" and space.low.size
    return "classes" if integer and _values_of(space).max() <= FEW_VALUES else "vector"


def _values_of(space: spaces.Box) -> np.ndarray:
    """Number of values of each element of an integer Box."""
    return np.asarray(space.high, np.float64).reshape(-1) - np.asarray(space.low, np.float64).reshape(-1) + 1


def _classes(path: tuple[str, ...], space: Any, flat: bool) -> Leaf:
    """One-hot vectors `[element, class]`, or one vector of all if `flat`."""
    if isinstance(space, spaces.Discrete):
        low, counts = np.array([int(space.start)]), np.array([int(space.n)])
    else:
        low, counts = np.asarray(space.low, np.int64).reshape(-1), _values_of(space)
    shape = len(low), int(max(counts, default=0))
    places = np.arange(len(low))

    def convert(value: np.ndarray) -> np.ndarray:
        choice = value.astype(np.int64).reshape(-1) - low
        outside = (choice < 0) | (choice >= counts)
        if outside.any():
            raise ValueError(f"{_called(path)} has a value outside of its space {space}: {(choice + low)[outside][0]}")
        vectors = np.zeros(shape, np.float32)
        vectors[places, choice] = 1.0
        return vectors.reshape(-1) if flat else vectors

    return Leaf(path, space, spaces.Box(0.0, 1.0, (shape[0] * shape[1],) if flat else shape, np.float32), convert)


def _image(path: tuple[str, ...], space: Any, settings: EnvSettings) -> Leaf:
    """uint8 image `[height, width, channel]`; a grey one has one channel, and a stack those of all its frames."""
    finite = isinstance(space, spaces.Box) and space.is_bounded() and len(space.shape) in (2, 3, 4)
    if not finite or 0 in space.shape:
        raise UserError(
            f"{_called(path)} has the space {space}, which is no image; images are bounded and have the shape "
            "[height, width], [height, width, channel] or [frame, height, width, channel]"
        )
    low, high = np.asarray(space.low, np.float64), np.asarray(space.high, np.float64)
    scale = 255 / np.where(high > low, high - low, 1)
    bytes_already = space.dtype == np.uint8 and (settings.encoding == "dtype" or ((low == 0) & (high == 255)).all())

    def convert(value: np.ndarray) -> np.ndarray:
        if not bytes_already:
            scaled = np.rint((value - low) * scale)
            if not ((scaled >= 0) & (scaled <= 255)).all():  # nor NaN
                raise ValueError(f"{_called(path)} has a value outside of its space {space}")
            value = scaled.astype(np.uint8)
        return resize(_arranged(value), settings.image_size)

    channels = _arranged(np.empty(space.shape, np.uint8)).shape[2]
    return Leaf(path, space, spaces.Box(0, 255, (*settings.image_size, channels), np.uint8), convert)


def _arranged(image: np.ndarray) -> np.ndarray:
    """The same pixels as `[height, width, channel]`. A first axis that is the shortest of three holds the channels."""
    if image.ndim == 4:
        return np.concatenate([_arranged(frame) for frame in image], -1)
    if image.ndim == 2:
        return image[:, :, None]
    return np.moveaxis(image, 0, -1) if image.shape[0] < min(image.shape[1:]) else image


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
        return native.astype(dtype).reshape(*native.shape[:-1], *shape)  # also of several environments

    return decode
