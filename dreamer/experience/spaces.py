"""Sizes that an agent takes from an environment's spaces."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from jaxtyping import Bool, Float
from torch import Tensor

from dreamer.batch import ActionSpec, Shapes
from dreamer.errors import UserError

LONG = 1000
"""Values of a vector above which it may have been meant as an image."""


class Spec(NamedTuple):
    """Observation shapes and action space of an environment."""

    obs_shapes: Shapes
    """Shape of each observation, keys in alphabetical order."""
    action: ActionSpec
    """The action space."""

    def __str__(self) -> str:
        obs = ", ".join(f"{key} {list(shape)}" for key, shape in self.obs_shapes.items())
        return f"observations {obs} and {self.action.dim} {'actions' if self.action.discrete else 'action dimensions'}"


def long_vectors(spec: Spec) -> list[str]:
    """A line about each observation that is not an image and has more than `LONG` values."""
    kinds = {1: "a vector of {:,} values", 2: "{:,} values of {} classes"}
    long = {key: shape for key, shape in spec.obs_shapes.items() if len(shape) in kinds and math.prod(shape) > LONG}
    return [
        f"observation '{key}' is taken as {kinds[len(shape)].format(*shape)}; --env.images {key} takes it as an image"
        for key, shape in long.items()
    ]


def spec_of(obs_space: gymnasium.Space[Any], action_space: gymnasium.Space[Any]) -> Spec:
    """The spec of a prepared environment; raises `TypeError` for spaces that `envs.prepare` does not give."""
    if not isinstance(obs_space, spaces.Dict):
        raise TypeError(f"environments must be prepared with envs.make or envs.prepare; got observations {obs_space}")
    shapes = {key: tuple(map(int, space.shape)) for key, space in sorted(obs_space.items()) if space.shape}
    if isinstance(action_space, spaces.Discrete):
        return Spec(shapes, ActionSpec(int(action_space.n), discrete=True))
    if not action_space.shape:
        raise TypeError(f"unsupported action space {action_space}")
    return Spec(shapes, ActionSpec(int(action_space.shape[0]), discrete=False))


def require_spec(own: Spec, env: Any) -> None:
    """Raise `UserError` unless an agent of the spec `own` fits a vector environment."""
    found = spec_of(env.single_observation_space, env.single_action_space)
    if found.action != own.action or any(found.obs_shapes.get(key) != shape for key, shape in own.obs_shapes.items()):
        raise UserError(f"the agent was trained on {own}, but its environments now have {found}")


def observation_tensors(obs: Any, shapes: Shapes, axes: int = 1) -> tuple[dict[str, Tensor], tuple[int, ...]]:
    """Observations of an environment as tensors `[*leading, ...]` by key, and their leading axes, at most `axes`.

    A bare array belongs to the only key. Tensors stay tensors, with their gradient. Raises `UserError` for missing and
    unknown keys, for values that are not finite or of another shape or kind, and for keys that differ in their leading
    axes.
    """
    if not isinstance(obs, Mapping):
        obs = {next(iter(shapes)): obs}
    for problem, keys in (("lacks", set(shapes) - set(obs)), ("has an unknown", set(obs) - set(shapes))):
        if keys:
            names = ", ".join(sorted(map(str, keys)))
            raise UserError(f"observation {problem} {names}; the agent was trained on {dict(shapes)}")
    tensors = {key: _checked(key, obs[key], shape, axes) for key, shape in shapes.items()}
    leading = {key: tuple(value.shape[: value.ndim - len(shapes[key])]) for key, value in tensors.items()}
    if len(set(leading.values())) > 1:
        raise UserError(f"observations differ in their number of environments or steps: {leading}")
    return tensors, next(iter(leading.values()))


def _checked(key: str, value: Any, shape: tuple[int, ...], axes: int) -> Tensor:
    """An observation in the form that the networks take; raises `UserError` for another shape or kind."""
    image = len(shape) == 3
    array = _array(f"observation {key!r}", value)
    fits = array.shape[-len(shape) :] == shape and array.ndim <= len(shape) + axes and array.size
    if not fits or (array.dtype != np.uint8 if image else array.dtype.kind not in "fiub"):
        wanted = f"{('vector', 'one-hot array', 'uint8 image')[len(shape) - 1]} {list(shape)}"
        raise UserError(f"observation {key!r} is {array.dtype} {list(array.shape)}; the agent learned from a {wanted}")
    if image:
        return torch.as_tensor(value if isinstance(value, Tensor) else array)
    return _finite(f"observation {key!r}", value, array)


def action_tensor(action: Any, spec: ActionSpec, leading: tuple[int, ...]) -> Float[Tensor, "*leading action"]:
    """Action vectors of a policy. Class indices `[*leading]` become one-hot vectors, None becomes zeros, and a tensor
    keeps its gradient.

    Raises `UserError` for another shape, for values that are not finite, and for indices out of range.
    """
    if action is None:
        return torch.zeros(*leading, spec.dim)
    array = _array("action", action)
    if spec.discrete and array.shape == leading and array.dtype.kind in "iu":
        if array.size and not (array.min() >= 0 and array.max() < spec.dim):
            found = f"from {array.min()} to {array.max()}"
            raise UserError(f"action has indices {found}; they must be from 0 to {spec.dim - 1}")
        return F.one_hot(torch.as_tensor(array.astype(np.int64)), spec.dim).float()
    if array.shape != (*leading, spec.dim) or array.dtype.kind not in "fiub":
        indices = f", or indices {list(leading)}" if spec.discrete else ""
        wanted = f"{[*leading, spec.dim]}{indices}"
        raise UserError(f"action is {array.dtype} {list(array.shape)}; it must be {wanted}")
    return _finite("action", action, array)


def action_steps(actions: Any, spec: ActionSpec) -> int:
    """Length of sequences of action vectors or indices `[start, step, ...]`; raises `UserError` for other axes."""
    shape = _array("actions", actions).shape
    if len(shape) not in ((2, 3) if spec.discrete else (3,)):
        indices = ", or indices [start, step]" if spec.discrete else ""
        raise UserError(f"actions have shape {list(shape)}; they must be [start, step, {spec.dim}]{indices}")
    return shape[1]


def _array(name: str, value: Any) -> np.ndarray:
    try:
        return value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
    except (RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{name} is no array: {error}") from None


def _finite(name: str, value: Any, array: np.ndarray) -> Tensor:
    """A tensor of float32, or the caller's own where `value` is one; raises `UserError` for values not finite."""
    with np.errstate(over="ignore"):
        array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise UserError(f"{name} has values that are not finite in float32")
    return value.float() if isinstance(value, Tensor) else torch.as_tensor(array)


def episode_starts(is_first: Any, leading: tuple[int, ...]) -> Bool[Tensor, "*leading"]:
    """One flag for every environment `[env]`, or for every step of sequences `[batch, time]`.

    A single truth value counts for each environment, and for the first step of each sequence. Raises `UserError` for
    anything else.
    """
    flags = _array("is_first", is_first)
    if flags.shape not in ((), leading) or not np.isin(flags, (0, 1)).all():
        places = f"of {leading[0]} environments" if len(leading) == 1 else f"step of sequences {list(leading)}"
        raise UserError(f"is_first must be True or False, or one of them for each {places}")
    if flags.shape == leading:
        return torch.tensor(flags.astype(bool))
    starts = torch.zeros(leading, dtype=torch.bool)
    starts[(slice(None), 0)[: len(leading)]] = bool(flags)
    return starts
