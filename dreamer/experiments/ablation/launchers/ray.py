"""Runs as tasks of Ray. The only file that imports Ray, which is an optional dependency.

A task whose node or process dies is started again elsewhere, and its run resumes from its checkpoint. Tasks end with
the process that has started them.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from dreamer.errors import UserError, first_line
from dreamer.experiments.ablation.child import Order, error_of
from dreamer.experiments.ablation.jobs import Job
from dreamer.experiments.ablation.launchers.remote import save, started, wait
from dreamer.experiments.ablation.manifest import SweepArguments

TRIES = 100
"""Times that a task is started again after its node or process has died."""
REACH_SECONDS = 5.0
PASSED_ON = ("WANDB_", "MUJOCO_", "PYOPENGL_", "DREAMER_")
"""Beginnings of the names of variables that runs have from here."""
SECRET = {"WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"}
"""Variables that Ray would show on its dashboard."""


class StoppedEarly(Exception):
    """A run has saved and ended, since its node asked it to."""


class Ray:
    """Keeps at most `--jobs` tasks in Ray, which wait there for free processors and GPUs."""

    OPTIONS = ("cpus", "gpus", "address")
    device, where = "", "Ray"

    def __init__(self, args: SweepArguments) -> None:
        self._limit, self._cluster = args.jobs, args.cluster

    def connect(self) -> None:
        try:
            import ray
        except ImportError:
            raise UserError("--on ray needs Ray: pip install 'dreamer-torch-agent[ray]'") from None
        if ray.is_initialized():
            return
        address = self._cluster.address or os.environ.get("RAY_ADDRESS") or "auto"
        _require_reachable(address)
        environment = {"env_vars": {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}}
        try:
            ray.init(address, log_to_driver=False, logging_level="ERROR", runtime_env=environment)
        except Exception as error:  # Ray has no common class for what may fail here
            found = "no Ray cluster runs here" if address == "auto" else f"no Ray cluster at {address}"
            advice = "start one by `ray start --head`, or name one by --cluster.address HOST:PORT"
            raise UserError(f"--on ray: {found} ({first_line(error)}); {advice}") from None

    def room(self, running: int) -> int:
        return self._limit - running

    def start(self, jobs: Sequence[Job]) -> list[Task]:
        import ray

        function = ray.remote(do).options(
            num_cpus=self._cluster.cpus, num_gpus=self._cluster.gpus, max_retries=TRIES, retry_exceptions=[StoppedEarly]
        )
        env = {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON) and name not in SECRET}
        return [Task(job, function.remote(Order.of(job), self._cluster.cpus, env)) for job in jobs]


class Task:
    """A task of Ray."""

    place = "as a task of Ray"

    def __init__(self, job: Job, reference: Any) -> None:
        self._reference, self._log, self._stops = reference, job.log, 0
        self._offset = job.log.stat().st_size if job.log.exists() else 0

    def poll(self) -> str | None:
        import ray

        if not ray.wait([self._reference], timeout=0)[0]:
            return None
        try:
            return error_of(ray.get(self._reference), self._log, self._offset)
        except ray.exceptions.TaskCancelledError:
            return "stopped"
        except ray.exceptions.RayError as error:
            return f"Ray: {first_line(error)}"

    def stop(self) -> None:
        import ray

        ray.cancel(self._reference, force=self._stops > 0)
        self._stops += 1

    def abandon(self) -> None:
        self._stops = 1
        self.stop()


def do(order: Order, cpus: int, env: dict[str, str]) -> int:
    """Train until the end of a run and return its exit status; a task that is cancelled saves first.

    Raises `StoppedEarly` if a signal from elsewhere has stopped the run, so that Ray starts it again.
    """
    child: subprocess.Popen[bytes] | None = None
    try:
        child = started(order, cpus, env)
        code = wait(child)
    except KeyboardInterrupt:  # by `ray.cancel`
        if child is not None:
            save(child)
            wait(child)
        raise
    if code == os.EX_TEMPFAIL:
        raise StoppedEarly(order.run_dir)
    return code


def _require_reachable(address: str) -> None:
    """Raise `UserError` unless something listens there; Ray itself would try for a minute and print at length."""
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536 or address.startswith("ray://"):
        raise UserError(f"--cluster.address {address}: give HOST:PORT, such as 10.0.0.1:6379, as `ray start` prints it")
    try:
        socket.create_connection((host.strip("[]"), int(port)), REACH_SECONDS).close()
    except (OSError, UnicodeError) as error:
        raise UserError(f"--on ray: nothing answers at {address}: {first_line(error)}") from None
