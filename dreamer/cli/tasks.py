"""`dreamer tasks`: lists the tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import tyro

import envs
from dreamer.cli.parsing import parse
from dreamer.errors import UserError
from dreamer.system.redaction import show


@dataclass(frozen=True)
class TasksArguments:
    """List the tasks that can be trained on this machine."""

    contains: tyro.conf.Positional[str] = ""
    """Show only names that contain this text."""


def run(argv: Sequence[str]) -> int:
    """Print the names of the tasks, one a line."""
    args = parse(TasksArguments, "tasks", argv)
    names = [name for family in envs.tasks().values() for name in family if args.contains in name]
    if not names:
        raise UserError(f"no task contains {args.contains!r}; `dreamer tasks` lists all")
    show(*names)
    return 0
