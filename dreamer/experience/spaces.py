"""Sizes that an agent takes from an environment's spaces."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Bool
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


def observation_tensors(obs: Any, shapes: Shapes) -> tuple[dict[str, Tensor], bool]:
    """Observations of an environment as tensors `[env, ...]` by key, and True where they had no environment axis.

    A bare array belongs to the only key. Raises `ValueError` for missing and unknown keys, for values that are not
    finite or of another shape or kind, and for keys that differ in their number of environments.
    """
    if not isinstance(obs, Mapping):
        obs = {next(iter(shapes)): obs}
    for problem, keys in (("lacks", set(shapes) - set(obs)), ("has an unknown", set(obs) - set(shapes))):
        if keys:
            names = ", ".join(sorted(map(str, keys)))
            raise ValueError(f"observation {problem} {names}; the agent was trained on {dict(shapes)}")
    arrays = {key: _checked(key, obs[key], shape) for key, shape in shapes.items()}
    leading = {key: array.shape[: array.ndim - len(shapes[key])] for key, array in arrays.items()}
    if len(set(leading.values())) > 1:
        raise ValueError(f"observations differ in their number of environments: {leading}")
    single = not next(iter(leading.values()))
    return {key: torch.as_tensor(value[None] if single else value) for key, value in arrays.items()}, single


def _checked(key: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
    """An observation in the form that the networks take; raises `ValueError` for another shape or kind."""
    image = len(shape) == 3
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"observation {key!r} is no array: {error}") from None
    fits = array.shape[-len(shape) :] == shape and array.ndim <= len(shape) + 1 and array.size
    if not fits or (array.dtype != np.uint8 if image else array.dtype.kind not in "fiub"):
        wanted = f"{('vector', 'one-hot array', 'uint8 image')[len(shape) - 1]} {list(shape)}"
        raise ValueError(f"observation {key!r} is {array.dtype} {list(array.shape)}; the agent learned from a {wanted}")
    if image:
        return array
    with np.errstate(over="ignore"):
        array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise ValueError(f"observation {key!r} has values that are not finite in float32")
    return array


def episode_starts(is_first: Any, num_envs: int) -> Bool[Tensor, " env"]:
    """One flag for every environment; raises `ValueError` unless `is_first` is a truth value, or one for each."""
    flags = np.asarray(is_first)
    if flags.shape not in ((), (num_envs,)) or not np.isin(flags, (0, 1)).all():
        raise ValueError(f"is_first must be True or False, or one of them for each of {num_envs} environments")
    return torch.from_numpy(np.broadcast_to(flags.astype(bool), (num_envs,)).copy())
