"""How an ablation is going: a line for every run that starts or ends, and the runs that failed."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from dreamer.checkpoint import write_atomically
from dreamer.experiments.grid import Cell
from dreamer.experiments.jobs import Job
from dreamer.redaction import redact, show
from dreamer.tracking import read


class Progress:
    """Prints what becomes of `pending` runs of `total`, and keeps the failures of now in the file `path`."""

    def __init__(self, path: Path, total: int, pending: Sequence[Cell]) -> None:
        self._path, self._total, self._pending, self._left = path, total, len(pending), len(pending)
        self._began: dict[Cell, float] = {}
        self._start = time.monotonic()
        known = _failures_in(path)
        self.failures = {cell: known[cell] for cell in pending if cell in known}
        """Runs that failed when last tried, and why."""
        self._save()

    def started(self, job: Job) -> None:
        """Tell of a run that starts."""
        self._began[job.cell] = time.monotonic()
        show(f"start   {job.cell}  output in {job.log}")

    def ended(self, job: Job, error: str) -> None:
        """Tell of a run that ended, with an error or with none."""
        self._left -= 1
        error = redact(error)
        self.failures.pop(job.cell, None)
        if error:
            self.failures[job.cell] = error
        self._save()
        now, done = time.monotonic(), self._pending - self._left
        spent = timedelta(seconds=round(now - self._began[job.cell]))
        remaining = timedelta(seconds=round((now - self._start) * self._left / done))
        result = f"failed  {job.cell}: {error}" if error else f"finish  {job.cell}  return {_final_return(job):,.1f}"
        show(f"{result}  in {spent}  {self._total - self._left} of {self._total}  ETA {remaining}")

    def _save(self) -> None:
        entries = [
            {"task": cell.task, "core": cell.core, "seed": cell.seed, "error": error}
            for cell, error in self.failures.items()
        ]
        write_atomically(self._path, (json.dumps(entries, indent=1) + "\n").encode())


def _failures_in(path: Path) -> dict[Cell, str]:
    try:
        return {
            Cell(entry["task"], entry["core"], entry["seed"]): entry["error"] for entry in json.loads(path.read_text())
        }
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _final_return(job: Job) -> float:
    returns = [
        record["eval/return_mean"] for record in read(job.run_dir / "metrics.jsonl") if "eval/return_mean" in record
    ]
    return float(returns[-1])
