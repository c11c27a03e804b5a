"""Observations that are velocities, by name, and by tables for vectors of which only some values are velocities."""

from __future__ import annotations

import re
from collections.abc import Mapping

import gymnasium
import numpy as np

from envs.dmc import DMC

NAME = re.compile(r"veloci|(?<![a-z])(q|lin|ang)?vel(?![a-z])")
"""Keys such as `velocity`, `joint_velocities` and `arm_vel` (dm_control spells one `joint_velocites`)."""
IN_DMC = {
    "ball_state": ("...vvv", "...vvvvvv"),
    "egocentric_state": ("." * 16 + "v" * 16 + "." * 12,),
    "imu": ("...vvv",),
    "inertial_sensors": ("...vvvvvv",),
}
"""Velocities (v) in other observations of dog and quadruped, some of them from gyroscopes and velocimeters."""
IN_GYM = {
    "Acrobot-v1": "....vv",
    "CartPole-v0": ".v.v",
    "CartPole-v1": ".v.v",
    "MountainCar-v0": ".v",
    "MountainCarContinuous-v0": ".v",
    "Pendulum-v1": "..v",
}
"""Velocities (v) in the observation vector of a registered environment."""


def velocity_masks(env: gymnasium.Env, sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Masks `[size]` of the velocities in observation vectors of these sizes, by key; vectors without any are left out.

    `env` is the unwrapped environment that the observations come from.
    """
    patterns: dict[str, tuple[str, ...]] = {
        key: ("v" * size,) for key, size in sizes.items() if NAME.search(key.lower())
    }
    if isinstance(env, DMC):
        patterns |= IN_DMC
    elif env.spec is not None and env.spec.id in IN_GYM:
        patterns["observation"] = (IN_GYM[env.spec.id],)
    fitting = {key: pattern for key in patterns for pattern in patterns[key] if len(pattern) == sizes.get(key)}
    return {key: np.array(list(pattern)) == "v" for key, pattern in fitting.items()}
