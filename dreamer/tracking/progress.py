"""Progress: what the running code does, shown on the display of the training or command that runs it.

From Python, where neither runs, nothing is shown.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

T = TypeVar("T")

BAR_SECONDS = 0.25


@dataclass
class Phase:
    """Part of a training or command that is shown while it lasts."""

    name: str
    """One or two words, such as "evaluating"."""
    total: int = 0
    """Units of work; 0 is unknown."""
    unit: str = ""
    """Name of the units, such as "steps"."""
    done: int = 0
    """Units done."""
    began: float = field(default_factory=time.monotonic)

    @property
    def count(self) -> str:
        """Text such as "250 of 1,000 steps"; empty before anything is done."""
        if not (self.total or self.done):
            return ""
        return f"{self.done:,}{f' of {self.total:,}' if self.total else ''} {self.unit}".rstrip()

    def __str__(self) -> str:
        return f"{self.name} {self.count}".rstrip()


class Display:
    """Shows the phases that the code has entered and not left, the outermost first."""

    def __init__(self) -> None:
        self.phases: list[Phase] = []

    def refresh(self, at_once: bool = False) -> None:
        """Show the present phases; `at_once` where they have changed."""


DISPLAYS: list[Display] = []
"""Displays of the training and of the command that run; the last one is used."""


@contextlib.contextmanager
def phase(name: str, total: int = 0, unit: str = "") -> Iterator[Callable[[int], None]]:
    """Context whose name is shown while it lasts. It yields a function that shows how many units are done."""
    display, current = DISPLAYS[-1] if DISPLAYS else Display(), Phase(name, total, unit)

    def show(done: int) -> None:
        current.done = done
        display.refresh()

    display.phases.append(current)
    display.refresh(at_once=True)
    try:
        yield show
    finally:
        display.phases.remove(current)
        display.refresh(at_once=True)


def follow(items: Iterable[T], name: str, total: int = 0, unit: str = "") -> Iterator[T]:
    """Yield the items of a phase and show how many are done."""
    with phase(name, total, unit) as show:
        for done, item in enumerate(items):
            show(done)
            yield item


@contextlib.contextmanager
def command_progress() -> Iterator[None]:
    """Context of a command that shows its phases, while they last, on standard error if that is a terminal."""
    display = _CommandDisplay(sys.stderr) if sys.stderr is not None and is_live(sys.stderr) else Display()
    DISPLAYS.append(display)
    try:
        yield
    finally:
        DISPLAYS.remove(display)


class _CommandDisplay(Display):
    """One line with a bar, which disappears with the last phase."""

    def __init__(self, stream: Any) -> None:
        super().__init__()
        self._stream, self._shown_at = stream, -math.inf
        self._live: Live | None = None

    def refresh(self, at_once: bool = False) -> None:
        """Draw the line; a display that cannot be written must not stop a command."""
        with contextlib.suppress(Exception):
            self._refresh(at_once)

    def _refresh(self, at_once: bool) -> None:
        now = time.monotonic()
        if not self.phases:
            live, self._live = self._live, None
            if live is not None:
                live.stop()
            return
        if not at_once and now - self._shown_at < BAR_SECONDS:
            return
        self._shown_at = now
        if self._live is None:
            self._live = open_live(self._stream, transient=True)
        inner = self.phases[-1]
        details = inner.count
        if inner.total and inner.done:
            details += f"  ETA {duration((now - inner.began) * (inner.total - inner.done) / inner.done)}"
        name = ", ".join([*map(str, self.phases[:-1]), inner.name])
        self._live.update(row(name, inner.done, inner.total, details), refresh=True)


def open_live(stream: Any, transient: bool) -> Live:
    """A started display at the bottom of a terminal. Only its owner redraws it; it has no thread.

    Lines that are printed meanwhile, and go to a terminal too, appear above it.
    """
    to_terminal = [other is not None and other.isatty() for other in (sys.stdout, sys.stderr)]
    live = Live(
        console=Console(file=stream),
        auto_refresh=False,
        transient=transient,
        redirect_stdout=to_terminal[0],
        redirect_stderr=to_terminal[1],
    )
    live.start()
    return live


def row(name: str, done: int, total: int, details: str) -> Table:
    """One line of a terminal: a name, a bar where the total is known, and details."""
    line = Table.grid(padding=(0, 1), expand=True)
    line.add_column(no_wrap=True)
    line.add_column(ratio=1)
    line.add_column(no_wrap=True, justify="right")
    line.add_row(name, ProgressBar(total=total, completed=done) if total else "", details)
    return line


def duration(seconds: float) -> str:
    """Text such as 0:01:30."""
    return str(timedelta(seconds=round(seconds)))


def is_live(stream: Any) -> bool:
    """True for a terminal that can move its cursor and encode the characters of the bar."""
    encoding = (getattr(stream, "encoding", None) or "ascii").lower()
    return stream.isatty() and os.environ.get("TERM", "") not in ("dumb", "unknown") and encoding.startswith("utf")
