"""Console view: a live progress bar in a terminal, plain lines elsewhere."""

import contextlib
import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from io import TextIOBase
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.text import Text

from dreamer.tracking.views import Status, View
from envs.process import LOST

SHOWN = {
    "time/env_steps_per_second": "{:,.0f} env steps/s",
    "time/updates_per_second": "{:,.1f} updates/s",
    "train/return": "train return {:,.1f}",
    "eval/return_mean": "eval return {:,.1f}",
}
LINE_SECONDS = 10.0
BAR_SECONDS = 0.25
RATE_SECONDS = 120.0


class ConsoleView(View):
    """Shows step, ETA, speed and latest returns on `stream`, and stops after a failed write.

    Outside a terminal it prints at most one line every ten seconds, and one for every evaluation. The ETA follows the
    last two minutes.
    """

    title = "console"

    def __init__(
        self, total_steps: int, stream: TextIOBase | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._total = max(1, total_steps)
        self._stream: Any = stream or sys.stdout
        self._clock, self._last_shown = clock, -math.inf
        self._latest: dict[str, float] = {}
        self._pace: deque[tuple[float, int]] = deque()
        self._broken = self._stream is None
        self._bar: _Bar | None = None
        if not self._broken and _is_live(self._stream):
            self._guard(self._open_bar)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Show one record; never raises."""
        self._latest.update({name: value for name, value in values.items() if name in SHOWN})
        self._pace.append((self._clock(), step))
        while len(self._pace) > 2 and self._pace[1][0] < self._pace[-1][0] - RATE_SECONDS:
            self._pace.popleft()
        self._guard(lambda: self._show(step, values))

    def close(self, status: Status) -> None:
        """Stop the bar and leave its last state on the terminal."""
        if self._bar is not None:
            # Even a broken bar has hidden the cursor, which has to be shown again.
            with contextlib.suppress(Exception):
                self._bar.stop()

    def _open_bar(self) -> None:
        self._bar = _Bar(self._stream, self._total)
        self._bar.start()

    def _show(self, step: int, values: Mapping[str, float]) -> None:
        if "eval/return_mean" in values:
            self._print(_evaluation(step, values))
        now = self._clock()
        due = now - self._last_shown >= (LINE_SECONDS if self._bar is None else BAR_SECONDS)
        self._last_shown = now if due else self._last_shown
        if self._bar is not None:
            self._bar.show(step, self._eta(step), self._statistics(), redraw=due)
        elif due:
            share = min(100, 100 * step // self._total)
            parts = [f"step {step:,} of {self._total:,} ({share}%)", f"ETA {self._eta(step)}", *self._statistics()]
            self._print("  ".join(parts))

    def _statistics(self) -> list[str]:
        return [text.format(self._latest[name]) for name, text in SHOWN.items() if name in self._latest]

    def _eta(self, step: int) -> str:
        (then, first), (now, last) = self._pace[0], self._pace[-1]
        if last <= first or now <= then:
            return "-"
        return str(timedelta(seconds=round(max(0, self._total - step) * (now - then) / (last - first))))

    def _print(self, line: str) -> None:
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False)
        else:
            print(line, file=self._stream, flush=True)

    def _guard(self, action: Callable[[], None]) -> None:
        # A closed pipe or an unusual terminal must not stop a run, and its failure cannot be printed to it.
        if self._broken:
            return
        try:
            action()
        except Exception as error:
            self._broken = True
            if self._stream is sys.stdout and isinstance(error, OSError | ValueError):
                LOST.setdefault("stdout", error)


class _Bar(Progress):
    """Progress bar with a line of numbers below it. Only its caller redraws it; it has no thread."""

    def __init__(self, stream: Any, total: int) -> None:
        self._statistics = Text()
        super().__init__(
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TextColumn("{task.completed:,.0f} of {task.total:,.0f} steps"),
            TextColumn("ETA {task.fields[eta]}"),
            console=Console(file=stream),
            auto_refresh=False,
            expand=True,
        )
        self._task = self.add_task("", total=total, eta="-")

    def get_renderables(self) -> Iterable[RenderableType]:
        """Yield the bar and the line below it."""
        yield self.make_tasks_table(self.tasks)
        yield self._statistics

    def show(self, step: int, eta: str, statistics: list[str], redraw: bool) -> None:
        """Set the content of the bar; `redraw` draws it at once."""
        self._statistics = Text("  ".join(statistics), no_wrap=True, overflow="crop")
        self.update(self._task, completed=step, eta=eta, refresh=redraw)


def _is_live(stream: Any) -> bool:
    """Return True for a terminal that can move its cursor and encode the characters of the bar."""
    encoding = (getattr(stream, "encoding", None) or "ascii").lower()
    return stream.isatty() and os.environ.get("TERM", "") not in ("dumb", "unknown") and encoding.startswith("utf")


def _evaluation(step: int, values: Mapping[str, float]) -> str:
    line = f"step {step:,}  evaluation return {values['eval/return_mean']:,.1f}"
    if "eval/return_std" in values:
        line += f" (std {values['eval/return_std']:,.1f})"
    if "eval/episodes" in values:
        line += f" over {values['eval/episodes']:.0f} episodes"
    if "eval/mode_return_mean" in values:
        line += f", most likely actions {values['eval/mode_return_mean']:,.1f}"
    return line
