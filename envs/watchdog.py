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
    input. `begin` and `end` cost next to nothing.
    """

    def __init__(self) -> None:
        self._deadline, self._seconds, self._period = math.inf, 0.0, 1.0
        self._thread: threading.Thread | None = None

    def begin(self, seconds: float) -> None:
        """Start to count the time."""
        if self._thread is None or not self._thread.is_alive():
            signal.signal(signal.SIGVTALRM, self._stop)
            self._thread = threading.Thread(target=self._watch, name="environments' watchdog", daemon=True)
            self._thread.start()
        self._seconds, self._period = seconds, min(self._period, seconds / 4)
        self._deadline = time.monotonic() + seconds

    def extend(self, seconds: float) -> None:
        """Add to the time."""
        self._deadline += seconds  # an infinite deadline stays infinite
        self._seconds += seconds

    def end(self) -> None:
        """Stop to count the time."""
        self._deadline = math.inf

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if time.monotonic() > self._deadline:  # `end` may have been called while the signal was on its way
            self._deadline = math.inf
            raise TimeoutError(f"no answer within {self._seconds:g} seconds")

    def _watch(self) -> None:
        while True:
            time.sleep(self._period)
            if time.monotonic() > self._deadline:
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGVTALRM)


WATCHDOG = Watchdog()
"""The watchdog of this process, which has only one main thread."""
