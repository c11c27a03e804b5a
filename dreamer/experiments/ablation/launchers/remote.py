"""A child process on another machine, which sees the folder of the sweep under the same path."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from dreamer.errors import UserError
from dreamer.experiments.ablation.child import Order, start_child
from dreamer.runs.folder import locked

POLL_SECONDS = 0.2
LOCK_SECONDS = 60.0
"""Time in which a former process of the same run must have ended, such as one that has lost its parent."""


def started(order: Order, cpus: int, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start the child of an order, as soon as no other process trains in its run folder."""
    run_dir, deadline = Path(order.place, order.run_dir), time.monotonic() + LOCK_SECONDS
    while run_dir.is_dir() and time.monotonic() < deadline:
        try:
            with locked(run_dir):
                break
        except UserError:
            time.sleep(1)
    return start_child(order, {**env, "OMP_NUM_THREADS": str(cpus), "MKL_NUM_THREADS": str(cpus)})


def save(child: subprocess.Popen[bytes]) -> None:
    """Ask a child to save and end, which it may have been asked before: only SIGINT and SIGTERM count twice."""
    child.send_signal(signal.SIGUSR2)


def wait(child: subprocess.Popen[bytes]) -> int:
    """Return the exit status of a child. Signal handlers of Python run while it waits."""
    while child.poll() is None:
        time.sleep(POLL_SECONDS)
    assert child.stdin is not None
    child.stdin.close()
    return child.returncode


def wait_for_end(child: subprocess.Popen[bytes]) -> None:
    """Wait for the end of a child from a signal handler, where the lock of `Popen` may be held."""
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
