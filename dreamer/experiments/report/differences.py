"""Settings in which runs differ."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from dreamer.config import Config, EnvironmentConfig, leaves
from dreamer.experiments.report.run_folders import Run

ARRANGEMENT = {"num_envs", "train_time_limit", "time_limit", *EnvironmentConfig.on_resume}
"""Settings of environments that do not make another task. Of these, the length of episodes is in the core's name."""
EXPECTED = {"task", "seed", "agent.dynamics.core", "agent.world_model.representation.objective"}
"""Settings that an ablation varies."""


def with_distinct_names(runs: list[Run]) -> list[Run]:
    """Return the runs with tasks and cores named such that only repetitions of one experiment share both names.

    A task gets the settings of its environment, and a core gets its size and its own settings, where runs differ in
    them.
    """
    sized = len({run.config.size for run in runs}) > 1

    def renamed(run: Run) -> Run:
        siblings = [other for other in runs if (other.core, other.config.size) == (run.core, run.config.size)]
        settings = [other.config.agent.dynamics.settings for other in siblings]
        environments = [_effective(other.config) for other in runs]
        lengths = {other.config.env.time_limit for other in runs if other.task == run.task}
        limit = run.config.env.time_limit
        core = [f"{run.core}@{run.config.size}" if sized else run.core]
        core += [f"time_limit={limit}"] if limit and len(lengths) > 1 else []
        return dataclasses.replace(
            run,
            core=" ".join(core + _changes(run.config.agent.dynamics.settings, settings)),
            task=" ".join([run.task, *_changes(_effective(run.config), environments, ARRANGEMENT)]),
        )

    return [renamed(run) for run in runs]


def _effective(config: Config) -> EnvironmentConfig:
    """Settings of the environment. Those without an effect on its task do not tell runs of older versions apart."""
    env = config.env if config.env.time_limit else dataclasses.replace(config.env, extend_limit=True)
    return dataclasses.replace(env, encoding="bounds") if config.task.startswith("dmc:") else env


def _changes(own: Any, everyone: list[Any], ignored: Iterable[str] = ()) -> list[str]:
    """`name=value` of the fields that differ between configs of one kind and are not at their default in `own`."""
    names = [field.name for field in dataclasses.fields(own) if field.name not in ignored]
    differ = [name for name in names if len({repr(getattr(other, name)) for other in everyone}) > 1]
    return [
        f"{name}={_word(getattr(own, name))}" for name in differ if getattr(own, name) != getattr(type(own)(), name)
    ]


def _word(value: Any) -> str:
    return ("+".join(map(str, value)) or "none") if isinstance(value, tuple) else str(value)


def differing(runs: list[Run]) -> dict[str, dict[str, list[str]]]:
    """Return the settings in which runs differ beyond task, core and seed: dotted path -> value -> paths of the runs.

    Settings of the tracker are left out. Device, commit and threads of run.json are added.
    """
    values: dict[str, dict[str, list[str]]] = {}
    for run in runs:
        config = dataclasses.asdict(run.config)
        found = [*leaves(config), *((f"run.{name}", run.info.get(name)) for name in ("device", "commit", "threads"))]
        for path, value in found:
            if path not in EXPECTED and not path.startswith("tracking."):
                values.setdefault(path, {}).setdefault(_word(value), []).append(run.path)
    return {path: paths for path, paths in values.items() if len(paths) > 1}


def confounding(runs: list[Run]) -> list[str]:
    """Return the settings that differ between runs of one task and size, and that no name of a core or task shows.

    They may explain a difference between cores.
    """
    found: dict[str, None] = {}
    for group in {(run.task, run.config.size) for run in runs}:
        alike = [run for run in runs if (run.task, run.config.size) == group]
        found |= dict.fromkeys(path for path in differing(alike) if not path.startswith("agent.dynamics."))
    return sorted(found.keys() - {"run.device", "run.threads", "device"})
