"""Arms of a comparison: runs are named by the settings that vary, so that repetitions alone share task and arm."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, get_args

from dreamer.config import BY_SIZE, EnvironmentConfig, identity, used_settings
from dreamer.dynamics import CoreName
from dreamer.experiments.ablation.vary import short_names, word
from dreamer.experiments.report.run_folders import Run
from dreamer.experiments.report.wording import listing
from envs.settings import TaskSettings

CORE, START = "core", "from"
"""Names of what is no single setting: the core with its latent and its objective, and the initial weights."""
OF_THE_CORE = ("agent.dynamics.core", "agent.dynamics.latent", "agent.world_model.representation.objective")
OF_THE_ARM = {"repeat", "time_limit"}
"""Settings of an environment that leave its task the same."""


@dataclass(frozen=True)
class Arms:
    """What varies between runs of the same task, and the values of every arm."""

    varied: tuple[str, ...]
    """Dotted paths of the settings that vary, `core` and `from` first."""
    values: dict[str, dict[str, str]]
    """Name of each arm, in the order of its values -> dotted path -> value. An arm lacks settings that it does not
    use."""

    @property
    def noun(self) -> str:
        """Word for one arm."""
        return "core" if self.varied in ((), (CORE,)) else "arm"

    @property
    def title(self) -> str:
        """Title of a report about these arms."""
        if not self.varied:
            return f"Runs of one configuration ({next(iter(self.values), CORE)})"
        return "Dynamics cores compared" if self.varied == (CORE,) else f"{listing(self.varied)} compared"

    def said(self, name: str) -> str:
        """Return the name of an arm for a sentence, where a value alone would not be understood."""
        alone = len(self.varied) == 1 and self.varied != (CORE,)
        return f"{self.varied[0].rpartition('.')[2]}={name}" if alone else name

    def dependent(self) -> list[str]:
        """Return the settings that differ only together with the core or the initial weights."""
        found = []
        for cause in {CORE, START} & set(self.varied):
            for path in self.varied:
                pairs = {(row[cause], row.get(path)) for row in self.values.values()}
                if path != cause and len(pairs) == len({first for first, _ in pairs}) > 1:
                    found.append(path)
        return sorted(set(found))


def with_arms(runs: Sequence[Run], of_the_arm: Collection[str] = ()) -> tuple[list[Run], Arms]:
    """Return the runs with tasks and arms named such that only repetitions of one experiment share both, and the arms.

    A task gets the settings of its environment in which runs differ. An arm gets every other setting in which runs of
    one task differ; `of_the_arm` names further settings of environments that it gets, by dotted path.
    """
    kept = OF_THE_ARM | {path.removeprefix("env.") for path in of_the_arm}
    tasks = _task_names(runs, kept)
    settings = [_settings(run, kept) for run in runs]
    varied = _varied(tasks, settings)
    short = short_names(varied)
    starts = _short_starts(own[START] for own in settings)
    actual = [used_settings(run.config) for run in runs]
    named, values, keys = [], dict[str, dict[str, str]](), dict[str, list[tuple[int, float, str]]]()
    for run, task, own, full in zip(runs, tasks, settings, actual, strict=True):
        shown = {path: full[path] if own[path] == BY_SIZE else own[path] for path in varied if path in own}
        texts = {path: starts[value] if path == START else word(value) for path, value in shown.items()}
        arm = _arm_name(run.core, texts, short)
        values[arm], keys[arm] = texts, [_sort_key(path, shown.get(path)) for path in (CORE, *varied)]
        named.append(dataclasses.replace(run, task=task, arm=arm))
    return named, Arms(varied, {arm: values[arm] for arm in sorted(values, key=lambda arm: keys[arm])})


def differing(runs: Sequence[Run]) -> dict[str, dict[str, list[str]]]:
    """Return the settings in which runs differ beyond task, core and seed: dotted path -> value -> paths of the runs.

    Settings of the tracker and those that a run does not use are left out. Initial weights, and device, commit and
    threads of run.json are added.
    """
    values: dict[str, dict[Any, list[tuple[str, str]]]] = {}
    for run in runs:
        names = identity(run.config)
        found = {path: (names.get(path, value), value) for path, value in used_settings(run.config).items()}
        found |= {START: (_start(run), _start(run))}
        found |= {f"run.{name}": (run.info.get(name),) * 2 for name in ("device", "commit", "threads")}
        for path, (key, value) in found.items():
            if path not in ("task", "seed", *OF_THE_CORE) and not path.startswith("tracking."):
                values.setdefault(path, {}).setdefault(word(key), []).append((word(value), run.path))
    merged: dict[str, dict[str, list[str]]] = {}
    for path, groups in values.items():
        if len(groups) > 1:
            for text, place in (pair for group in groups.values() for pair in group):
                merged.setdefault(path, {}).setdefault(text, []).append(place)
    return merged


def confounding(runs: Sequence[Run], arms: Arms) -> list[str]:
    """Return what may explain a difference between cores: settings that differ only with the core, and the commit."""
    tasks = {run.task for run in runs}
    commits = any(len({run.info.get("commit") for run in runs if run.task == task}) > 1 for task in tasks)
    return [*arms.dependent(), *(["run.commit"] if commits else [])]


def _task_names(runs: Sequence[Run], kept: Collection[str]) -> list[str]:
    """Names of the tasks with those settings of environments that differ and are not at their default."""
    fields = [field.name for field in dataclasses.fields(TaskSettings) if field.name not in kept]
    used = [used_settings(run.config) for run in runs]
    default = EnvironmentConfig()
    own = [{name: one.get(f"env.{name}", getattr(default, name)) for name in fields} for one in used]
    differ = [name for name in fields if len({word(one[name]) for one in own}) > 1]
    made = [re.sub(" at 0x[0-9a-f]+", "", run.info.get("make_env", "")) for run in runs]
    names = []
    for run, settings, maker in zip(runs, own, made, strict=True):
        others = {other for task, other in zip((run.task for run in runs), made, strict=True) if task == run.task}
        shown = [f"{name}={word(settings[name])}" for name in differ if settings[name] != getattr(default, name)]
        names.append(" ".join([run.task, *shown, *([f"make_env={maker}"] if len(others) > 1 and maker else [])]))
    return names


def _settings(run: Run, kept: Collection[str]) -> dict[str, Any]:
    """Everything that tells a run from others of its task: the core, the initial weights, and its identity."""
    of_the_task = {f"env.{field.name}" for field in dataclasses.fields(TaskSettings) if field.name not in kept}
    own = {path: value for path, value in identity(run.config).items() if path not in {*of_the_task, *OF_THE_CORE}}
    return {CORE: run.core, START: _start(run), **own}


def _start(run: Run) -> str:
    """Initial weights: the run that gave them, and which."""
    source = run.info.get("start_from")
    if source is None:
        return "none"
    return source["path"] if source["load"] == "all" else f"{source['path']} ({source['load']})"


def _varied(tasks: Sequence[str], settings: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    paths = dict.fromkeys(path for own in settings for path in own)
    groups: dict[tuple[str, str], set[str]] = {}
    for task, own in zip(tasks, settings, strict=True):
        for path, value in own.items():
            groups.setdefault((task, path), set()).add(word(value))
    several = {path for (_, path), values in groups.items() if len(values) > 1}
    if len({own[CORE] for own in settings}) > 1:
        several.add(CORE)
    return tuple(path for path in paths if path in several)


def _short_starts(starts: Iterable[str]) -> dict[str, str]:
    """The names of the folders that gave initial weights, or their paths where two have the same name."""
    paths = set(starts)
    names = {path: PurePath(path).name for path in paths}
    return names if len(set(names.values())) == len(paths) else {path: path for path in paths}


def _arm_name(core: str, texts: dict[str, str], short: dict[str, str]) -> str:
    if not short:
        return core
    if len(short) == 1:
        return next(iter(texts.values()), core)  # a core that lacks the one setting that varies
    return " ".join(text if path == CORE else f"{short[path]}={text}" for path, text in texts.items())


def _sort_key(path: str, value: Any) -> tuple[int, float, str]:
    """Sort key of a value: cores in the order of the configuration, numbers by size, then text."""
    if path == CORE and value is not None:
        known = [core for core in get_args(CoreName) if str(value).startswith(core)]
        return 0, float(get_args(CoreName).index(max(known, key=len)) if known else len(get_args(CoreName))), str(value)
    if isinstance(value, int | float):
        return 0, float(value), ""
    return (1, 0.0, word(value)) if value is not None else (-1, 0.0, "")
