"""What is believed of a run folder, which somebody else may have made: that it holds data, and nothing more."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from dreamer.config import Config
from dreamer.errors import UserError, first_line
from dreamer.tracking.config import TrackingConfig
from dreamer.tracking.destination import flags, foreign

ENTRIES = 200_000
"""Files and folders in a folder, at most: a run leaves hundreds, and a large ablation has hundreds of runs."""
LEFT_BY_WANDB = re.compile(r"(^|/)wandb/(offline-)?run-[^/]+/logs/debug-core\.log$")
"""A link to the log of its service in the user's cache, which W&B leaves in every run and nobody here opens."""
DEPTH = 32
"""Folders in one another, at most: W&B's files lie eight deep in an ablation."""


def check_folder(path: Path) -> None:
    """Refuse a folder that leads out of itself, or never ends, when it is read or written; a missing one is none.

    Looks at everything below it and opens nothing, so call it before anything there is opened. Raises `UserError` for a
    link to a place outside of the folder at any depth, for what is neither a file nor a folder (a pipe would block
    whoever opens it), and for more than `ENTRIES` entries or `DEPTH` levels, which would take for ever.
    """
    inside, seen = _resolved(path), 0
    waiting = [(path, 1)]
    while waiting:
        folder, depth = waiting.pop()
        entries = _entries(folder, ENTRIES - seen + 1)
        seen += len(entries)
        if seen > ENTRIES:
            raise UserError(f"{path} holds more than {ENTRIES:,} files and folders, which no run or ablation does")
        if depth > DEPTH and entries:
            raise UserError(f"{folder} lies more than {DEPTH} folders deep in {path}, as nothing in a run does")
        for entry in entries:
            place = Path(entry)
            if entry.is_symlink():
                target = _resolved(place)
                if not target.is_relative_to(inside) and not LEFT_BY_WANDB.search(place.as_posix()):
                    raise UserError(f"{place} is a link to {target}; {path} must hold what is its own")
            elif entry.is_dir(follow_symlinks=False):
                waiting.append((place, depth + 1))
            elif not entry.is_file(follow_symlinks=False) and os.path.lexists(place):
                raise UserError(f"{place} is neither a file nor a folder")


def check_imports(config: Config, named: Collection[str], path: Path, tasks: Sequence[str] = ()) -> None:
    """Refuse to import, and so to run, what only a run folder names; `named` are the modules that the user names.

    `tasks` take the place of the configuration's own. Modules that this process has already imported run no code any
    more. Raises `UserError` that says how to agree.
    """
    foreign = [name for name in modules_of(config, tasks) if name not in named and name not in sys.modules]
    if foreign:
        names = " ".join(foreign)
        raise UserError(f"{path} imports {names}, which runs its code; if you trust it, add --env-import {names}")


def check_destination(
    tracking: TrackingConfig, named: Collection[str], path: Path, prefix: str = "--tracking."
) -> None:
    """Refuse to send data to a W&B entity or project that only a folder names; `named` as of `destination.foreign`."""
    found = foreign(tracking, named) if tracking.wandb != "off" else {}
    if found:
        raise UserError(f"{path} says where in W&B its data go; if you trust it, add{flags(found, prefix)}")


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


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:  # a link to itself
        raise UserError(f"{path} cannot be read: {error}") from None


def _entries(path: Path, limit: int) -> list[os.DirEntry[str]]:
    """What is in a folder, at most `limit` of it, by name; nothing where there is no folder (any more)."""
    try:
        with os.scandir(path) as entries:
            return sorted(islice(entries, limit), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
