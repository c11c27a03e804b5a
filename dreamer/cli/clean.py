"""`dreamer clean`: deletes the replay of finished runs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from dreamer.cli.parsing import parse
from dreamer.errors import UserError, reason
from dreamer.experience.joining import replay_files
from dreamer.runs import checkpoint
from dreamer.runs.folder import locked, open_run
from dreamer.runs.trust import check_folder
from dreamer.system.files import MB
from dreamer.system.redaction import show, warn
from dreamer.training.state import Progress


@dataclass(frozen=True)
class CleanArguments:
    """Delete the replay of finished runs, which is most of what they take on disk. Nothing else is deleted.

    Such a run can still be evaluated, reported and named by --from. It cannot be extended with --steps.
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders, or folders with run folders at any depth."""
    dry_run: bool = False
    """Only print what would be deleted."""


def run(argv: Sequence[str]) -> int:
    """Print what each run frees, and a line for each that is refused; returns 2 where one is."""
    args = parse(CleanArguments, "clean", argv)
    if not args.runs:
        raise UserError("name the run folders to clean")
    runs = list(dict.fromkeys(run for path in args.runs for run in _runs_in(path)))
    freed, refused = list[int](), 0
    for path in runs:
        try:
            freed.append(clean(path, args.dry_run))
            show(f"{freed[-1] / MB:>10,.1f} MB  {path}")
        except UserError as error:
            refused += 1
            warn(f"dreamer: {error}")
    if freed:
        count = "1 run" if len(freed) == 1 else f"{len(freed)} runs"
        show(f"{sum(freed) / MB:>10,.1f} MB  {'would be ' if args.dry_run else ''}freed in {count}")
    return 2 if refused else 0


def clean(path: Path, dry_run: bool = False) -> int:
    """Delete the replay of a finished run; returns the bytes on disk that this frees.

    Raises `UserError` for a run that is not finished, that another process is training, or whose files cannot be
    deleted.
    """
    folder = open_run(path)
    with locked(folder.path):
        step, state, _ = checkpoint.load(folder.checkpoints)
        if not Progress.of(state).finished(folder.config.steps):
            raise UserError(
                f"{path} is not finished (step {step:,} of {folder.config.steps:,}) and needs its replay to be resumed"
            )
        folders = [folder.replay, *sorted(folder.path.glob("rank_*/replay"))]
        files = [file for each in folders for file in replay_files(each)]
        freed = sum(file.lstat().st_blocks * 512 for file in files)
        try:
            for file in () if dry_run else files:
                file.unlink()
        except OSError as error:
            raise UserError(f"cannot delete {file}: {reason(error)}") from None
        return freed


def _runs_in(path: Path) -> Iterator[Path]:
    """Yield the run folders at or below a folder, or the folder itself where there is none."""
    check_folder(path)
    found = False
    for name, folders, files in os.walk(path):
        folders.sort()
        if "run.json" in files:
            folders.clear()
            found = True
            yield Path(name)
    if not found:
        yield path
