"""A time limit for calls in the main thread."""

from __future__ import annotations

import math
import signal
import threading
import time
from types import FrameType


class Watchdog:
    """Raise TimeoutError in the main thread when `end` does not follow `begin` in time.

    A thread checks the deadline and sends a signal to the main thread, which also interrupts a sleep or a wait for
    input. `begin` and `end` cost next to nothing. Time in which the thread does not run, because the process is
    suspended or a library keeps other threads from running, does not count.
    """

    def __init__(self) -> None:
        self._deadline, self._seconds, self._period = math.inf, 0.0, 1.0
        self._not_run = 0.0
        self._thread: threading.Thread | None = None

    def begin(self, seconds: float) -> None:
        """Start to count the time."""
        if self._thread is None or not self._thread.is_alive():
            signal.signal(signal.SIGVTALRM, self._stop)
            self._thread = threading.Thread(target=self._watch, name="environments' watchdog", daemon=True)
            self._thread.start()
        self._seconds, self._period = seconds, min(self._period, seconds / 4)
        self._deadline = self._now() + seconds

    def extend(self, seconds: float) -> None:
        """Add to the time."""
        self._deadline += seconds  # an infinite deadline stays infinite
        self._seconds += seconds

    def end(self) -> None:
        """Stop to count the time."""
        self._deadline = math.inf

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self._now() > self._deadline:  # `end` may have been called while the signal was on its way
            self._deadline = math.inf
            raise TimeoutError(f"no answer within {self._seconds:g} seconds")

    def _now(self) -> float:
        """Seconds of a clock that stands still while the thread does not run."""
        return time.monotonic() - self._not_run

    def _watch(self) -> None:
        while True:
            due = time.monotonic() + self._period
            time.sleep(self._period)
            self._not_run += max(0.0, time.monotonic() - due)
            if self._now() > self._deadline:
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGVTALRM)


WATCHDOG = Watchdog()
"""The watchdog of this process, which has only one main thread."""
