"""Tasks by name, `<family>:<name>`, and the environments that they stand for."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable
from typing import Any

import gymnasium
from gymnasium.vector import VectorEnv

from envs.batched import OneOfBatch
from envs.dmc import ALIASES, DMC, dmc_tasks
from envs.errors import UserError, did_you_mean, one_line
from envs.gymnasium import buildable_gym_ids, gym_ids, gym_vector_ids, is_registered, make_gym, make_gym_vector
from envs.rendering import require_backend
from envs.settings import DEFAULTS, EnvSettings, arguments_of
from envs.toy import TOYS, make_toy
from envs.wrappers import refuse_drawing_settings, wrapped

PACKAGES = {
    "gym:ALE/": "ale_py",
    "gym:(MiniGrid|BabyAI)-": "minigrid",
    "gym:(Adroit|AntMaze|Fetch|FrankaKitchen|Hand|PointMaze)": "gymnasium_robotics",
    "gym:(highway|merge|roundabout|parking|intersection|racetrack)-": "highway_env",
}
"""Packages that register tasks with these names when they are imported."""


def make(
    task: str, settings: EnvSettings = DEFAULTS, *, seed: int = 0, index: int = 0, **changes: Any
) -> gymnasium.Env:
    """Build a task by name and wrap it as `prepare` does.

    `task` is `dmc:<domain>_<task>`, `gym:[module:]<id>`, `gym-vector:[module:]<id>` or `toy:<name>`. `changes` are
    settings by name: `make("dmc:walker_walk", repeat=2)`. Where frames are observed, the rendering backend is selected
    before anything is built.
    Raises UserError for an unknown task (with the closest names), where its constructor fails, for `camera` or
    `shadows` with a task that is not from dmc, where frames are observed and no rendering backend works, and as
    `prepare` does.
    """
    settings = settings.changed(changes)
    family, _, name = task.partition(":")
    if family != "dmc":
        refuse_drawing_settings(settings, f"'{task}'")
    elif settings.obs != "state":
        require_backend()
    with one_line(f"task '{task}' cannot be built"):
        env = _build(family, name, task, settings)
    return wrapped(env, settings, seed=seed, index=index)


def make_batch(task: str, settings: EnvSettings, num_envs: int) -> VectorEnv:
    """Build the vector environment of a `gym-vector:[module:]<id>` task; raises UserError as `make` does."""
    name = task.partition(":")[2]
    with one_line(f"task '{task}' cannot be built"):
        if not is_registered(name):
            raise UserError(_unknown(task, "gym-vector"))
        return make_gym_vector(name, arguments_of(settings.kwargs), num_envs)


def tasks() -> dict[str, list[str]]:
    """Full names of all tasks that can be trained here, by family; a family may be empty."""
    families = {"dmc": _dmc_names(), "gym": buildable_gym_ids(), "toy": list(TOYS)}
    return {family: [f"{family}:{name}" for name in sorted(names)] for family, names in families.items()}


def _build(family: str, name: str, task: str, settings: EnvSettings) -> gymnasium.Env:
    name = ALIASES.get(name, name) if family == "dmc" else name
    arguments = arguments_of(settings.kwargs)
    if family == "dmc" and name in dmc_tasks():
        return DMC(*dmc_tasks()[name], settings.render_size, settings.camera, settings.shadows, **arguments)
    if family == "gym" and is_registered(name):
        return make_gym(name, arguments, drawn=settings.obs != "state")
    if family == "gym-vector" and is_registered(name):
        return OneOfBatch(lambda size: make_gym_vector(name, arguments, size))
    if family == "toy" and name in TOYS:
        return make_toy(name, **arguments)
    raise UserError(_unknown(task, family))


def _unknown(task: str, family: str) -> str:
    names: dict[str, Callable[[], list[str]]] = {"dmc": _dmc_names, "gym": gym_ids, "toy": lambda: list(TOYS)}
    names["gym-vector"] = gym_vector_ids
    package = next((package for ids, package in PACKAGES.items() if re.match(ids, task)), None)
    if package is not None and package not in sys.modules:
        missing = "" if importlib.util.find_spec(package) else f" (`pip install {package}`)"
        name = task.partition(":")[2]
        return f"task '{task}' is registered by the package {package}{missing}: --task gym:{package}:{name}"
    families = [family] if family in names else list(names)
    hint = did_you_mean(task, (f"{kind}:{name}" for kind in families for name in names[kind]()))
    return (
        f"unknown task '{task}'; "
        f"{hint or 'a task is dmc:<domain>_<task>, gym:<id> or toy:<name>; '}`dreamer tasks` lists all"
    )


def _dmc_names() -> list[str]:
    try:
        return list(dmc_tasks())
    except UserError:
        return []
