"""`dreamer ablate`: the full agent for every task, core and seed, in one folder and restartable at any point.

FOLDER/ablation.json             what belongs together: tasks, cores, seeds and all settings that the runs share
FOLDER/<task>/<core>/seed<k>/    run folders
FOLDER/logs/*.log                output of the processes that did the runs
FOLDER/failures.json             what failed when last tried, tried again by a restart
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from dreamer import checkpoint, run
from dreamer.config import Config, from_json, validated, words
from dreamer.errors import UserError
from dreamer.experiments import grid
from dreamer.experiments.grid import Cell
from dreamer.experiments.jobs import Job, do_all
from dreamer.experiments.progress import Progress
from dreamer.redaction import show
from dreamer.run import RunFolder
from dreamer.tracking.destination import flags, foreign
from dreamer.trust import agreement, check_counters, check_folder, understood

FORMAT = 2
MANIFEST = "ablation.json"
UNBEGUN = {".lock", f"{MANIFEST}.tmp"}
"""What an ablation that was killed in its first moment may leave."""


@dataclass(frozen=True)
class AblateArguments:
    """Train the full agent for every task, core and seed. The same command, or --folder alone, goes on."""

    config: Annotated[Config, tyro.conf.arg(name="")]
    """Configuration that all runs share; tasks, cores, latents, objectives and seeds come from the options below."""
    tasks: tuple[str, ...] = ()
    """Tasks, separated by spaces or commas."""
    cores: tuple[str, ...] = ("all",)
    """Cores, separated by spaces or commas: CORE, CORE:LATENT (such as rssm:gaussian), or all."""
    objectives: tuple[str, ...] = ("reconstruction",)
    """Objectives of representation that every core is trained with: reconstruction, r2, or both."""
    seeds: int = 3
    """Number of seeds; they are 0, 1, ..."""
    match_params: bool = False
    """Change the cores' widths until all agents have as many parameters as with the rssm core, within 2 %."""
    folder: Path | None = None
    """Folder of the ablation, to make or to go on with; default runs/ablation_<time>."""
    jobs: int = 1
    """Runs done at a time; with several, each gets its share of the cores of this machine."""


def arguments_of(folder: Path) -> AblateArguments:
    """What an ablation was started with; raises `UserError` when `folder` holds none of this version."""
    check_folder(folder)
    path = folder / MANIFEST
    try:
        written = json.loads(path.read_text())
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
        raise UserError(f"no ablation at {folder}: {path} is missing; to begin one, name its --tasks") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} does not describe an ablation: {type(error).__name__}: {error}") from None


def ablate(args: AblateArguments) -> int:
    """Do all runs that are not finished; returns 0 when all are, 1 when some failed, 130 when asked to stop.

    Raises `UserError` for all that can be known to be impossible before the first run starts.
    """
    args = _checked(args)
    folder = args.folder or Path("runs") / f"ablation_{datetime.datetime.now():%Y%m%d-%H%M%S}"
    _check_folder(folder, args)
    device = run.choose_device(args.config.device)
    cells = grid.cells(args.tasks, grid.with_objectives(args.cores, args.objectives), args.seeds)
    pending = [cell for cell in cells if not _is_finished(folder / cell.place, args.config.steps)]
    configs = grid.configurations(args.config, pending, folder.resolve().name, args.match_params)
    jobs = [Job(cell, folder / cell.place, _log(folder, cell), configs[cell]) for cell in pending]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with RunFolder(folder, args.config, {}).locked():
            _check_folder(folder, args)
            if not (folder / MANIFEST).exists():
                checkpoint.write_atomically(folder / MANIFEST, _manifest(args).encode())
            show(f"{folder}: {len(cells)} runs on {device}, {len(cells) - len(jobs)} of them finished")
            progress = Progress(folder / "failures.json", len(cells), pending)
            done = do_all(jobs, args.jobs, progress.started, progress.ended)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UserError(f"cannot work in {folder}: {error}") from None
    again = f"dreamer ablate --folder {shlex.quote(str(folder))}{agreement(args.config, args.tasks)}"
    again += flags(foreign(args.config.tracking))
    if not done:
        show(f"stopped; go on with: {again}")
        return 130
    for cell, reason in progress.failures.items():
        show(f"failed  {cell}: {reason}")
    if progress.failures:
        show(f"try the failed ones again with: {again}")
    show(f"next: dreamer report {shlex.quote(str(folder))}")
    return 1 if progress.failures else 0


def _checked(args: AblateArguments) -> AblateArguments:
    """The same arguments with names at their shortest; raises `UserError` for impossible ones."""
    tasks, cores = words(args.tasks), grid.variants(words(args.cores))
    objectives = grid.objectives(words(args.objectives))
    if not tasks or not cores or not objectives:
        raise UserError("name at least one task and one core, such as --tasks dmc:walker_walk --cores rssm,rnn")
    for name, number in (("--seeds", args.seeds), ("--jobs", args.jobs)):
        if number < 1:
            raise UserError(f"{name}: must be at least 1 (got {number})")
    return dataclasses.replace(args, config=validated(args.config), tasks=tasks, cores=cores, objectives=objectives)


def _check_folder(folder: Path, args: AblateArguments) -> None:
    """Raise `UserError` unless `folder` is free for this ablation, or is this ablation."""
    check_folder(folder)
    try:
        names = {path.name for path in folder.iterdir()}
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"cannot use {folder} as a folder: {error.strerror}") from None
    if not names - UNBEGUN:
        return
    if MANIFEST not in names:
        raise UserError(f"{folder} already exists and is not an ablation; pick another --folder")
    differences = list(_differences(arguments_of(folder), args))
    if differences:
        more = f", and {len(differences) - 4} more differ" if len(differences) > 4 else ""
        raise UserError(f"{folder} was begun with other settings: {', '.join(differences[:4])}{more}")


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


def _manifest(args: AblateArguments) -> str:
    values = {
        "format": FORMAT,
        "tasks": args.tasks,
        "cores": args.cores,
        "objectives": args.objectives,
        "seeds": args.seeds,
        "match_params": args.match_params,
        "command": run.command_line(),
        "commit": run.commit(),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "config": dataclasses.asdict(args.config),
    }
    return json.dumps(values, indent=2) + "\n"


def _log(folder: Path, cell: Cell) -> Path:
    return folder / "logs" / f"{'_'.join(cell.place.parts)}.log"


def _is_finished(run_dir: Path, steps: int) -> bool:
    try:
        step, state, _ = checkpoint.load(run_dir / "checkpoints")
    except UserError:
        return False
    with understood(run_dir / "checkpoints"):
        check_counters(state, step)
    return step >= steps and bool(state["evaluated_at"] == step)
