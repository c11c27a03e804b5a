"""Options of an ablation, and ablation.json, which holds them so that the ablation can be resumed."""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from typing_extensions import TypedDict

from dreamer.config import Config, from_dict
from dreamer.errors import UserError, reason
from dreamer.runs.provenance import command_line, commit
from dreamer.runs.trust import check_folder
from dreamer.system.files import Counter, Text, read_json
from dreamer.system.redaction import warn
from envs.ranges import Few, adapter, flag, violation

FORMAT = 2
MANIFEST = "ablation.json"
UNSTARTED = {".lock", f"{MANIFEST}.tmp"}
"""Files that an ablation may leave when it is killed before its manifest is written."""


@dataclass(frozen=True)
class AblateArguments:
    """Train the full agent for every task, core and seed. The same command, or --folder alone, resumes."""

    config: Annotated[Config, tyro.conf.arg(name="")]
    """Configuration that all runs share. The options below set tasks, cores, latents, objectives and seeds."""
    tasks: tuple[str, ...] = ()
    """Tasks, separated by spaces or commas."""
    cores: tuple[str, ...] = ("all",)
    """Cores, separated by spaces or commas: CORE, CORE:LATENT (such as rssm:gaussian), or all."""
    objectives: tuple[str, ...] = ("reconstruction",)
    """Representation objectives that every core is trained with: reconstruction, r2, or both."""
    seeds: Few = 3
    """Number of seeds, which are 0, 1, ..."""
    match_params: bool = False
    """Change the widths of the cores until all agents have as many parameters as with the rssm core, within 2 %."""
    folder: Path | None = None
    """Folder of the ablation, new or to be resumed. Default: runs/ablation_<time>."""
    jobs: Few = 1
    """Number of runs at a time. With several, the runs share the processor cores of this machine."""


def arguments_of(folder: Path) -> AblateArguments:
    """Return the options of the ablation in `folder`; raises `UserError` when it holds none of this version."""
    check_folder(folder)
    path = folder / MANIFEST
    if not path.exists():
        raise UserError(f"no ablation at {folder}: {path} is missing; to start one, name its --tasks")
    written = read_json(path, dict[str, Any])
    if written.get("format") != FORMAT:
        raise UserError(f"{path}: it has format {written.get('format')!r:.20}, this version reads format {FORMAT}")
    names = ("tasks", "cores", "objectives", "seeds", "match_params")
    try:
        given = {name: written[name] for name in names} | {"folder": folder}
        return adapter(AblateArguments).validate_python(given | {"config": from_dict(dict(written["config"]))})
    except (LookupError, TypeError, ValueError) as error:
        raise UserError(f"{path} does not describe an ablation: {violation(error)}") from None


class Failed(TypedDict):
    """Run that failed at the last try, as an entry of failures.json."""

    task: Text
    core: Text
    seed: Counter
    error: Text


def failures_in(path: Path) -> list[Failed]:
    """Return the entries of a failures.json; none without one, or with a line for a damaged one."""
    try:
        return read_json(path, list[Failed]) if path.is_file() else []
    except UserError as error:
        warn(f"dreamer: left out: {error}")
        return []


def manifest(args: AblateArguments) -> str:
    """Return the content of ablation.json."""
    values = {
        "format": FORMAT,
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


def check_target(folder: Path, args: AblateArguments) -> None:
    """Raise `UserError` unless `folder` is free for this ablation, or holds it already."""
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
        raise UserError(f"{folder} already exists and is not an ablation; choose another --folder")
    differences = list(_differences(arguments_of(folder), args))
    if differences:
        more = f", and {len(differences) - 4} more differ" if len(differences) > 4 else ""
        raise UserError(f"{folder} was started with other settings: {', '.join(differences[:4])}{more}")


def _differences(there: Any, here: Any, prefix: str = "") -> Iterator[str]:
    for field in dataclasses.fields(there):
        old, new = getattr(there, field.name), getattr(here, field.name)
        if dataclasses.is_dataclass(old):
            yield from _differences(old, new, "" if field.name == "config" else f"{prefix}{field.name}.")
        elif old != new and field.name not in ("folder", "jobs"):
            yield f"{flag(prefix + field.name)} is {_typed(old)} there and {_typed(new)} here"


def _typed(value: Any) -> str:
    return " ".join(map(str, value)) or "empty" if isinstance(value, tuple) else str(value)
