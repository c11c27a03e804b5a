"""Runs as child processes, several at a time: output goes to log files, and no child outlives its parent.

The parent holds the other end of each child's standard input and never closes it. A child that reads its end knows that
the parent is gone, however it died, and ends at once: what it did since its last checkpoint is done again later.

`python -m dreamer.experiments.jobs RUN_DIR` is such a child; it takes its order from standard input.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import envs
from dreamer import launch
from dreamer.config import Config, from_json, to_json
from dreamer.errors import UserError, first_line
from dreamer.experiments.grid import Cell
from dreamer.isolation import ignore_current_folder
from dreamer.redaction import tell
from dreamer.run import RunFolder
from dreamer.tracking import destination
from dreamer.trust import check_folder, modules_of

POLL_SECONDS = 0.1
LEFT_BY_A_RUN = {
    *("config.json", "config.json.tmp", "run.json", "run.json.tmp", ".lock", "metrics.jsonl"),
    *("checkpoints", "faults", "replay", "videos", "tensorboard", "wandb", "wandb_id", "wandb_id.new"),
}
"""What may be in the folder of a run that has made no checkpoint."""


@dataclass(frozen=True)
class Job:
    """One run to begin or to go on with."""

    cell: Cell
    """Its place in the ablation."""
    run_dir: Path
    """Run folder."""
    log: Path
    """File to append the output to."""
    config: Config
    """Full configuration."""


def do_all(jobs: Sequence[Job], limit: int, started: Callable[[Job], None], ended: Callable[[Job, str], None]) -> bool:
    """Do jobs, at most `limit` at a time; whether all were done, False when SIGINT or SIGTERM came.

    `ended` gets the job and its error, empty when the run finished; it is not called for a job that was stopped. The
    first signal lets the children save a checkpoint, a second one ends them at once.
    """
    waiting, running = deque(jobs), dict[subprocess.Popen[bytes], tuple[Job, int]]()
    with _signals() as received:
        forwarded = 0
        try:
            while running or (waiting and not received):
                if waiting and not received and len(running) < limit:
                    job = waiting.popleft()
                    offset = job.log.stat().st_size if job.log.exists() else 0
                    running[_start(job, limit)] = job, offset
                    started(job)
                if len(received) > forwarded:
                    forwarded = len(received)
                    for child in running:
                        child.terminate()
                for child in [child for child in running if child.poll() is not None]:
                    job, offset = running.pop(child)
                    _let_go(child)
                    if child.returncode == 0 or not received:
                        ended(job, _error(child.returncode, job.log, offset))
                time.sleep(POLL_SECONDS)
        finally:
            for child in running:
                child.kill()
                _let_go(child)
    return not received


def work(run_dir: Path) -> int:
    """Do the job of a child process and return its exit status."""
    order = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.argv = order["command"]  # for run.json
    ignore_current_folder()
    try:
        return 0 if _begin_or_go_on(run_dir, from_json(order["config"])).status == "finished" else 130
    except UserError as error:
        message = str(error)
    except Exception as error:
        tell(*traceback.format_exc().rstrip().split("\n"))
        message = f"{type(error).__name__}: {first_line(error)}"
    tell(f"dreamer: {message}")
    return 2


def _begin_or_go_on(run_dir: Path, config: Config) -> launch.Result:
    check_folder(run_dir)
    if any((run_dir / "checkpoints").glob("step_*.ckpt")):
        agreed = [f"{name}={value}" for name, value in destination.foreign(config.tracking).items()]  # with the parent
        return launch.resume(run_dir, config=config, trusted=[*modules_of(config), *agreed])
    if run_dir.is_dir():
        with RunFolder(run_dir, config, {}).locked():
            foreign = sorted({path.name for path in run_dir.iterdir()} - LEFT_BY_A_RUN)
            if foreign:
                names = ", ".join(foreign[:4])
                raise UserError(f"{run_dir} holds {names} but no checkpoint; delete it to begin this run again")
            shutil.rmtree(run_dir)
    return launch.train(config, run_dir=run_dir)


def _end_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)


def _start(job: Job, limit: int) -> subprocess.Popen[bytes]:
    """Start a child in a session of its own, so that Ctrl-C in a terminal reaches it through the parent alone."""
    threads = str(max(1, envs.cores() // limit))
    shared = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads} if limit > 1 else {}
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with open(job.log, "ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__, str(job.run_dir)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            bufsize=0,
            env=os.environ | shared,
            start_new_session=True,
        )
    assert child.stdin is not None
    order = {"command": sys.argv, "config": to_json(job.config)}
    with contextlib.suppress(BrokenPipeError):  # a child that is dead already says why in its log
        child.stdin.write(json.dumps(order).encode() + b"\n")
    return child


def _let_go(child: subprocess.Popen[bytes]) -> None:
    child.wait()
    assert child.stdin is not None
    child.stdin.close()


def _error(code: int, log: Path, offset: int) -> str:
    """Why a child failed, in one line; empty for exit status 0."""
    if code == 0:
        return ""
    if code < 0:
        name = signal.Signals(-code).name
        return f"ended by {name}" + (", perhaps for want of memory" if name == "SIGKILL" else "")
    lines = [line for line in log.read_bytes()[offset:].decode(errors="replace").splitlines() if line.strip()]
    own = [line.removeprefix("dreamer: ") for line in lines if line.startswith("dreamer: ")]
    return (own or lines or [f"exit status {code}"])[-1]


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in a list instead of dying of them."""
    received: list[int] = []
    previous = {
        number: signal.signal(number, lambda number, frame: received.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(work(Path(sys.argv[1])))
