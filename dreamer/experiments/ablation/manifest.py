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

from dreamer.config import Config, from_json
from dreamer.errors import UserError, reason
from dreamer.runs.provenance import command_line, commit
from dreamer.runs.trust import check_folder
from envs.ranges import Few

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
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
        if written["format"] != FORMAT:
            raise UserError(f"it has format {written['format']}, this version reads format {FORMAT}")
        return AblateArguments(
            from_json(json.dumps(written["config"])),
            tasks=tuple(written["tasks"]),
            cores=tuple(written["cores"]),
            objectives=tuple(written["objectives"]),
            seeds=int(written["seeds"]),
            match_params=bool(written["match_params"]),
            folder=folder,
        )
    except FileNotFoundError:
        raise UserError(f"no ablation at {folder}: {path} is missing; to start one, name its --tasks") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} does not describe an ablation: {type(error).__name__}: {error}") from None


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
            flag = f"--{prefix}{field.name}".replace("_", "-")
            yield f"{flag} is {_typed(old)} there and {_typed(new)} here"


def _typed(value: Any) -> str:
    return " ".join(map(str, value)) or "empty" if isinstance(value, tuple) else str(value)
