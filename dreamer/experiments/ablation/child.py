"""A run as a child process. Its output goes to a log file, and it does not outlive its parent.

The parent keeps the other end of the child's standard input open. A child that reads the end of its input knows that
the parent is gone, whatever killed it, and exits at once. The work since its last checkpoint is repeated later.

`python -m dreamer.experiments.ablation.child RUN_DIR` is such a child. It reads its order from standard input.
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
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dreamer.config import Config, from_json, to_json
from dreamer.errors import UserError, first_line
from dreamer.experiments.ablation.jobs import Job
from dreamer.runs.folder import locked
from dreamer.runs.trust import check_folder, modules_of
from dreamer.system.isolation import ignore_current_folder
from dreamer.system.redaction import warn
from dreamer.tracking import destination
from dreamer.training import launch
from dreamer.training.loop import Result
from envs.process import open_streams, stopped_status

LEFT_BY_A_RUN = {
    *("config.json", "run.json", ".lock", "metrics.jsonl", "checkpoints", "faults", "replay", "videos", "tensorboard"),
    *("wandb", "wandb_id", destination.PLACE, destination.DIFF),
}
"""Files that may be in the folder of a run without a checkpoint, also with `.tmp` behind their names."""


@dataclass(frozen=True)
class Order:
    """What a parent needs to start a run, on this machine or on another one that sees its folder."""

    run_dir: str
    log: str
    config: str
    """Configuration as JSON."""
    command: tuple[str, ...]
    """Command line for run.json."""
    place: str
    """Current folder, to which paths are relative."""
    modules: str
    """Folders that modules are imported from (PYTHONPATH)."""

    @classmethod
    def of(cls, job: Job) -> Order:
        """Return the order for a job, given from here."""
        modules = os.pathsep.join(filter(None, sys.path))
        return cls(str(job.run_dir), str(job.log), to_json(job.config), tuple(sys.argv), os.getcwd(), modules)


def start_child(order: Order, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a child in its own session, so that only the parent gets Ctrl-C from a terminal.

    `env` are environment variables that it has besides those of this process. WANDB_RUN_ID is left out: each run is a
    W&B run of its own.
    """
    inherited = {name: value for name, value in os.environ.items() if name != "WANDB_RUN_ID"}
    path = Path(order.place, order.log)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__, order.run_dir],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            bufsize=0,
            cwd=order.place,
            env={**inherited, **env, "PYTHONPATH": order.modules},
            start_new_session=True,
        )
    assert child.stdin is not None
    message = {"command": order.command, "config": order.config}
    with contextlib.suppress(BrokenPipeError):  # the log of a child that is already dead holds its error
        child.stdin.write(json.dumps(message).encode() + b"\n")
    return child


def release(child: subprocess.Popen[bytes]) -> None:
    """Wait for the end of a child and close its input."""
    child.wait()
    assert child.stdin is not None
    child.stdin.close()


def error_of(code: int, log: Path, offset: int) -> str:
    """Error of a child in one line; empty for exit status 0. `offset` is the size that its log had before it."""
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


def work(run_dir: Path) -> int:
    """Do the job of a child process and return its exit status."""
    order = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.argv = order["command"]  # for run.json
    open_streams()
    ignore_current_folder()
    try:
        result = start_or_resume(run_dir, from_json(order["config"]))
        return 0 if result.status == "finished" else stopped_status(result.stopped_by)
    except UserError as error:
        message = str(error)
    except Exception as error:
        warn(*traceback.format_exc().rstrip().split("\n"))
        message = f"{type(error).__name__}: {first_line(error)}"
    warn(f"dreamer: {message}")
    return 2


def start_or_resume(run_dir: Path, config: Config) -> Result:
    """Train from the newest checkpoint in `run_dir`, or from the start if it has none."""
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


if __name__ == "__main__":
    sys.exit(work(Path(sys.argv[1])))
