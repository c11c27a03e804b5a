"""Options of a sweep, and ablation.json, which holds them so that the sweep can be resumed."""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

import tyro
from annotated_types import Interval
from typing_extensions import TypedDict

from dreamer.config import Config, from_dict
from dreamer.errors import UserError, reason
from dreamer.runs.provenance import command_line, commit
from dreamer.runs.trust import check_folder
from dreamer.system.files import Counter, Text, read_json
from dreamer.system.redaction import warn
from envs.ranges import Few, ManyOrNone, adapter, flag, violation

FORMAT = 3
WITHOUT_VARY = 2
"""Format of a sweep over tasks, cores and seeds alone, which older versions read."""
MANIFEST = "ablation.json"
OF_THE_CALL = ("folder", "jobs", "on", "cluster", "dry_run")
"""Options that may differ when a sweep is resumed."""
UNSTARTED = {".lock", f"{MANIFEST}.tmp"}
"""Files that a sweep may leave when it is killed before its manifest is written."""


@dataclass(frozen=True)
class Cluster:
    """What each run gets on a cluster (--on slurm, --on ray)."""

    partition: str = ""
    """Partition of Slurm; empty for the default one."""
    minutes: Annotated[int, Interval(ge=3, le=525_600)] = 1440
    """Time limit of a job of Slurm, in minutes. A run that needs longer saves and goes back to the queue."""
    cpus: Few = 1
    """Processor cores, and threads."""
    gpus: Annotated[int, Interval(ge=0, le=1)] = 0
    """GPUs: 0 or 1, as a run uses one."""
    address: str = ""
    """Ray cluster, as HOST:PORT; empty for RAY_ADDRESS, or else the cluster that this machine is part of."""


