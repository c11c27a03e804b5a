"""Progress of an ablation: a line for every run that starts or ends, and failures.json."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from dreamer.experiments.ablation.grid import Trial
from dreamer.experiments.ablation.jobs import Job
from dreamer.system.files import write_atomically
from dreamer.system.redaction import redact, show
from dreamer.tracking import read


class Progress:
    """Prints a line for each of the `pending` runs of `total`, and keeps the current failures in the file `path`."""

    def __init__(self, path: Path, total: int, pending: Sequence[Trial]) -> None:
        self._path, self._total, self._pending, self._left = path, total, len(pending), len(pending)
        self._began: dict[Trial, float] = {}
        self._start = time.monotonic()
        known = _failures_in(path)
        self.failures = {trial: known[trial] for trial in pending if trial in known}
        """Errors of the runs that failed at the last try."""
        self._save()

    def started(self, job: Job) -> None:
        """Print that a run starts."""
        self._began[job.trial] = time.monotonic()
        show(f"start   {job.trial}  output in {job.log}")

    def ended(self, job: Job, error: str) -> None:
        """Print that a run ended; `error` is empty for a finished run."""
        self._left -= 1
        error = redact(error)
        self.failures.pop(job.trial, None)
        if error:
            self.failures[job.trial] = error
        self._save()
        now, done = time.monotonic(), self._pending - self._left
        spent = timedelta(seconds=round(now - self._began[job.trial]))
        remaining = timedelta(seconds=round((now - self._start) * self._left / done))
        result = f"failed  {job.trial}: {error}" if error else f"finish  {job.trial}  return {_final_return(job):,.1f}"
        show(f"{result}  in {spent}  {self._total - self._left} of {self._total}  ETA {remaining}")

    def _save(self) -> None:
        entries = [
            {"task": trial.task, "core": trial.core, "seed": trial.seed, "error": error}
            for trial, error in self.failures.items()
        ]
        write_atomically(self._path, (json.dumps(entries, indent=1) + "\n").encode())


def _failures_in(path: Path) -> dict[Trial, str]:
    try:
        return {
            Trial(entry["task"], entry["core"], entry["seed"]): entry["error"] for entry in json.loads(path.read_text())
        }
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _final_return(job: Job) -> float:
    returns = [
        record["eval/return_mean"] for record in read(job.run_dir / "metrics.jsonl") if "eval/return_mean" in record
    ]
    return float(returns[-1])
