"""The `dreamer` command: finds the module of a subcommand and turns users' mistakes into one line.

A subcommand's module is imported when it is called, so that no command waits for torch without using it.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import shlex
import sys
from collections.abc import Callable, Sequence

from dreamer.__main__ import SLOW
from dreamer.cli import commands
from dreamer.cli.parsing import HELP
from dreamer.errors import UserError, first_line, reason
from dreamer.system.isolation import ignore_current_folder, print_warnings, use_utf8
from dreamer.system.redaction import redact_command, show, warn
from envs.process import INTERRUPTED, LOST, open_streams

COMMANDS = {
    "train": "train an agent, or resume a run",
    "evaluate": "run episodes without learning; record a video",
    "imagine": "compare open-loop predictions with held-out episodes; figures, videos, errors",
    "tasks": "list the tasks",
    "diagnose": "check a run for signs of trouble, with advice",
    "track": "send a run to W&B or TensorBoard afterwards",
    "clean": "delete the replay of finished runs",
    "bench": "measure the cost of updates and of acting",
    "doctor": "print environment information",
    "debug-batch": "repeat a skipped update and locate the first value that is not finite",
    "exam": "measure what each dynamics core can represent",
    "sweep": "train every combination of tasks, settings and seeds, or search over settings",
    "ablate": "train every combination of task, core and seed",
    "report": "write a page about a run, or a comparison of the runs of a sweep",
    "compare": "compare runs with published returns of other methods",
}
"""Subcommands and their descriptions; each is a function of `commands`, or `run` of the module of its name."""
WRITING = ("train", "sweep", "ablate")
"""Commands whose result is a folder. They have done their work even if their output cannot be written."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status.

    A mistake of the user and a failure of the system give one line on standard error and status 2. So does an output
    that cannot be written, unless its reader has left (`| head`).
    """
    if argv is None:
        use_utf8()
    argv = list(sys.argv[1:] if argv is None else argv)
    open_streams()
    LOST.clear()
    try:
        status = _run(argv)
    except SystemExit as stop:  # the help
        raise SystemExit(_with_output(int(stop.code or 0))) from None
    return status if argv and argv[0] in WRITING else _with_output(status)


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in HELP:
        show(*_usage())
        return 0 if argv else 2
    if redact_command(shlex.join(argv)) != shlex.join(argv):
        warn("dreamer: a word of this command looks like a secret; leave it in the environment")
        return 2
    try:
        command = _command(argv[0])
        ignore_current_folder()
        with print_warnings(), _progress(argv[0]):
            return command(argv[1:])
    except UserError as error:
        warn(f"dreamer: {error}")
    except KeyboardInterrupt:
        return INTERRUPTED
    except (OSError, MemoryError) as error:
        warn(f"dreamer: {first_line(error)}")
    return 2


def _progress(name: str) -> contextlib.AbstractContextManager[None]:
    """Context in which a command shows its progress; `WRITING` ones print lines of their own."""
    if name in WRITING or name not in SLOW:
        return contextlib.nullcontext()
    from dreamer.tracking.progress import command_progress  # imports torch, as the command does

    return command_progress()


def _with_output(status: int) -> int:
    """Return an exit status, or 2 with a line where the output of a command was lost."""
    error = LOST.get("stdout")
    if error is None or getattr(error, "errno", None) == errno.EPIPE:
        return status
    warn(f"dreamer: cannot write standard output: {reason(error)}")
    return 2


def _command(name: str) -> Callable[[Sequence[str]], int]:
    if name not in COMMANDS:
        raise UserError(f"unknown command {name!r}; choose from {', '.join(COMMANDS)}")
    name = name.replace("-", "_")
    short: Callable[[Sequence[str]], int] | None = getattr(commands, name, None)
    return short or importlib.import_module(f"dreamer.cli.{name}").run


def _usage() -> list[str]:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()]
    hint = "`dreamer COMMAND --help` shows the common options, `--help-all` all."
    return ["usage: dreamer COMMAND [OPTIONS]", "", *lines, "", hint]
