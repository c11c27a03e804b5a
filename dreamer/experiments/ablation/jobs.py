"""Runs as child processes, several at a time. Output goes to log files, and no child outlives its parent.

The parent keeps the other end of each child's standard input open. A child that reads the end of its input knows that
the parent is gone, whatever killed it, and exits at once. The work since its last checkpoint is repeated later.

`python -m dreamer.experiments.ablation.jobs RUN_DIR` is such a child. It reads its order from standard input.
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
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import envs
from dreamer.config import Config, from_json, to_json
from dreamer.errors import UserError, first_line
from dreamer.experiments.ablation.grid import Trial
from dreamer.runs.folder import locked
from dreamer.runs.trust import check_folder, modules_of
from dreamer.system.isolation import ignore_current_folder
from dreamer.system.redaction import warn
from dreamer.tracking import destination
from dreamer.training import launch
from dreamer.training.loop import Result
from envs.process import INSISTENT, open_streams, stop_signals, stopped_status

POLL_SECONDS = 0.1
LEFT_BY_A_RUN = {
    *("config.json", "run.json", ".lock", "metrics.jsonl", "checkpoints", "faults", "replay", "videos", "tensorboard"),
    *("wandb", "wandb_id", destination.PLACE, destination.DIFF),
}
"""Files that may be in the folder of a run without a checkpoint, also with `.tmp` behind their names."""


@dataclass(frozen=True)
class Job:
    """One run to start or to resume."""

    trial: Trial
    run_dir: Path
    log: Path
    """File that the output is appended to."""
    config: Config


@dataclass(frozen=True)
class Running:
    """A job that a child does."""

    job: Job
    offset: int
    """Bytes that its log had before."""
    gpu: str
    """Value of CUDA_VISIBLE_DEVICES for the child; empty for that of this process."""


def do_all(
    jobs: Sequence[Job],
    limit: int,
    started: Callable[[Job, str], None],
    ended: Callable[[Job, str], None],
    gpus: Sequence[str] = (),
) -> int:
    """Do jobs, at most `limit` at a time. Returns 0 when all were done, or the signal that stopped them.

    A job sees one of `gpus` alone: the one with the fewest jobs. `started` gets the job and its GPU, which is empty
    without `gpus`. `ended` gets the job and its error, which is empty for a finished run. It is not called for a job
    that was stopped. The first signal lets the children save a checkpoint; another SIGINT or SIGTERM ends them at once.
    """
    waiting, running = deque(jobs), dict[subprocess.Popen[bytes], Running]()
    received: list[int] = []

    def receive(number: int, frame: FrameType | None) -> None:
        if not received or number in INSISTENT:
            received.append(number)

    with stop_signals(receive):
        forwarded = 0
        try:
            while running or (waiting and not received):
                if waiting and not received and len(running) < limit:
                    job = waiting.popleft()
                    offset = job.log.stat().st_size if job.log.exists() else 0
                    busy = Counter(each.gpu for each in running.values())
                    gpu = min(gpus, key=lambda name: busy[name], default="")
                    running[_start(job, limit, gpu)] = Running(job, offset, gpu)
                    started(job, gpu)
                if len(received) > forwarded:
                    forwarded = len(received)
                    for child in running:
                        child.terminate()
                for child in [child for child in running if child.poll() is not None]:
                    own = running.pop(child)
                    _release(child)
                    if child.returncode == 0 or not received:
                        ended(own.job, _error(child.returncode, own.job.log, own.offset))
                time.sleep(POLL_SECONDS)
        finally:
            for child in running:
                child.kill()
                _release(child)
    return received[0] if received else 0


def work(run_dir: Path) -> int:
    """Do the job of a child process and return its exit status."""
    order = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.argv = order["command"]  # for run.json
    open_streams()
    ignore_current_folder()
    try:
        result = _start_or_resume(run_dir, from_json(order["config"]))
        return 0 if result.status == "finished" else stopped_status(result.stopped_by)
    except UserError as error:
        message = str(error)
    except Exception as error:
        warn(*traceback.format_exc().rstrip().split("\n"))
        message = f"{type(error).__name__}: {first_line(error)}"
    warn(f"dreamer: {message}")
    return 2


def _start_or_resume(run_dir: Path, config: Config) -> Result:
    check_folder(run_dir)
    if any((run_dir / "checkpoints").glob("step_*.ckpt")):
        # The parent has checked the destinations.
        agreed = [f"{name}={value}" for name, value in destination.foreign(config.tracking).items()]
        return launch.resume(run_dir, config=config, trusted=[*modules_of(config), *agreed])
    if run_dir.is_dir():
        with locked(run_dir):
            foreign = sorted({path.name.removesuffix(".tmp") for path in run_dir.iterdir()} - LEFT_BY_A_RUN)
            if foreign:
                names = ", ".join(foreign[:4])
                raise UserError(f"{run_dir} holds {names} but no checkpoint; delete it to start this run again")
            shutil.rmtree(run_dir)
    return launch.train(config, run_dir=run_dir)


def _end_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)


def _start(job: Job, limit: int, gpu: str) -> subprocess.Popen[bytes]:
    """Start a child in its own session, so that only the parent gets Ctrl-C from a terminal."""
    threads = str(max(1, envs.cores() // limit))
    shared = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads} if limit > 1 else {}
    shared |= {"CUDA_VISIBLE_DEVICES": gpu} if gpu else {}
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with open(job.log, "ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__, str(job.run_dir)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            bufsize=0,
            env=os.environ | shared | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,
        )
    assert child.stdin is not None
    order = {"command": sys.argv, "config": to_json(job.config)}
    with contextlib.suppress(BrokenPipeError):  # the log of a child that is already dead holds its error
        child.stdin.write(json.dumps(order).encode() + b"\n")
    return child


def _release(child: subprocess.Popen[bytes]) -> None:
    child.wait()
    assert child.stdin is not None
    child.stdin.close()


def _error(code: int, log: Path, offset: int) -> str:
    """Error of a child in one line; empty for exit status 0."""
    if code == 0:
        return ""
    if code < 0:
        name = signal.Signals(-code).name
        return f"ended by {name}" + (", perhaps out of memory" if name == "SIGKILL" else "")
    with open(log, "rb") as file:
        file.seek(max(offset, log.stat().st_size - 100_000))
        lines = [line for line in file.read(100_000).decode(errors="replace").splitlines() if line.strip()]
    own = [line.removeprefix("dreamer: ") for line in lines if line.startswith("dreamer: ")]
    return (own or lines or [f"exit status {code}"])[-1]


if __name__ == "__main__":
    sys.exit(work(Path(sys.argv[1])))
