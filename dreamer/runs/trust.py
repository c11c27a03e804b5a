"""Checks of run folders that may come from an untrusted source."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Collection, Sequence
from itertools import islice
from pathlib import Path

from dreamer.config import Config
from dreamer.errors import UserError, reason
from dreamer.tracking.config import TrackingConfig
from dreamer.tracking.destination import flags, foreign

ENTRIES = 200_000
"""Largest number of entries below a folder. A run has hundreds, and a large ablation has hundreds of runs."""
LEFT_BY_WANDB = re.compile(r"(^|/)wandb/(offline-)?run-[^/]+/logs/debug-core\.log$")
"""Path of the link to its service's log that W&B creates in every run. `dreamer` never opens it."""
DEPTH = 32
"""Largest depth of nested folders. In an ablation, files of W&B are eight levels deep."""


def check_folder(path: Path) -> None:
    """Raise `UserError` for a folder that is not safe to read or write. A missing folder is accepted.

    Call this before opening any file in the folder. It walks the whole tree and opens no file. It refuses links that
    lead out of the folder, entries that are neither files nor folders (opening a pipe would block), more than `ENTRIES`
    entries, and more than `DEPTH` levels.
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
                    raise UserError(f"{place} is a link to {target}; links out of {path} are refused")
            elif entry.is_dir(follow_symlinks=False):
                waiting.append((place, depth + 1))
            elif not entry.is_file(follow_symlinks=False) and os.path.lexists(place):
                raise UserError(f"{place} is neither a file nor a folder")


def check_imports(config: Config, named: Collection[str], path: Path, tasks: Sequence[str] = ()) -> None:
    """Raise `UserError` if the configuration imports modules that the user has not named.

    `named` are the modules named by the user. Modules that are already imported are accepted, since importing them
    again runs no code. `tasks` replace the task of the configuration. The message says which flag permits the import.
    """
    foreign = [name for name in modules_of(config, tasks) if name not in named and name not in sys.modules]
    if foreign:
        names = " ".join(foreign)
        raise UserError(f"{path} imports {names}, which runs its code; if you trust it, add --env-import {names}")


def check_destination(
    tracking: TrackingConfig, named: Collection[str], path: Path, prefix: str = "--tracking."
) -> None:
    """Raise `UserError` if only the folder names the W&B entity or project; `named` is as in `destination.foreign`."""
    found = foreign(tracking, named) if tracking.wandb != "off" else {}
    if found:
        raise UserError(f"{path} says where in W&B its data go; if you trust it, add{flags(found, prefix)}")


def modules_of(config: Config, tasks: Sequence[str] = ()) -> list[str]:
    """Modules imported to create the environments of a configuration; `tasks` replace its task."""
    names = [task.removeprefix("gym:") for task in tasks or (config.task,) if task.startswith("gym:")]
    modules = (*config.env.imports, *(name.rpartition(":")[0] for name in names))
    return list(dict.fromkeys(module for module in modules if module))


def agreement(config: Config, tasks: Sequence[str] = ()) -> str:
    """Options that a command on a folder of this configuration needs, because it imports the user's modules."""
    modules = modules_of(config, tasks)
    return f" --env-import {shlex.join(modules)}" if modules else ""


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:  # a link to itself
        raise UserError(f"{path} cannot be read: {error}") from None


def _entries(path: Path, limit: int) -> list[os.DirEntry[str]]:
    """At most `limit` entries of a folder, sorted by name; empty if the folder does not exist."""
    try:
        with os.scandir(path) as entries:
            return sorted(islice(entries, limit), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(f"cannot read {path}: {reason(error)}") from None
