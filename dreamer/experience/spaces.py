"""Sizes that an agent takes from an environment's spaces."""

from __future__ import annotations

from typing import Any, NamedTuple

import gymnasium
from gymnasium import spaces

from dreamer.batch import ActionSpec, Shapes


class Spec(NamedTuple):
    """Observation shapes and action space of an environment."""

    obs_shapes: Shapes
    """Shape of each observation, keys in alphabetical order."""
    action: ActionSpec
    """The action space."""

    def __str__(self) -> str:
        obs = ", ".join(f"{key} {list(shape)}" for key, shape in self.obs_shapes.items())
        return f"observations {obs} and {self.action.dim} {'actions' if self.action.discrete else 'action dimensions'}"


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
