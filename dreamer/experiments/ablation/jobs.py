"""The runs of a sweep, done by a launcher: on this machine or on a cluster."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Protocol, runtime_checkable

from dreamer.config import Config
from dreamer.experiments.ablation.grid import Trial
from envs.process import INSISTENT, stop_signals

POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Job:
    """One run to start or to resume."""

    trial: Trial
    run_dir: Path
    log: Path
    """File that the output is appended to."""
    config: Config


@runtime_checkable
class Work(Protocol):
    """A job that a launcher has taken."""

    @property
    def place(self) -> str:
        """Where it is done, for the line that it starts with; may be empty."""

    def poll(self) -> str | None:
        """Return None while it waits or runs, then its error in one line, which is empty for a finished run."""

    def stop(self) -> None:
        """Let it save a checkpoint and end; called again, end it at once."""

    def abandon(self) -> None:
        """Let go of it because an error ends this process: a cluster may finish what a process here cannot."""


@runtime_checkable
class Launcher(Protocol):
    """A way to do jobs. Everything that lasts is in the run folders, so that any launcher can resume them."""

    device: str
    """Device of the runs if it is one of this machine, else empty."""
    where: str
    """The place in words, for the first line of a sweep."""

    def connect(self) -> None:
        """Raise `UserError` unless jobs can be started; called once, before the folder of the sweep is made."""

    def room(self, running: int) -> int:
        """Return how many more jobs it takes now, beside `running` ones."""

    def start(self, jobs: Sequence[Job]) -> Sequence[Work]:
        """Take jobs; raises `UserError` if it cannot."""


def do_all(
    jobs: Sequence[Job], launcher: Launcher, started: Callable[[Job, str], None], ended: Callable[[Job, str], None]
) -> int:
    """Do jobs. Returns 0 when all were done, or the signal that stopped them.

    `started` gets a job and its place, which may be empty. `ended` gets the job and its error, which is empty for a
    finished run. It is not called for a job that was stopped. The first signal lets the jobs save a checkpoint; another
    SIGINT or SIGTERM ends them at once.
    """
    waiting, running = deque(jobs), list[tuple[Job, Work]]()
    received: list[int] = []

    def receive(number: int, frame: FrameType | None) -> None:
        if not received or number in INSISTENT:
            received.append(number)

    with stop_signals(receive):
        forwarded = 0
        try:
            while running or (waiting and not received):
                room = 0 if received else min(launcher.room(len(running)), len(waiting))
                if room > 0:
                    taken = [waiting.popleft() for _ in range(room)]
                    new = list(zip(taken, launcher.start(taken), strict=True))
                    running += new
                    for job, work in new:
                        started(job, work.place)
                if len(received) > forwarded:
                    forwarded = len(received)
                    for _, work in running:
                        work.stop()
                for job, work in list(running):
                    error = work.poll()
                    if error is not None:
                        running.remove((job, work))
                        if not error or not received:
                            ended(job, error)
                time.sleep(POLL_SECONDS)
        finally:
            for _, work in running:
                work.abandon()
    return received[0] if received else 0
