"""Grid of an ablation: tasks, variants of the core and seeds, and the configuration of each run."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import get_args

from dreamer.config import Config, override, validated
from dreamer.dynamics import LATENTS, CoreName, LatentChoice
from dreamer.errors import UserError
from dreamer.system.redaction import show
from dreamer.tracking.destination import own_group_and_tags
from dreamer.training.launch import make_factory
from dreamer.training.matching import match_params, parameter_table, reference
from dreamer.training.plan import check_memory, dry_run, spec_of_factory
from dreamer.world_model.objectives import ObjectiveName

MOST = 100_000
"""Largest number of runs."""


@dataclass(frozen=True)
class Trial:
    """One run of an ablation: what it does not share with the other runs."""

    task: str
    core: str
    """Variant of the core: `rssm`; `rssm:gaussian` with a latent that is not the core's default; `rssm+r2` with an
    objective other than reconstruction."""
    seed: int

    @property
    def place(self) -> Path:
        """Run folder within the folder of the ablation: <task>/<core>/seed<k>."""
        return Path(_folder_name(self.task)) / re.sub("[:+]", "_", self.core) / f"seed{self.seed}"

    def __str__(self) -> str:
        return f"{self.task} {self.core} seed {self.seed}"


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


def trials(tasks: Sequence[str], cores: Sequence[str], seeds: int) -> list[Trial]:
    """Return the runs in the order in which they are done: seed 0 of every task and core comes first.

    Raises `UserError` for too many runs, and when two tasks would share a folder.
    """
    if len(tasks) * len(cores) * seeds > MOST:
        raise UserError(f"{len(tasks)} tasks, {len(cores)} cores and {seeds} seeds are more than {MOST:,} runs")
    folders: dict[str, str] = {}
    for task in tasks:
        other = folders.setdefault(_folder_name(task).lower(), task)
        if other != task:
            raise UserError(f"--tasks: {other} and {task} would share a folder; use a separate ablation for each")
    return [Trial(task, core, seed) for seed in range(seeds) for task in tasks for core in cores]


def configurations(
    shared: Config, wanted: Sequence[Trial], group: str, match: bool, device: str = "cpu"
) -> dict[Trial, Config]:
    """Return the full configuration of every run.

    `match` makes the agents equally large and prints a table of parameters for each task. `group` is the W&B group of
    runs whose settings name none. Raises `UserError` when an environment or an agent cannot be built, when an
    agent does not fit the memory of `device`, and when `match` is impossible.
    """
    found: dict[Trial, Config] = {}
    for task, of_task in groupby(sorted(wanted, key=lambda trial: trial.task), key=lambda trial: trial.task):
        several = list(of_task)
        configs = {trial.core: _configuration(shared, trial, group) for trial in several}
        first = next(iter(configs.values()))
        spec = spec_of_factory(make_factory(first))
        for core, config in configs.items():
            try:
                configs[core] = match_params(config, spec) if match else config
                check_memory(dry_run(spec, configs[core]), configs[core], device)
            except UserError as error:
                raise UserError(f"{task} {core}: {error}") from None
        if match:
            table = parameter_table({"rssm": reference(first)} | configs, spec)
            show(f"parameters on {task}", *table.split("\n"), "")
        for trial in several:
            tracking = dataclasses.replace(configs[trial.core].tracking, wandb_name=str(trial))
            found[trial] = dataclasses.replace(configs[trial.core], seed=trial.seed, tracking=tracking)
    return {trial: found[trial] for trial in wanted}


def _configuration(shared: Config, trial: Trial, group: str) -> Config:
    variant, _, objective = trial.core.partition("+")
    core, _, latent = variant.partition(":")
    family = [latent or LATENTS[core][0]] if LATENTS[core] else []
    own_group, own_tags = own_group_and_tags()
    tags = [*(shared.tracking.wandb_tags or own_tags), core, *family, *filter(None, [objective]), trial.task]
    changes = {
        "task": trial.task,
        "seed": trial.seed,
        **core_settings(variant),
        "agent.world_model.representation.objective": objective or get_args(ObjectiveName)[0],
        "tracking.wandb_group": shared.tracking.wandb_group or own_group or group,
        "tracking.wandb_tags": tuple(dict.fromkeys(tags)),
    }
    return validated(override(shared, changes))


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


def _folder_name(task: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "_", task).strip("_")
