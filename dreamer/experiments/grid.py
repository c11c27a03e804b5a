"""The grid of an ablation: tasks, variants of the core and seeds, and the configuration of each run."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import get_args

from dreamer.config import Config, override, validated
from dreamer.dynamics import LATENTS, CoreName, LatentChoice
from dreamer.errors import UserError
from dreamer.launch import dry_run, make_factory, spec_of_factory
from dreamer.matching import match_params, parameter_table, reference
from dreamer.redaction import show
from dreamer.world_model.objectives import ObjectiveName


@dataclass(frozen=True)
class Cell:
    """One run of an ablation, apart from the settings that all runs share."""

    task: str
    """Task."""
    core: str
    """Variant of the core: `rssm`, or `rssm:gaussian` with a latent that is not the core's usual one; `rssm+r2` with
    another objective than reconstruction."""
    seed: int
    """Seed."""

    @property
    def place(self) -> Path:
        """The run's folder within the ablation's: <task>/<core>/seed<k>."""
        return Path(_folder_name(self.task)) / re.sub("[:+]", "_", self.core) / f"seed{self.seed}"

    def __str__(self) -> str:
        return f"{self.task} {self.core} seed {self.seed}"


def variants(given: Sequence[str]) -> tuple[str, ...]:
    """Variants of the core by their shortest names, `all` being every core.

    Raises `UserError` for a core that does not exist and for a latent that the core cannot have.
    """
    cores = get_args(CoreName)
    return tuple(dict.fromkeys(_variant(word) for name in given for word in (cores if name == "all" else (name,))))


def objectives(given: Sequence[str]) -> tuple[str, ...]:
    """The same names; raises `UserError` for one that is no objective."""
    known = get_args(ObjectiveName)
    for name in given:
        if name not in known:
            raise UserError(f"--objectives: unknown objective {name!r}; choose from {', '.join(known)}")
    return tuple(given)


def with_objectives(cores: Sequence[str], objectives: Sequence[str]) -> list[str]:
    """Every variant of the core with every objective, by their shortest names."""
    return [variant_name(core, objective) for core in cores for objective in objectives]


def variant_name(core: str, objective: str) -> str:
    """What a variant of the core is called when it is trained with an objective."""
    return core if objective == get_args(ObjectiveName)[0] else f"{core}+{objective}"


def cells(tasks: Sequence[str], cores: Sequence[str], seeds: int) -> list[Cell]:
    """The runs in the order in which they are done: the first seed of everything comes first.

    Raises `UserError` when two tasks would share a folder.
    """
    folders: dict[str, str] = {}
    for task in tasks:
        other = folders.setdefault(_folder_name(task).lower(), task)
        if other != task:
            raise UserError(f"--tasks: {other} and {task} would share a folder; give each an ablation of its own")
    return [Cell(task, core, seed) for seed in range(seeds) for task in tasks for core in cores]


def configurations(shared: Config, wanted: Sequence[Cell], group: str, match: bool) -> dict[Cell, Config]:
    """The full configuration of every cell; with `match` equally large agents, of which it prints a table per task.

    `group` is the W&B group of runs whose settings name none. Raises `UserError` when an environment or an agent cannot
    be made, and when `match` is impossible.
    """
    found: dict[Cell, Config] = {}
    for task, of_task in groupby(sorted(wanted, key=lambda cell: cell.task), key=lambda cell: cell.task):
        several = list(of_task)
        configs = {cell.core: _configuration(shared, cell, group) for cell in several}
        some = next(iter(configs.values()))
        spec = spec_of_factory(make_factory(some))
        for core, config in configs.items():
            with _about(f"{task} {core}"):
                configs[core] = match_params(config, spec) if match else config
                dry_run(spec, configs[core])
        if match:
            table = parameter_table({"rssm": reference(some)} | configs, spec)
            show(f"parameters on {task}", *table.split("\n"), "")
        found |= {cell: _of_cell(configs[cell.core], cell) for cell in several}
    return {cell: found[cell] for cell in wanted}


def _of_cell(config: Config, cell: Cell) -> Config:
    tracking = dataclasses.replace(config.tracking, wandb_name=str(cell))
    return dataclasses.replace(config, seed=cell.seed, tracking=tracking)


def _configuration(shared: Config, cell: Cell, group: str) -> Config:
    variant, _, objective = cell.core.partition("+")
    core, _, latent = variant.partition(":")
    family = (latent or LATENTS[core][0],) if LATENTS[core] else ()
    changes = {
        "task": cell.task,
        "seed": cell.seed,
        "agent.dynamics.core": core,
        "agent.dynamics.latent": latent or "auto",
        "agent.world_model.representation.objective": objective or get_args(ObjectiveName)[0],
        "tracking.wandb_group": shared.tracking.wandb_group or group,
        "tracking.wandb_tags": tuple(
            dict.fromkeys((*shared.tracking.wandb_tags, core, *family, *filter(None, [objective]), cell.task))
        ),
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


@contextmanager
def _about(what: str) -> Iterator[None]:
    """Say what a mistake is about."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{what}: {error}") from None