@dataclass(frozen=True)
class SweepArguments:
    """Train the full agent for every task, core, seed and value of the settings that vary. The same command, or
    --folder alone, resumes.
    """

    config: Annotated[Config, tyro.conf.arg(name="")]
    """Configuration that all runs share. The options below set tasks, cores, latents, objectives and seeds."""
    tasks: tuple[str, ...] = ()
    """Tasks, separated by spaces or commas."""
    vary: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Setting to vary, as SETTING=VALUE,VALUE or SETTING=LOW..HIGH or SETTING=LOW..HIGH:log; give it once for each
    setting. SETTING is an option of `dreamer train`."""
    samples: ManyOrNone = 0
    """Number of points to draw from the values and ranges of --vary; 0 takes every combination of values."""
    sampler: Literal["random", "tpe", "gp"] = "random"
    """Sampler of --samples: random, or one of Optuna that maximises the mean final return (tpe or gp, needs the extra
    `optuna`)."""
    cores: tuple[str, ...] = ()
    """Cores, separated by spaces or commas: CORE, CORE:LATENT (such as rssm:gaussian), or all. The default is the core
    of the preset."""
    objectives: tuple[str, ...] = ("reconstruction",)
    """Representation objectives that every core is trained with: reconstruction, r2, or both."""
    seeds: Few = 3
    """Number of seeds, which are 0, 1, ..."""
    match_params: bool = False
    """Change the widths of the cores until all agents have as many parameters as with the rssm core, within 2 %."""
    folder: Path | None = None
    """Folder of the sweep, new or to be resumed. Default: runs/<command>_<time>."""
    jobs: Few = 1
    """Number of runs at a time. On one machine, they share its processor cores."""
    on: str = "local"
    """Place of the runs: local (this machine), slurm or ray (clusters; each needs the extra of its name)."""
    cluster: Cluster = Cluster()
    dry_run: bool = False
    """Print the runs, their parameters and an estimate of the time, and start nothing."""


@dataclass(frozen=True)
class AblateArguments(SweepArguments):
    """Train the full agent for every task, core and seed. The same command, or --folder alone, resumes."""

    cores: tuple[str, ...] = ("all",)
    """Cores, separated by spaces or commas: CORE, CORE:LATENT (such as rssm:gaussian), or all."""


def arguments_of(folder: Path) -> SweepArguments:
    """Return the options of the sweep in `folder`; raises `UserError` when it holds none of this version."""
    check_folder(folder)
    path = folder / MANIFEST
    if not path.exists():
        raise UserError(f"no sweep or ablation at {folder}: {path} is missing; to start one, name its --tasks")
    written = read_json(path, dict[str, Any])
    formats = (WITHOUT_VARY, FORMAT)
    if written.get("format") not in formats:
        known = " and ".join(map(str, formats))
        raise UserError(f"{path}: it has format {written.get('format')!r:.20}, this version reads {known}")
    names = ["tasks", "cores", "objectives", "seeds", "match_params"]
    names += ["vary", "samples", "sampler"] if written["format"] == FORMAT else []
    try:
        given = {name: written[name] for name in names} | {"folder": folder}
        return adapter(SweepArguments).validate_python(given | {"config": from_dict(dict(written["config"]))})
    except (LookupError, TypeError, ValueError) as error:
        raise UserError(f"{path} does not describe an ablation: {violation(error)}") from None


class Failed(TypedDict):
    """Run that failed at the last try, as an entry of failures.json."""

    task: Text
    core: Text
    seed: Counter
    settings: NotRequired[Text]
    error: Text


def failures_in(path: Path) -> list[Failed]:
    """Return the entries of a failures.json; none without one, or with a line for a damaged one."""
    try:
        return read_json(path, list[Failed]) if path.is_file() else []
    except UserError as error:
        warn(f"dreamer: left out: {error}")
        return []


def settings_varied(folder: Path) -> list[str]:
    """Return the dotted paths of the settings that the sweep in `folder` varies; none where it holds no sweep."""
    if not (folder / MANIFEST).is_file():
        return []
    try:
        return [text.partition("=")[0] for text in arguments_of(folder).vary]
    except UserError as error:
        warn(f"dreamer: left out: {error}")
        return []


def manifest(args: SweepArguments) -> str:
    """Return the content of ablation.json."""
    search = {"vary": args.vary, "samples": args.samples, "sampler": args.sampler}
    values = {
        "format": FORMAT if args.vary else WITHOUT_VARY,
        **(search if args.vary else {}),
        "tasks": args.tasks,
        "cores": args.cores,
        "objectives": args.objectives,
        "seeds": args.seeds,
        "match_params": args.match_params,
        "command": command_line(),
        "commit": commit(),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "config": dataclasses.asdict(args.config),
    }
    return json.dumps(values, indent=2) + "\n"


def check_target(folder: Path, args: SweepArguments) -> None:
    """Raise `UserError` unless `folder` is free for this sweep, or holds it already."""
    check_folder(folder)
    try:
        names = {path.name for path in folder.iterdir()}
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"cannot use {folder} as a folder: {reason(error)}") from None
    if not names - UNSTARTED:
        return
    if MANIFEST not in names:
        raise UserError(f"{folder} already exists and is no sweep or ablation; choose another --folder")
    differences = list(_differences(arguments_of(folder), args))
    if differences:
        more = f", and {len(differences) - 4} more differ" if len(differences) > 4 else ""
        raise UserError(f"{folder} was started with other settings: {', '.join(differences[:4])}{more}")


def _differences(there: Any, here: Any, prefix: str = "") -> Iterator[str]:
    for field in dataclasses.fields(there):
        if field.name in OF_THE_CALL and not prefix:
            continue
        old, new = getattr(there, field.name), getattr(here, field.name)
        if dataclasses.is_dataclass(old):
            yield from _differences(old, new, "" if field.name == "config" else f"{prefix}{field.name}.")
        elif old != new:
            yield f"{flag(prefix + field.name)} is {_typed(old)} there and {_typed(new)} here"


def _typed(value: Any) -> str:
    return " ".join(map(str, value)) or "empty" if isinstance(value, tuple) else str(value)
