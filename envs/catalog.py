"""Tasks by name, `<family>:<name>`, and the environments that they stand for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium

from envs.dmc import ALIASES, DMC, dmc_tasks
from envs.errors import UserError, did_you_mean
from envs.gymnasium import buildable_gym_ids, drawn_by_mujoco, gym_ids, is_registered, make_gym
from envs.rendering import require_backend
from envs.settings import DEFAULTS, EnvSettings
from envs.toy import TOYS, make_toy
from envs.wrappers import refuse_drawing_settings, wrapped


def make(
    task: str, settings: EnvSettings = DEFAULTS, *, seed: int = 0, index: int = 0, **changes: Any
) -> gymnasium.Env:
    """Build a task by name and wrap it as `prepare` does.

    `task` is `dmc:<domain>_<task>`, `gym:[module:]<id>` or `toy:<name>`. `changes` are settings by name:
    `make("dmc:walker_walk", repeat=2)`. Where frames are observed, the rendering backend is selected before anything
    is built.
    Raises UserError for an unknown task (with the closest names), for `camera` or `shadows` with a task that is not
    from dmc, where frames are observed and no rendering backend works, and as `prepare` does.
    """
    settings = settings.changed(changes)
    family, _, name = task.partition(":")
    if family != "dmc":
        refuse_drawing_settings(settings, f"'{task}'")
    if settings.obs != "state" and (family == "dmc" or drawn_by_mujoco(name)):
        require_backend()
    return wrapped(_build(family, name, task, settings), settings, seed=seed, index=index)


def tasks() -> dict[str, list[str]]:
    """Full names of all tasks that can be trained here, by family; a family may be empty."""
    families = {"dmc": _dmc_names(), "gym": buildable_gym_ids(), "toy": list(TOYS)}
    return {family: [f"{family}:{name}" for name in sorted(names)] for family, names in families.items()}


def _build(family: str, name: str, task: str, settings: EnvSettings) -> gymnasium.Env:
    name = ALIASES.get(name, name) if family == "dmc" else name
    if family == "dmc" and name in dmc_tasks():
        return DMC(*dmc_tasks()[name], settings.render_size, settings.camera, settings.shadows)
    if family == "gym" and is_registered(name):
        return make_gym(name)
    if family == "toy" and name in TOYS:
        return make_toy(name)
    raise UserError(_unknown(task, family))


def _unknown(task: str, family: str) -> str:
    names: dict[str, Callable[[], list[str]]] = {"dmc": _dmc_names, "gym": gym_ids, "toy": lambda: list(TOYS)}
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
