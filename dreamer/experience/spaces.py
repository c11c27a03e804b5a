"""What the agent needs to know of an environment's spaces."""

from __future__ import annotations

import gymnasium
from gymnasium import spaces

from dreamer.batch import ActionSpec, Shapes


def spec_of(obs_space: gymnasium.Space, action_space: gymnasium.Space) -> tuple[Shapes, ActionSpec]:
    """Shapes of the observations by key, and the action specification, of a prepared environment."""
    if not isinstance(obs_space, spaces.Dict):
        raise TypeError(f"environments must be prepared with envs.make or envs.prepare; got observations {obs_space}")
    shapes = {key: tuple(map(int, space.shape)) for key, space in sorted(obs_space.items()) if space.shape}
    if isinstance(action_space, spaces.Discrete):
        return shapes, ActionSpec(int(action_space.n), discrete=True)
    if not action_space.shape:
        raise TypeError(f"unsupported action space {action_space}")
    return shapes, ActionSpec(int(action_space.shape[0]), discrete=False)
