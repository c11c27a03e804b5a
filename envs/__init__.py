"""Environments by name: `make("dmc:walker_walk")`, `make("gym:Pendulum-v1")`, `make("toy:chain")`.

Every environment made or prepared here has a Dict of float32 vectors and uint8 images as observation and
Box(-1, 1, [n]) or Discrete(n) as action, and depends on (seed, index, episode) and the actions since the reset alone.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import gymnasium

from envs.dmc import ALIASES, DMC, dmc_tasks
from envs.errors import UserError
from envs.factory import EVAL_INDEX, EnvFactory
from envs.gymnasium import buildable_gym_ids, drawn_by_mujoco, gym_ids, is_registered, make_gym
from envs.pace import Pace, measure_pace
from envs.parallel import WorkerError, cores
from envs.rendering import require_backend
from envs.toy import TOYS, make_toy
from envs.vector import failures, make_vector, restart_vector, restore_vector
from envs.wrappers import Observations, prepare

__all__ = [
    "EVAL_INDEX",
    "EnvFactory",
    "Pace",
    "UserError",
    "WorkerError",
    "cores",
    "failures",
    "make",
    "make_vector",
    "measure_pace",
    "prepare",
    "restart_vector",
    "restore_vector",
    "tasks",
]


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
    image_size: tuple[int, int] = (64, 64),
    render_size: tuple[int, int] = (256, 256),
    camera: int | None = None,
    shadows: bool = True,
) -> gymnasium.Env:
    """Build a task by name and wrap it as `prepare` does.

    `task` is `dmc:<domain>_<task>`, `gym:[module:]<id>` or `toy:<name>`. Of the frames of dmc tasks, `camera` chooses
    the point of view, `shadows=False` leaves out shadows and reflections, and `render_size` (height, width) is the size
    of those that `render()` returns. Where frames are observed, what draws them is found before anything is built.
    Raises UserError for an unknown task (with the closest names), for a camera or shadows of a task that is not dmc's,
    where frames are asked for and nothing draws, and as `prepare` does.
    """
    family, _, name = task.partition(":")
    if family != "dmc" and (camera is not None or not shadows):
        raise UserError(f"cameras can be chosen, and shadows left out, of dmc tasks only, not of '{task}'")
    if obs != "state" and (family == "dmc" or drawn_by_mujoco(name)):
        require_backend()
    env = _build(family, name, task, {"render_size": render_size, "camera": camera, "shadows": shadows})
    episodes: dict[str, Any] = {"seed": seed, "index": index, "repeat": repeat, "time_limit": time_limit}
    seen: dict[str, Any] = {"hide": hide, "blank": blank, "flicker": flicker, "obs_noise": obs_noise}
    return prepare(env, **episodes, **seen, obs=obs, image_size=image_size)


def tasks() -> dict[str, list[str]]:
    """Full names of all that can be trained here, by family: "dmc", "gym", "toy"; a family may be empty."""
    families = {"dmc": _dmc_names(), "gym": buildable_gym_ids(), "toy": list(TOYS)}
    return {family: [f"{family}:{name}" for name in sorted(names)] for family, names in families.items()}


def _build(family: str, name: str, task: str, drawing: dict[str, Any]) -> gymnasium.Env:
    name = ALIASES.get(name, name) if family == "dmc" else name
    if family == "dmc" and name in dmc_tasks():
        return DMC(*dmc_tasks()[name], **drawing)
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
