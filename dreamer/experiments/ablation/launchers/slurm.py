"""Runs as jobs of Slurm. The only file that imports submitit, which is an optional dependency.

The jobs of a sweep are array tasks. A job that is asked to end (time limit, preemption, exit status 75) saves and goes
back to the queue, and so does one whose node is lost. Jobs go on without the process that has submitted them.

FOLDER/logs/slurm/jobs.json        run folder -> job, by which a command that is started again finds its jobs
FOLDER/logs/slurm/*.status         exit status of each run that has ended
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from dreamer.errors import UserError, first_line
from dreamer.experiments.ablation.child import Order, error_of
from dreamer.experiments.ablation.jobs import Job
from dreamer.experiments.ablation.launchers.remote import save, started, wait, wait_for_end
from dreamer.experiments.ablation.manifest import SweepArguments
from dreamer.system.files import Text, read_json, write_atomically

ARRAY = 1000
"""Largest number of tasks of an array, as in Slurm's own configuration."""
QUEUE_SECONDS = 5.0
"""Time between two looks at the queue."""
LATE_SECONDS = 30.0
"""Time that a shared disk may take to show the status of a job that has left the queue."""
COMMANDS = ("sbatch", "squeue", "scancel", "scontrol", "srun")


class Slurm:
    """Submits all runs at once, as an array of which `--jobs` tasks run at a time."""

    OPTIONS = ("partition", "minutes", "cpus", "gpus")
    device, where = "", "Slurm"

    def __init__(self, args: SweepArguments) -> None:
        self._limit, self._cluster = args.jobs, args.cluster
        self._looked = 0.0
        self._present: dict[str, str] = {}

    def connect(self) -> None:
        try:
            import submitit  # noqa: F401
        except ImportError:
            raise UserError("--on slurm needs submitit: pip install 'dreamer-torch-agent[slurm]'") from None
        for name in COMMANDS:
            if shutil.which(name) is None:
                raise UserError(f"--on slurm: there is no {name} here; give the command on a login node of Slurm")
        try:
            self._present = _queue()
        except subprocess.SubprocessError as error:
            raise UserError(f"--on slurm: Slurm does not answer: {_said(error)}") from None

    def room(self, running: int) -> int:
        return 0 if running else ARRAY

    def start(self, jobs: Sequence[Job]) -> list[Task]:
        place = jobs[0].log.parent / "slurm"
        place.mkdir(parents=True, exist_ok=True)
        known = read_json(place / "jobs.json", dict[Text, Text]) if (place / "jobs.json").is_file() else {}
        self._look()
        here = str(place.resolve())
        known = {run: number for run, number in known.items() if self._present.get(number) == here}
        new = [job for job in jobs if _name(job) not in known]
        known |= self._submit(new, place) if new else {}
        write_atomically(place / "jobs.json", (json.dumps(known, indent=1) + "\n").encode())
        return [Task(self, job, known[_name(job)], _status_file(job)) for job in jobs]

    def present(self, number: str) -> bool:
        """True while a job waits or runs, as far as is known."""
        if time.monotonic() - self._looked > QUEUE_SECONDS:
            self._look()
        return number in self._present

    def _look(self) -> None:
        self._looked = time.monotonic()
        try:
            self._present = _queue()
        except subprocess.SubprocessError:  # the controller may be back soon
            return

    def _submit(self, jobs: Sequence[Job], place: Path) -> dict[str, str]:
        """Put jobs in the queue; returns their numbers by run folder."""
        import submitit

        cluster = self._cluster
        options: dict[str, Any] = {
            "time": cluster.minutes,
            "job_name": f"dreamer {place.parent.parent.resolve().name}",
            "comment": str(place.resolve()),
            "cpus_per_task": cluster.cpus,
            "srun_args": [f"--cpus-per-task={cluster.cpus}"],
            "array_parallelism": self._limit,
            "additional_parameters": {"requeue": True},
            "setup": [f"export PYTHONPATH={shlex.quote(Order.of(jobs[0]).modules)}"],
        }
        options |= {"partition": cluster.partition} if cluster.partition else {}
        options |= {"gpus_per_node": cluster.gpus} if cluster.gpus else {}
        for job in jobs:
            _status_file(job).unlink(missing_ok=True)
        executor = submitit.SlurmExecutor(place.resolve(), max_num_timeout=1_000_000)
        executor.update_parameters(**options)
        try:
            with executor.batch():
                submitted = [
                    executor.submit(Run(Order.of(job), cluster.cpus, str(_status_file(job).resolve()))) for job in jobs
                ]
        except (submitit.core.utils.FailedJobError, subprocess.SubprocessError) as error:
            raise UserError(f"--on slurm: Slurm refuses the jobs: {_said(error)}") from None
        numbers = {_name(job): one.job_id for job, one in zip(jobs, submitted, strict=True)}
        self._present |= dict.fromkeys(numbers.values(), str(place.resolve()))
        self._looked = time.monotonic()
        return numbers


