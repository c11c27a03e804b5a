"""Environments by name: `make("dmc:walker_walk")`, `make("gym:Pendulum-v1")`, `make("toy:chain")`.

Every environment made or prepared here has a Dict of float32 vectors as observation and Box(-1, 1, [n]) or
Discrete(n) as action, and depends on (seed, index, episode) and the actions since the reset alone.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any, Literal

import gymnasium

from envs.dmc import ALIASES, DMC, dmc_tasks
from envs.errors import UserError
from envs.factory import EnvFactory
from envs.gymnasium import buildable_gym_ids, gym_ids, is_registered, make_gym
from envs.parallel import WorkerError
from envs.toy import TOYS, make_toy
from envs.vector import make_vector, restore_vector
from envs.wrappers import prepare

__all__ = ["EnvFactory", "UserError", "WorkerError", "make", "make_vector", "prepare", "restore_vector", "tasks"]

Observations = Literal["state", "pixels", "both"]


def make(
    task: str,
    *,
    seed: int = 0,
    index: int = 0,
    repeat: int = 1,
    time_limit: int | None = None,
    hide: Sequence[str] = (),
    blank: Sequence[str] = (),
    flicker: float = 0.0,
    obs_noise: float = 0.0,
    obs: Observations = "state",
    render_size: tuple[int, int] = (256, 256),
    camera: int | None = None,
) -> gymnasium.Env:
    """Build a task by name and wrap it as `prepare` does.

    `task` is `dmc:<domain>_<task>`, `gym:[module:]<id>` or `toy:<name>`; `render_size` (height, width) and `camera` are
    those of the frames that `render()` draws of dmc tasks.
    Raises UserError for an unknown task (with the closest names), and as `prepare` does.
    """
    if obs != "state":
        raise UserError(f"obs='{obs}': pixels are not supported yet; use obs='state'")
    family, _, name = task.partition(":")
    env = _build(family, name, task, render_size, camera)
    episodes: dict[str, Any] = {"seed": seed, "index": index, "repeat": repeat, "time_limit": time_limit}
    return prepare(env, **episodes, hide=hide, blank=blank, flicker=flicker, obs_noise=obs_noise)


def tasks() -> dict[str, list[str]]:
    """Full names of all that can be trained here, by family: "dmc", "gym", "toy"; a family may be empty."""
    families = {"dmc": _dmc_names(), "gym": buildable_gym_ids(), "toy": list(TOYS)}
    return {family: [f"{family}:{name}" for name in sorted(names)] for family, names in families.items()}


def _build(family: str, name: str, task: str, render_size: tuple[int, int], camera: int | None) -> gymnasium.Env:
    name = ALIASES.get(name, name) if family == "dmc" else name
    if family == "dmc" and name in dmc_tasks():
        return DMC(*dmc_tasks()[name], render_size=render_size, camera=camera)
    if family == "gym" and is_registered(name):
        return make_gym(name)
    if family == "toy" and name in TOYS:
        return make_toy(name)
    raise UserError(_unknown(task, family))


def _unknown(task: str, family: str) -> str:
    names = {"dmc": _dmc_names, "gym": gym_ids, "toy": lambda: list(TOYS)}
    families = [family] if family in names else list(names)
    known = {f"{kind}:{name}".lower(): f"{kind}:{name}" for kind in families for name in names[kind]()}
    close = [known[match] for match in difflib.get_close_matches(task.lower(), known, n=3)]
    hint = f"did you mean {', '.join(close)}? " if close else "a task is dmc:<domain>_<task>, gym:<id> or toy:<name>; "
    return f"unknown task '{task}'; {hint}`dreamer tasks` lists all"


def _dmc_names() -> list[str]:
    try:
        return list(dmc_tasks())
    except UserError:
        return []
