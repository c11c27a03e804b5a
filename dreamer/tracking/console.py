"""Console: a live progress bar in a terminal, plain lines everywhere else."""

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
    """Shows step, ETA, speed and latest returns on `stream`; a stream that cannot be written to is left alone.

    Without a terminal one line at most every ten seconds, and one for every evaluation. The ETA follows the last two
    minutes.
    """

    title = "console"

    def __init__(
        self, total_steps: int, stream: TextIOBase | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._total = max(1, total_steps)
        self._stream: Any = stream or sys.stdout
        self._clock = clock
        self._latest: dict[str, float] = {}
        self._pace: deque[tuple[float, int]] = deque()
        self._last_shown = -math.inf
        self._broken = False
        self._bar: _Bar | None = None
        if _is_live(self._stream):
            self._guard(self._open_bar)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Show one record; never raises."""
        self._latest.update({name: value for name, value in values.items() if name in SHOWN})
        self._pace.append((self._clock(), step))
        while len(self._pace) > 2 and self._pace[1][0] < self._pace[-1][0] - RATE_SECONDS:
            self._pace.popleft()
        self._guard(lambda: self._show(step, values))

    def close(self, status: Status) -> None:
        """Leave the bar as it stands and give the terminal back."""
        if self._bar is not None:
            # Even a bar that broke has hidden the cursor, which must come back.
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
        # A closed pipe or an odd terminal is no reason to stop a run, and cannot be reported where it broke.
        if self._broken:
            return
        try:
            action()
        except Exception:
            self._broken = True


class _Bar(Progress):
    """A progress bar with a line of numbers below; redrawn by its caller alone, without a thread of its own."""

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
        """Set what the bar says, and draw it now or with the next drawing."""
        self._statistics = Text("  ".join(statistics), no_wrap=True, overflow="crop")
        self.update(self._task, completed=step, eta=eta, refresh=redraw)


def _is_live(stream: Any) -> bool:
    """Tell whether a bar can be drawn: a terminal that moves its cursor and knows the characters of the bar."""
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
