"""What is believed of a run folder, which somebody else may have made: that it holds data, and nothing more."""

from __future__ import annotations

import shlex
import stat
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dreamer.config import Config
from dreamer.errors import UserError, first_line

OF_A_RUN = ("checkpoints", "replay", "videos", "faults", "tensorboard", "wandb", "imagination", "imagination/*")
"""Folders in which a run keeps its files."""
OF_AN_ABLATION = ("*", "*/*")
"""Folders in which an ablation keeps its runs, logs and figures."""


def check_folder(path: Path, folders: Iterable[str] = OF_A_RUN) -> None:
    """Refuse what would lead out of the folder, or never end, when it is read or written.

    `folders` are patterns of the folders in it that are looked into, too. Raises `UserError` for a link to a place
    outside of the folder, and for what is neither a file nor a folder.
    """
    check_entries(path, _entries(path))
    for pattern in folders:
        for folder in path.glob(pattern):
            check_entries(path, _entries(folder))


def check_entries(path: Path, entries: Iterable[Path]) -> None:
    """Refuse such files and folders among `entries` of the folder `path`."""
    inside = path.resolve()
    for entry in entries:
        try:
            target = entry.resolve()
            if entry.is_symlink() and not target.is_relative_to(inside):
                raise UserError(f"{entry} is a link to {target}; {path} must hold what is its own")
            mode = entry.stat().st_mode if entry.exists() else stat.S_IFREG
        except (OSError, RuntimeError) as error:  # a link to itself
            raise UserError(f"{entry} cannot be read: {error}") from None
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise UserError(f"{entry} is neither a file nor a folder")


def check_imports(config: Config, named: Collection[str], path: Path, tasks: Sequence[str] = ()) -> None:
    """Refuse to import, and so to run, what only a run folder names; `named` are the modules that the user names.

    `tasks` take the place of the configuration's own. Modules that this process has already imported run no code any
    more. Raises `UserError` that says how to agree.
    """
    foreign = [name for name in modules_of(config, tasks) if name not in named and name not in sys.modules]
    if foreign:
        names = " ".join(foreign)
        raise UserError(f"{path} imports {names}, which runs its code; if you trust it, add --env-import {names}")


def modules_of(config: Config, tasks: Sequence[str] = ()) -> list[str]:
    """Modules that are imported to make the environments of a configuration, or of other tasks than its own."""
    names = [task.removeprefix("gym:") for task in tasks or (config.task,) if task.startswith("gym:")]
    modules = (*config.env.imports, *(name.rpartition(":")[0] for name in names))
    return list(dict.fromkeys(module for module in modules if module))


def agreement(config: Config, tasks: Sequence[str] = ()) -> str:
    """What a command on a folder of this configuration must add, because it imports modules of the user's."""
    modules = modules_of(config, tasks)
    return f" --env-import {shlex.join(modules)}" if modules else ""


def check_counters(state: Mapping[str, Any], step: int) -> None:
    """Raise `ValueError` for counters of a checkpoint of environment step `step` that no run can have."""
    for name in ("step", "updates", "episodes", "metrics_offset", "evaluated_at"):
        if type(state[name]) is not int or not -1 <= state[name] < 2**62:
            raise ValueError(f"{name} is no count")
    if state["step"] != step:
        raise ValueError(f"it is of step {state['step']} and not {step}")
    numbers = [state["elapsed"], *dict(state["evaluation"]).values()]
    if not all(isinstance(number, float) for number in numbers):
        raise ValueError("times and evaluations must be numbers")


@contextmanager
def understood(path: Path) -> Iterator[None]:
    """Whatever goes wrong with the content of a checkpoint that is whole and says something else than it should."""
    try:
        yield
    except UserError:
        raise
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise UserError(f"the checkpoint in {path} does not fit this run: {reason}") from error


def _entries(path: Path) -> list[Path]:
    try:
        return sorted(path.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
