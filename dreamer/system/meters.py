"""Means of metrics and shares of time between two log records."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


class Meter:
    """Means of metrics. Sums stay on the device of their values, so that the host waits only in `take`."""

    def __init__(self) -> None:
        self.sums: dict[str, float | Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, values: Mapping[str, float | Tensor]) -> None:
        """Add one observation of each metric."""
        for name, value in values.items():
            value = value.detach().double() if isinstance(value, Tensor) and value.device.type == "cpu" else value
            self.sums[name] = self.sums[name] + value if name in self.sums else value
            self.counts[name] = self.counts.get(name, 0) + 1

    def merge(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Replace the observations by those of the meters whose `state_dict` these are."""
        self.sums, self.counts = {}, {}
        for state in states:
            for name, value in state["sums"].items():
                self.sums[name] = self.sums.get(name, 0.0) + value
                self.counts[name] = self.counts.get(name, 0) + state["counts"][name]

    def take(self) -> dict[str, float]:
        """Means since the last call."""
        means = {name: float(total) / self.counts[name] for name, total in self.sums.items()}
        self.sums, self.counts = {}, {}
        return means

    def state_dict(self) -> dict[str, Any]:
        """Sums and counts."""
        return {"sums": {name: float(total) for name, total in self.sums.items()}, "counts": dict(self.counts)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore sums and counts."""
        self.sums, self.counts = dict(state["sums"]), dict(state["counts"])
        if self.sums.keys() != self.counts.keys() or any(count < 1 for count in self.counts.values()):
            raise ValueError("sums of metrics without their counts")


class Clock:
    """Shares of wall-clock time by part of the loop, and rates per second, between two calls of `take`."""

    PARTS = ("acting", "environment", "replay", "update", "waiting", "tracking", "evaluation", "imagination", "saving")

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.start(0, 0)

    @property
    def elapsed(self) -> float:
        """Seconds of training so far, those before a resume included; time between processes does not count."""
        return time.perf_counter() - self.began

    def resume(self, elapsed: float) -> None:
        """Resume a run that had taken this many seconds."""
        self.began = time.perf_counter() - elapsed

    def start(self, step: int, updates: int) -> None:
        """Start an interval at these totals."""
        self.since = time.perf_counter()
        self.step, self.updates = step, updates
        self.spent = dict.fromkeys(self.PARTS, 0.0)

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Count the time of the block for `part`."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.spent[part] += time.perf_counter() - begin

    def take(self, step: int, updates: int) -> dict[str, float]:
        """Rates and shares since the last call; training rates leave out evaluation, imagination and saving."""
        now = time.perf_counter()
        elapsed = max(now - self.since, 1e-9)
        others = sum(self.spent[part] for part in ("evaluation", "imagination", "saving"))
        training = max(elapsed - others, 1e-9)
        values = {f"time/fraction_{part}": self.spent[part] / elapsed for part in self.PARTS}
        values["time/elapsed"] = self.elapsed
        values["time/env_steps_per_second"] = (step - self.step) / training
        values["time/updates_per_second"] = (updates - self.updates) / training
        self.start(step, updates)
        return values


def peak_rss_mb() -> float:
    """Largest resident memory of this process so far, in MB."""
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def peak_gpu_mb(device: torch.device) -> float | None:
    """Largest memory of a CUDA device that PyTorch has held so far, that of CUDA graphs included, in MB; else None."""
    return torch.cuda.max_memory_reserved(device) / 2**20 if device.type == "cuda" else None