class Task:
    """A job of Slurm."""

    def __init__(self, slurm: Slurm, job: Job, number: str, status: Path) -> None:
        self._slurm, self._number, self._status, self._log = slurm, number, status, job.log
        self._offset = job.log.stat().st_size if job.log.exists() else 0
        self._left: float | None = None

    @property
    def place(self) -> str:
        return f"as Slurm job {self._number}"

    def poll(self) -> str | None:
        if self._slurm.present(self._number):
            self._left = None
            return None
        now = time.monotonic()
        self._left = self._left or now
        try:
            code = read_json(self._status, int, 100)
        except UserError:
            if now - self._left < LATE_SECONDS:
                return None
            return f"Slurm job {self._number} ended before its run; what it printed is in {self._status.parent}"
        return error_of(code, self._log, self._offset)

    def stop(self) -> None:
        subprocess.run(["scancel", self._number], capture_output=True, check=False)

    def abandon(self) -> None:
        """It goes on: the next command finds it."""


class Run:
    """A run within its job; submitit calls `checkpoint` when the job is asked to end, and puts it back."""

    def __init__(self, order: Order, cpus: int, status: str) -> None:
        self._order, self._cpus, self._status = order, cpus, status
        self._child: subprocess.Popen[bytes] | None = None
        self._cancelled = False

    def __call__(self) -> int:
        """Train until the end or a signal, and write the exit status."""
        signal.signal(signal.SIGTERM, self._cancel)
        self._child = started(self._order, self._cpus, {})
        code = wait(self._child)
        if code == os.EX_TEMPFAIL and not self._cancelled:
            signal.raise_signal(signal.SIGUSR2)  # submitit calls `checkpoint`, puts the job back and ends this process
        write_atomically(Path(self._status), f"{code}\n".encode())
        return code

    def checkpoint(self) -> Any:
        """Let the run save, and return what to do after the job is back from the queue."""
        import submitit

        if self._child is not None:
            save(self._child)
            wait_for_end(self._child)
        return submitit.helpers.DelayedSubmission(Run(self._order, self._cpus, self._status))

    def _cancel(self, number: int, frame: FrameType | None) -> None:
        """Save because the job is cancelled (scancel), or preempted by a Slurm that puts it back itself."""
        self._cancelled = True
        if self._child is not None:
            save(self._child)


def _queue() -> dict[str, str]:
    """The jobs of this user that wait or run, with their comments; raises `SubprocessError` without an answer."""
    words = ["squeue", "--me", "--noheader", "--array", "--format=%i|%k"]
    done = subprocess.run(words, capture_output=True, text=True, errors="replace", timeout=60, check=True)
    rows = [line.strip().partition("|") for line in done.stdout.splitlines()]
    return {number: comment for number, _, comment in rows}


def _said(error: Exception) -> str:
    """What a command of Slurm has said in its last line."""
    text = getattr(error, "stderr", None) or str(error)
    lines = (text.decode(errors="replace") if isinstance(text, bytes) else text).strip().splitlines()
    return lines[-1] if lines else first_line(error)


def _name(job: Job) -> str:
    return job.trial.place.as_posix()


def _status_file(job: Job) -> Path:
    return job.log.parent / "slurm" / f"{job.log.stem}.status"
