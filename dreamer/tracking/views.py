"""Views of a run, which show what metrics.jsonl already holds and may fail without harm to the run."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

from dreamer.errors import first_line
from dreamer.system.redaction import warn

Status = Literal["finished", "interrupted", "failed"]

ABANDON_SECONDS = 3.0


class View:
    """Interface of a view. Every method may do nothing or raise; all but `abandon` run in one thread."""

    title = "view"
    notice = ""
    """One line for the user, set by `start`; may be empty."""

    def start(self) -> None:
        """Open the view."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Show one record."""

    def video(self, step: int, name: str, path: Path) -> None:
        """Show the video at `path`."""

    def image(self, step: int, name: str, path: Path) -> None:
        """Show the PNG picture at `path`."""

    def artifact(self, step: int, alias: str, files: Mapping[str, Path]) -> None:
        """Send the files of a model by their names in it; `alias` says which one of the run it is."""

    def summary(self, values: Mapping[str, float]) -> None:
        """Show the results of the whole run."""

    def close(self, status: Status) -> None:
        """Finish and release everything."""

    def abandon(self) -> None:
        """Release the resources of a failed or stuck view without waiting; may be called from any thread."""


class BackgroundView:
    """Runs a view in a daemon thread behind a bounded queue, so that no caller waits for it.

    A view that raises is switched off. A view that falls `capacity` messages behind loses the newest ones. Each is
    reported once, in one line on standard error.
    """

    def __init__(self, view: View, capacity: int = 1000) -> None:
        self._view, self._capacity = view, capacity
        # A bounded Queue could refuse the message that closes it. Here only the messages of the caller are bounded.
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._enabled, self._reported_drop = True, False
        self._thread = threading.Thread(target=self._work, name=f"dreamer {view.title}", daemon=True)
        self._thread.start()

    def show(self, method: Literal["log", "video", "image", "artifact", "summary"], *words: Any) -> None:
        """Queue a call of a method of the view."""
        if not self._enabled:
            return
        if self._queue.qsize() < self._capacity:
            self._queue.put(partial(getattr(self._view, method), *words))
        elif not self._reported_drop:
            self._reported_drop = True
            self._report("is too slow and misses some records; metrics.jsonl has them all")

    def request_close(self, status: Status) -> None:
        """Ask the view to finish, without waiting for it."""
        self._queue.put(partial(self._view.close, status))
        self._queue.put(None)

    def join(self, deadline: float) -> None:
        """Wait until the view has finished, or abandon it at `deadline` (seconds of `time.monotonic`)."""
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            self._switch_off("did not finish in time")

    def _work(self) -> None:
        # SystemExit: a library that tries to end the process must not end the thread without a message.
        try:
            self._view.start()
            if self._view.notice:
                self._report(self._view.notice)
            while (call := self._queue.get()) is not None and self._enabled:
                call()
        except (Exception, SystemExit) as error:
            self._switch_off(f"is switched off ({first_line(error)})")

    def _switch_off(self, reason: str) -> None:
        if not self._enabled:
            return
        self._enabled = False
        self._report(f"{reason}; metrics.jsonl is complete")
        # A separate thread, because `abandon` may get stuck, too.
        abandon = threading.Thread(target=self._abandon, daemon=True)
        abandon.start()
        abandon.join(ABANDON_SECONDS)

    def _abandon(self) -> None:
        with contextlib.suppress(Exception, SystemExit):
            self._view.abandon()

    def _report(self, message: str) -> None:
        warn(f"dreamer: {self._view.title} {message}")
