"""Runs as child processes on this machine."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Sequence

import envs
from dreamer.experiments.ablation.child import Order, error_of, release, start_child
from dreamer.experiments.ablation.jobs import Job
from dreamer.experiments.ablation.manifest import SweepArguments
from dreamer.system.device import choose_device, gpu_names


class Local:
    """Starts at most `--jobs` children at a time, which share the cores. Each has the GPU with the fewest of them."""

    OPTIONS: tuple[str, ...] = ()

    def __init__(self, args: SweepArguments) -> None:
        self._limit = args.jobs
        self.device = choose_device(args.config.device)
        gpus = gpu_names() if self.device == "cuda" else []
        self._gpus = gpus if len(gpus) > 1 else []
        self.where = f"{len(gpus)} GPUs" if self._gpus else self.device
        self._running: list[Child] = []

    def connect(self) -> None:
        """Nothing has to be connected."""

    def room(self, running: int) -> int:
        return self._limit - running

    def start(self, jobs: Sequence[Job]) -> list[Child]:
        return [self._start(job) for job in jobs]

    def _start(self, job: Job) -> Child:
        self._running = [child for child in self._running if child.poll() is None]
        busy = Counter(child.gpu for child in self._running)
        gpu = min(self._gpus, key=lambda name: busy[name], default="")
        threads = str(max(1, envs.cores() // self._limit))
        env = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads} if self._limit > 1 else {}
        child = Child(job, env | ({"CUDA_VISIBLE_DEVICES": gpu} if gpu else {}), gpu)
        self._running.append(child)
        return child


class Child:
    """A job that a child process does. `gpu` is its GPU if there are several, else empty."""

    def __init__(self, job: Job, env: dict[str, str], gpu: str) -> None:
        self.gpu, self._log = gpu, job.log
        self._offset = job.log.stat().st_size if job.log.exists() else 0
        self._process: subprocess.Popen[bytes] = start_child(Order.of(job), env)

    @property
    def place(self) -> str:
        return f"on GPU {self.gpu}" if self.gpu else ""

    def poll(self) -> str | None:
        if self._process.poll() is None:
            return None
        release(self._process)
        return error_of(self._process.returncode, self._log, self._offset)

    def stop(self) -> None:
        self._process.terminate()

    def abandon(self) -> None:
        self._process.kill()
        release(self._process)
