"""`dreamer ablate`: the full agent for every task, core and seed, in one folder. It can be resumed at any point.

FOLDER/ablation.json             options of the ablation, with all settings that the runs share
FOLDER/<task>/<core>/seed<k>/    run folders
FOLDER/logs/*.log                output of the processes of the runs
FOLDER/failures.json             runs that failed at the last try; a resumed ablation tries them again
"""

from __future__ import annotations

import dataclasses
import json
import shlex
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from dreamer.config import validated, words
from dreamer.errors import UserError
from dreamer.experiments.ablation import grid
from dreamer.experiments.ablation.grid import Trial
from dreamer.experiments.ablation.jobs import Job, do_all
from dreamer.experiments.ablation.manifest import MANIFEST, AblateArguments, check_target, failures_in, manifest
from dreamer.runs import checkpoint
from dreamer.runs.folder import create_unique, locked
from dreamer.runs.saved import require_complete
from dreamer.runs.trust import agreement
from dreamer.system.device import choose_device, gpu_names
from dreamer.system.files import write_atomically
from dreamer.system.redaction import redact, show, visible
from dreamer.tracking import read
from dreamer.tracking.destination import flags, foreign
from dreamer.training.state import Progress as RunProgress
from envs.process import stopped_status
from envs.ranges import checked, flag


def ablate(args: AblateArguments) -> int:
    """Do all unfinished runs. Returns 0 when all are finished, 1 when some failed, `stopped_status` after a signal.

    Raises `UserError` for every mistake that can be known before the first run starts.
    """
    args = _checked(args)
    folder = args.folder or Path("runs") / f"ablation_{datetime.now():%Y%m%d-%H%M%S}"
    check_target(folder, args)
    if args.config.devices > 1:
        raise UserError(f"--devices {args.config.devices}: an ablation trains each run in one process; use --jobs")
    device = choose_device(args.config.device)
    gpus = gpu_names() if device == "cuda" else []
    where = f"{len(gpus)} GPUs" if len(gpus) > 1 else device
    trials = grid.trials(args.tasks, grid.with_objectives(args.cores, args.objectives), args.seeds)
    pending = [trial for trial in trials if not _is_finished(folder / trial.place, args.config.steps)]
    configs = grid.configurations(args.config, pending, visible(folder.resolve().name), args.match_params, device)
    if args.folder is None:
        folder = create_unique(folder)
    logs = {trial: folder / "logs" / f"{'_'.join(trial.place.parts)}.log" for trial in pending}
    jobs = [Job(trial, folder / trial.place, logs[trial], configs[trial]) for trial in pending]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            check_target(folder, args)
            if not (folder / MANIFEST).exists():
                write_atomically(folder / MANIFEST, manifest(args).encode())
            progress = Progress(folder / "failures.json", len(trials), pending)
            show(f"{folder}: {len(trials)} runs on {where}, {len(trials) - len(jobs)} of them finished")
            stopped_by = do_all(jobs, args.jobs, progress.started, progress.ended, gpus if len(gpus) > 1 else ())
    except OSError as error:
        raise UserError(f"cannot work in {folder}: {error}") from None
    resume = f"dreamer ablate --folder {shlex.quote(str(folder))}{agreement(args.config, args.tasks)}"
    resume += flags(foreign(args.config.tracking))
    if stopped_by:
        show(f"stopped; resume with: {resume}")
        return stopped_status(stopped_by)
    for trial, reason in progress.failures.items():
        show(f"failed  {trial}: {reason}")
    if progress.failures:
        show(f"try the failed runs again with: {resume}")
    show(f"next: dreamer report {shlex.quote(str(folder))}")
    return 1 if progress.failures else 0


def _checked(args: AblateArguments) -> AblateArguments:
    """The same arguments with the shortest names; raises `UserError` for impossible ones."""
    args = checked(args, flag)
    tasks, cores = words(args.tasks), grid.variants(words(args.cores))
    objectives = grid.objectives(words(args.objectives))
    if not tasks or not cores or not objectives:
        raise UserError("name at least one task and one core, such as --tasks dmc:walker_walk --cores rssm,rnn")
    return dataclasses.replace(args, config=validated(args.config), tasks=tasks, cores=cores, objectives=objectives)


def _is_finished(run_dir: Path, steps: int) -> bool:
    try:
        _, state, _ = checkpoint.load(run_dir / "checkpoints")
    except checkpoint.NoCheckpoint:
        return False
    require_complete(state, run_dir / "checkpoints")
    return RunProgress.of(state).finished(steps) and (run_dir / "curve.png").exists()


class Progress:
    """Prints a line for each of the `pending` runs of `total`, and keeps the current failures in the file `path`."""

    def __init__(self, path: Path, total: int, pending: Sequence[Trial]) -> None:
        self._path, self._total, self._pending, self._left = path, total, len(pending), len(pending)
        self._began: dict[Trial, float] = {}
        self._start = time.monotonic()
        known = {Trial(one["task"], one["core"], one["seed"]): one["error"] for one in failures_in(path)}
        self.failures = {trial: known[trial] for trial in pending if trial in known}
        """Errors of the runs that failed at the last try."""
        self._save()

    def started(self, job: Job, gpu: str) -> None:
        """Print that a run starts, and its GPU if there are several."""
        self._began[job.trial] = time.monotonic()
        place = f"  on GPU {gpu}" if gpu else ""
        show(f"start   {job.trial}{place}  output in {job.log}")

    def ended(self, job: Job, error: str) -> None:
        """Print that a run ended; `error` is empty for a finished run."""
        self._left -= 1
        error = redact(error)
        self.failures.pop(job.trial, None)
        if error:
            self.failures[job.trial] = error[:10_000]
        self._save()
        now, done = time.monotonic(), self._pending - self._left
        spent = timedelta(seconds=round(now - self._began[job.trial]))
        remaining = timedelta(seconds=round((now - self._start) * self._left / done))
        result = f"failed  {job.trial}: {error}" if error else f"finish  {job.trial}  return {_final_return(job):,.1f}"
        show(f"{result}  in {spent}  {self._total - self._left} of {self._total}  ETA {remaining}")

    def _save(self) -> None:
        entries = [{**dataclasses.asdict(trial), "error": error} for trial, error in self.failures.items()]
        write_atomically(self._path, (json.dumps(entries, indent=1) + "\n").encode())


def _final_return(job: Job) -> float:
    records = read(job.run_dir / "metrics.jsonl")
    return float([record["eval/return_mean"] for record in records if "eval/return_mean" in record][-1])
