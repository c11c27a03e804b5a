"""Grid of a sweep: tasks, variants of the core, settings and seeds, and the configuration of each run."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, get_args

from dreamer.config import Config, override, validated
from dreamer.dynamics import LATENTS, CoreName, LatentChoice
from dreamer.errors import UserError
from dreamer.experience.spaces import Spec
from dreamer.experiments.ablation.vary import Point, configured, described
from dreamer.system.redaction import show
from dreamer.tracking.destination import own_group_and_tags
from dreamer.training.launch import make_factory
from dreamer.training.matching import match_params, parameter_table, reference
from dreamer.training.plan import check_memory, dry_run, spec_of_factory
from dreamer.world_model.objectives import ObjectiveName

MOST = 100_000
"""Largest number of runs."""
LONGEST = 120
"""Characters of a folder name beyond which it is cut."""


@dataclass(frozen=True)
class Trial:
    """One run of a sweep: what it does not share with the other runs."""

    task: str
    core: str
    """Variant of the core: `rssm`; `rssm:gaussian` with a latent that is not the core's default; `rssm+r2` with an
    objective other than reconstruction."""
    seed: int
    point: Point = ()
    """Values of the settings that vary."""

    @property
    def place(self) -> Path:
        """Run folder within that of the sweep: <task>/<core>/<settings>/seed<k>, without settings if none vary."""
        core = Path(_folder_name(self.task)) / re.sub("[:+]", "_", self.core)
        return core / (_point_name(self.settings) if self.point else "") / f"seed{self.seed}"

    @property
    def settings(self) -> str:
        """Values of the settings that vary, as text."""
        return " ".join(described(self.point))

    @property
    def arm(self) -> str:
        """Everything but task and seed."""
        return " ".join(filter(None, (self.core, self.settings)))

    def __str__(self) -> str:
        return f"{self.task} {self.arm} seed {self.seed}"


def variants(given: Sequence[str]) -> tuple[str, ...]:
    """Return variants of the core by their shortest names; `all` stands for every core.

    Raises `UserError` for an unknown core and for a latent that the core cannot have.
    """
    cores = get_args(CoreName)
    return tuple(dict.fromkeys(_variant(word) for name in given for word in (cores if name == "all" else (name,))))


def objectives(given: Sequence[str]) -> tuple[str, ...]:
    """Return the same names; raises `UserError` for an unknown objective."""
    known = get_args(ObjectiveName)
    for name in given:
        if name not in known:
            raise UserError(f"--objectives: unknown objective {name!r}; choose from {', '.join(known)}")
    return tuple(given)


def with_objectives(cores: Sequence[str], objectives: Sequence[str]) -> list[str]:
    """Return every variant of the core with every objective, by their shortest names."""
    return [variant_name(core, objective) for core in cores for objective in objectives]


def core_settings(variant: str) -> dict[str, str]:
    """Return the settings of a variant `core` or `core:latent`, by dotted path."""
    core, _, latent = variant.partition(":")
    return {"agent.dynamics.core": core, "agent.dynamics.latent": latent or "auto"}


def variant_name(core: str, objective: str) -> str:
    """Return the name of a variant of the core that is trained with an objective."""
    return core if objective == get_args(ObjectiveName)[0] else f"{core}+{objective}"


def trials(tasks: Sequence[str], cores: Sequence[str], seeds: int, points: Sequence[Point] = ((),)) -> list[Trial]:
    """Return the runs in the order in which they are done: seed 0 of every task, core and point comes first.

    Raises `UserError` for too many runs, and when two of them would share a folder.
    """
    if len(tasks) * len(cores) * seeds * len(points) > MOST:
        counts = f"{len(tasks)} tasks, {len(cores)} cores{f', {len(points)} points' if len(points) > 1 else ''}"
        raise UserError(f"{counts} and {seeds} seeds are more than {MOST:,} runs")
    folders: dict[str, str] = {}
    for task in tasks:
        other = folders.setdefault(_folder_name(task).lower(), task)
        if other != task:
            raise UserError(f"--tasks: {other} and {task} would share a folder; use a separate ablation for each")
    named: dict[str, Point] = {}
    for point in points:
        first = named.setdefault(Trial("", "", 0, point).place.as_posix().lower(), point)
        if first != point:
            raise UserError(f"--vary: {' '.join(described(first))} and {' '.join(described(point))} share a folder")
    points = list(dict.fromkeys(points))
    return [
        Trial(task, core, seed, point) for seed in range(seeds) for task in tasks for core in cores for point in points
    ]


def configurations(
    shared: Config, wanted: Sequence[Trial], group: str, match: bool, device: str = "cpu"
) -> dict[Trial, Config]:
    """Return the full configuration of every run.

    `match` makes the agents equally large and prints a table of parameters for each task. `group` is the W&B group of
    runs whose settings name none. Raises `UserError` when an environment or an agent cannot be built, when an
    agent does not fit the memory of `device` (not checked if that is empty), and when `match` is impossible.
    """
    found: dict[Trial, Config] = {}
    for task, of_task in groupby(sorted(wanted, key=lambda trial: trial.task), key=lambda trial: trial.task):
        several = list(of_task)
        configs = {trial.arm: configuration(shared, trial, group) for trial in several}
        first = next(iter(configs.values()))
        specs: dict[Any, Spec] = {}
        for arm, config in configs.items():
            try:
                if config.env not in specs:
                    specs[config.env] = spec_of_factory(make_factory(config))
                spec = specs[config.env]
                configs[arm] = match_params(config, spec) if match else config
                agent = dry_run(spec, configs[arm])
                if device:
                    check_memory(agent, configs[arm], device)
            except UserError as error:
                raise UserError(f"{task} {arm}: {error}") from None
        if match:
            table = parameter_table({"rssm": reference(first)} | configs, specs[first.env])
            show(f"parameters on {task}", *table.split("\n"), "")
        for trial in several:
            tracking = dataclasses.replace(configs[trial.arm].tracking, wandb_name=str(trial))
            found[trial] = dataclasses.replace(configs[trial.arm], seed=trial.seed, tracking=tracking)
    return {trial: found[trial] for trial in wanted}


def configuration(shared: Config, trial: Trial, group: str = "") -> Config:
    """Return the configuration of a run before parameters are matched; raises `UserError` for impossible values."""
    variant, _, objective = trial.core.partition("+")
    core, _, latent = variant.partition(":")
    family = [latent or LATENTS[core][0]] if LATENTS[core] else []
    own_group, own_tags = own_group_and_tags()
    tags = [*(shared.tracking.wandb_tags or own_tags), core, *family, *filter(None, [objective]), trial.task]
    tags += described(trial.point)
    changes = {
        "task": trial.task,
        "seed": trial.seed,
        **core_settings(variant),
        "agent.world_model.representation.objective": objective or get_args(ObjectiveName)[0],
        "tracking.wandb_group": shared.tracking.wandb_group or own_group or group,
        "tracking.wandb_tags": tuple(dict.fromkeys(tags)),
    }
    config = configured(validated(override(shared, changes)), trial.point)
    if config.devices > 1:
        raise UserError(f"--devices {config.devices}: a sweep trains each run in one process; use --jobs")
    return config


def _variant(word: str) -> str:
    core, _, latent = word.partition(":")
    if core not in LATENTS:
        raise UserError(f"--cores: unknown core {core!r}; choose from {', '.join(LATENTS)}, or all")
    if latent and latent not in get_args(LatentChoice):
        raise UserError(f"--cores {word}: unknown latent {latent!r}; choose from {', '.join(get_args(LatentChoice))}")
    if latent in ("", "auto", *LATENTS[core][:1]):
        return core
    if latent not in LATENTS[core]:
        can = " or ".join((core, *(f"{core}:{family}" for family in LATENTS[core][1:])))
        raise UserError(f"--cores {word}: the {core} core cannot have that latent; use {can}")
    return word


def _point_name(settings: str) -> str:
    """Folder name of the values of a point, short enough for any file system."""
    name = re.sub(r"[^A-Za-z0-9.+=_-]+", "_", settings)
    return name if len(name) <= LONGEST else f"{name[:LONGEST]}_{hashlib.sha256(settings.encode()).hexdigest()[:8]}"


def _folder_name(task: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "_", task).strip("_")
