"""Standard streams and signals of the processes of a run, so that no lost terminal or full disk ends one of them."""

from __future__ import annotations

import io
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU", "SIGPWR")
STOP_SIGNALS = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))
"""Signals by which a user, a scheduler or a lost terminal asks a process to end."""
INSISTENT = (signal.SIGINT, signal.SIGTERM)
"""Signals that end a process at once when they are sent a second time."""
INTERRUPTED = 130
"""Exit status of a command that was interrupted from the keyboard."""
STREAMS = {"stdout": "standard output", "stderr": "standard error"}
LOST: dict[str, OSError | ValueError] = {}
"""Standard streams that could not be written, by name in `STREAMS`, and the first error of each."""


class _Stream(io.FileIO):
    """A standard stream whose writes never fail; what cannot be written is dropped, and the error kept in `LOST`."""

    def write(self, data: Any) -> int:
        try:
            while (written := super().write(data)) is None:  # a terminal that another program made non-blocking
                select.select([], [self], [])
        except OSError as error:
            LOST.setdefault("stdout" if self.fileno() == 1 else "stderr", error)
            return memoryview(data).nbytes
        return written


def open_streams() -> None:
    """Make standard output and error streams that always accept text, whatever state and encoding they are in.

    Closed descriptors are opened on the null device, or the next files to be opened would take their places. Streams
    that a caller has put in place of the standard ones are left alone.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    for number, name in enumerate(STREAMS, start=1):
        stream = getattr(sys, name)
        if stream is None or stream is getattr(sys, f"__{name}__"):
            encoding = getattr(stream, "encoding", "utf-8")
            raw = io.BufferedWriter(_Stream(number, "w", closefd=False))
            setattr(sys, name, io.TextIOWrapper(raw, encoding, "backslashreplace", line_buffering=True))


@contextmanager
def stop_signals(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Context in which `handler` receives `STOP_SIGNALS`; outside the main thread, it changes nothing.

    A signal that is ignored (`nohup`) or that the caller handles is left alone, except SIGINT and SIGTERM.
    """
    previous: dict[int, Any] = {}
    try:
        for number in STOP_SIGNALS:
            if number in INSISTENT or signal.getsignal(number) == signal.SIG_DFL:
                previous[number] = signal.signal(number, handler) or signal.SIG_DFL
    except ValueError:  # not the main thread
        previous = {}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


def stopped_status(number: int) -> int:
    """Exit status of a command that a stop signal has ended: 130 after Ctrl-C, else 75, which asks for a restart."""
    return INTERRUPTED if number == signal.SIGINT else os.EX_TEMPFAIL


@contextmanager
def shielded() -> Iterator[None]:
    """Context in which new processes inherit `STOP_SIGNALS` as blocked, and so do not receive them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_signals_to_parent() -> None:
    """Ignore `STOP_SIGNALS` here, since the parent decides what they do; programs started from here receive them."""
    for number in STOP_SIGNALS:
        signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
