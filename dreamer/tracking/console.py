"""Console view: a live progress bar in a terminal, plain lines elsewhere."""

import contextlib
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from io import TextIOBase
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.text import Text

from dreamer.tracking.progress import BAR_SECONDS, DISPLAYS, Display, duration, is_live, open_live, row
from dreamer.tracking.views import Status, View
from envs.process import LOST

SHOWN = {
    "time/env_steps_per_second": "{:,.0f} env steps/s",
    "time/updates_per_second": "{:,.1f} updates/s",
    "train/return": "train return {:,.1f}",
    "eval/return_mean": "eval return {:,.1f}",
}
LINE_SECONDS = 10.0
RATE_SECONDS = 120.0


class ConsoleView(View, Display):
    """Shows phase, step, ETA, speed and latest returns on `stream`, and stops after a failed write.

    Outside a terminal it prints at most one line every ten seconds, and one for every evaluation. The ETA follows the
    last two minutes.
    """

    title = "console"

    def __init__(
        self, total_steps: int, stream: TextIOBase | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self._total = max(1, total_steps)
        self._stream: Any = stream or sys.stdout
        self._clock, self._last_shown = clock, -math.inf
        self._step, self._between = 0, "collecting"
        self._latest: dict[str, float] = {}
        self._pace: deque[tuple[float, int]] = deque()
        self._broken = self._stream is None
        self._live: Live | None = None
        if not self._broken and is_live(self._stream):
            self._guard(self._open)
        DISPLAYS.append(self)

    def advance(self, step: int, learning: bool) -> None:
        """Show the present step in the bar, and that updates are made or steps are only collected; never raises."""
        self._step, self._between = step, "learning" if learning else "collecting"
        if self._live is not None and self._is_due():
            self._measure()
            self._guard(self._draw)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Show one record; never raises."""
        self._step = step
        self._latest.update({name: value for name, value in values.items() if name in SHOWN})
        self._measure()
        if "eval/return_mean" in values:
            self._guard(lambda: self._print(_evaluation(step, values)))
        self._guard(self._draw)

    def refresh(self, at_once: bool = False) -> None:
        """Show the present phase; never raises."""
        if self._live is not None and at_once:
            self._last_shown = -math.inf
        if self._live is not None or self._pace:  # the first line is that of a record
            self._guard(self._draw)

    def close(self, status: Status) -> None:
        """Stop the bar and leave its last state on the terminal."""
        if self in DISPLAYS:
            DISPLAYS.remove(self)
        if self._live is not None:
            self._last_shown, self._between = -math.inf, status
            self._guard(self._draw)
            # Even a broken bar has hidden the cursor, which has to be shown again.
            with contextlib.suppress(Exception):
                self._live.stop()

    def _open(self) -> None:
        self._live = open_live(self._stream, transient=False)

    def _is_due(self) -> bool:
        return self._clock() - self._last_shown >= (LINE_SECONDS if self._live is None else BAR_SECONDS)

    def _draw(self) -> None:
        """Draw the bar or print a line if that is due."""
        if not self._is_due():
            return
        self._last_shown = self._clock()
        step, share = self._step, min(100, 100 * self._step // self._total)
        statistics = [text.format(self._latest[name]) for name, text in SHOWN.items() if name in self._latest]
        if self._live is None:
            phases = [str(self.phases[-1])] if self.phases else []
            parts = [f"step {step:,} of {self._total:,} ({share}%)", *phases, f"ETA {self._eta()}", *statistics]
            self._print("  ".join(parts))
            return
        name, count = (self.phases[-1].name, self.phases[-1].count) if self.phases else (self._between, "")
        details = f"{share:>3}%  {step:,} of {self._total:,} steps  ETA {self._eta()}"
        below = Text("  ".join([count, *statistics] if count else statistics), no_wrap=True, overflow="crop")
        self._live.update(Group(row(f"{name:<10}", step, self._total, details), below), refresh=True)

    def _measure(self) -> None:
        self._pace.append((self._clock(), self._step))
        while len(self._pace) > 2 and self._pace[1][0] < self._pace[-1][0] - RATE_SECONDS:
            self._pace.popleft()

    def _eta(self) -> str:
        if not self._pace:
            return "-"
        (then, first), (now, last) = self._pace[0], self._pace[-1]
        if last <= first or now <= then:
            return "-"
        return duration(max(0, self._total - self._step) * (now - then) / (last - first))

    def _print(self, line: str) -> None:
        if self._live is not None:
            self._live.console.print(line, markup=False, highlight=False, soft_wrap=True)
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


def _evaluation(step: int, values: Mapping[str, float]) -> str:
    line = f"step {step:,}  evaluation return {values['eval/return_mean']:,.1f}"
    if "eval/return_std" in values:
        line += f" (std {values['eval/return_std']:,.1f})"
    if "eval/episodes" in values:
        line += f" over {values['eval/episodes']:.0f} episodes"
    if "eval/mode_return_mean" in values:
        line += f", most likely actions {values['eval/mode_return_mean']:,.1f}"
    return line
