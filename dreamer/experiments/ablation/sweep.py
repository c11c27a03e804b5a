"""`dreamer sweep` and `dreamer ablate`: runs that differ in task, core, settings and seed, in one folder.

A sweep can be resumed at any point. `dreamer ablate` is the sweep whose default is to vary the core.

FOLDER/ablation.json                        options of the sweep, with all settings that the runs share
FOLDER/<task>/<core>/<settings>/seed<k>/    run folders, without <settings> where only cores vary
FOLDER/logs/*.log                           output of the processes of the runs
FOLDER/failures.json                        runs that failed at the last try; a resumed sweep tries them again
FOLDER/points.json                          points that a sampler of Optuna has proposed
"""

from __future__ import annotations

import json
import math
import shlex
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cache, partial
from pathlib import Path
from statistics import mean

from dreamer.config import validated, words
from dreamer.errors import UserError
from dreamer.experiments.ablation import grid
from dreamer.experiments.ablation.grid import Trial
from dreamer.experiments.ablation.jobs import Job, do_all
from dreamer.experiments.ablation.launchers import flags_of, launcher_of
from dreamer.experiments.ablation.manifest import MANIFEST, SweepArguments, check_target, failures_in, manifest
from dreamer.experiments.ablation.search import Search
from dreamer.experiments.ablation.vary import Point, Varied, require_used, varied
from dreamer.runs import checkpoint
from dreamer.runs.folder import create_unique, locked
from dreamer.runs.saved import require_complete
from dreamer.runs.trust import agreement
from dreamer.system.files import write_atomically
from dreamer.system.redaction import redact, show, visible
from dreamer.tracking import read
from dreamer.tracking.destination import flags, foreign
from dreamer.training.state import Progress as RunProgress
from envs.process import stopped_status
from envs.ranges import checked, flag


def sweep(args: SweepArguments, command: str = "sweep") -> int:
    """Do all unfinished runs. Returns 0 when all are finished, 1 when some failed, `stopped_status` after a signal.

    `command` names a new folder. Raises `UserError` for every mistake that can be known before the first run starts.
    """
    args, varying = _checked(args)
    folder = args.folder or Path("runs") / f"{command}_{datetime.now():%Y%m%d-%H%M%S}"
    check_target(folder, args)
    arms = len(args.cores) * len(args.objectives)
    if command == "sweep" and not args.vary and arms == 1 and not (folder / MANIFEST).exists():
        raise UserError(
            "nothing varies; name a setting, such as --vary agent.optimizer.learning-rate=1e-4,4e-4, or --cores"
        )
    launcher = launcher_of(args)
    device = launcher.device
    search = Search(args, varying, folder)
    jobs, finished = _jobs(args, folder, device, search.points)
    if args.dry_run:
        from dreamer.experiments.ablation.forecast import forecast

        total = _total(search, jobs, finished)
        configs = {job.trial: job.config for job in jobs}
        show(*_plan(args, search, total, finished))
        show(*(forecast(configs, args.jobs, total - finished) if jobs else ["nothing is left to do"]))
        return 0
    launcher.connect()
    if args.folder is None:
        folder = create_unique(folder)
        jobs = [replace(job, run_dir=folder / job.trial.place, log=folder / "logs" / job.log.name) for job in jobs]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            check_target(folder, args)
            if not (folder / MANIFEST).exists():
                write_atomically(folder / MANIFEST, manifest(args).encode())
            search.save(folder)
            score = cache(partial(_score, args, folder))
            total = _total(search, jobs, finished)
            progress = Progress(folder / "failures.json", total, total - finished, [job.trial for job in jobs])
            show(f"{folder}: {total} runs on {launcher.where}, {finished} of them finished")
            stopped_by = do_all(jobs, launcher, progress.started, progress.ended)
            while not stopped_by and (points := search.more(score)):
                jobs, known = _jobs(args, folder, device, points)
                progress.skip(known)
                stopped_by = do_all(jobs, launcher, progress.started, progress.ended)
    except OSError as error:
        raise UserError(f"cannot work in {folder}: {error}") from None
    verb = "ablate" if command == "ablation" else "sweep"
    resume = f"dreamer {verb} --folder {shlex.quote(str(folder))}{agreement(args.config, args.tasks)}"
    resume += flags(foreign(args.config.tracking)) + flags_of(args)
    if stopped_by:
        show(f"stopped; resume with: {resume}")
        return stopped_status(stopped_by)
    for trial, reason in progress.failures.items():
        show(f"failed  {trial}: {reason}")
    if progress.failures:
        show(f"try the failed runs again with: {resume}")
    show(f"next: dreamer report {shlex.quote(str(folder))}")
    return 1 if progress.failures else 0


def _checked(args: SweepArguments) -> tuple[SweepArguments, tuple[Varied, ...]]:
    """The same arguments with the shortest names, and what varies; raises `UserError` for impossible ones."""
    args = checked(args, flag)
    config = validated(args.config)
    own = f"{config.agent.dynamics.core}:{config.agent.dynamics.latent}"
    tasks, cores = words(args.tasks), grid.variants(words(args.cores) or (own,))
    objectives = grid.objectives(words(args.objectives))
    if not tasks or not objectives:
        raise UserError("name at least one task and one objective, such as --tasks dmc:walker_walk,dmc:cheetah_run")
    if args.sampler != "random" and not args.samples:
        raise UserError(f"--sampler {args.sampler} needs --samples NUMBER, the number of points to try")
    if args.samples and not args.vary:
        raise UserError("--samples draws values of settings; name them, such as --vary agent.imagination-horizon=5..20")
    if args.sampler != "random" and len(cores) * len(objectives) > 1:
        raise UserError(f"--sampler {args.sampler} tunes one core; name one with --cores, and one objective")
    args = replace(args, config=config, tasks=tasks, cores=cores, objectives=objectives)
    varying = varied(args.vary, config)
    names = grid.with_objectives(cores, objectives)
    require_used(varying, {name: grid.configuration(config, Trial(tasks[0], name, 0)) for name in names})
    return args, varying


def _jobs(args: SweepArguments, folder: Path, device: str, points: Sequence[Point]) -> tuple[list[Job], int]:
    """The runs of these points that are not finished, and the number of those that are."""
    trials = grid.trials(args.tasks, grid.with_objectives(args.cores, args.objectives), args.seeds, points)
    pending = [
        trial for trial in trials if not _is_finished(folder / trial.place, _steps(args.config.steps, trial.point))
    ]
    configs = grid.configurations(args.config, pending, visible(folder.resolve().name), args.match_params, device)
    logs = {trial: folder / "logs" / f"{'_'.join(trial.place.parts)}.log" for trial in pending}
    jobs = [Job(trial, folder / trial.place, logs[trial], configs[trial]) for trial in pending]
    return jobs, len(trials) - len(pending)


def _steps(shared: int, point: Point) -> int:
    return int(dict(point).get("steps", shared))


def _total(search: Search, jobs: Sequence[Job], finished: int) -> int:
    """Number of runs of all points, those that are not known yet included."""
    return search.total * (len(jobs) + finished) // len(set(search.points))


def _plan(args: SweepArguments, search: Search, total: int, finished: int) -> list[str]:
    """What a sweep would do, in a line or two."""
    factors = {"task": args.tasks, "core": args.cores, "objective": args.objectives}
    counts = [f"{len(values)} {name}{'s' * (len(values) > 1)}" for name, values in factors.items()]
    counts += [f"{search.total} points of {len(args.vary)} settings"] * bool(args.vary)
    lines = [f"{' x '.join(counts)} x {args.seeds} seeds; {total} runs, {finished} of them finished"]
    if search.adaptive:
        lines.append(
            f"{len(search.points)} of {search.total} points are known; {args.sampler} chooses the others later"
        )
    return lines


def _score(args: SweepArguments, folder: Path, point: Point) -> float | None:
    """Mean final return over all runs of a point; None where one did not finish."""
    trials = grid.trials(args.tasks, grid.with_objectives(args.cores, args.objectives), args.seeds, [point])
    places = [folder / trial.place for trial in trials]
    if not all(_is_finished(place, _steps(args.config.steps, point)) for place in places):
        return None
    score = mean(_final_return(place) for place in places)
    return score if math.isfinite(score) else None


def _is_finished(run_dir: Path, steps: int) -> bool:
    try:
        _, state, _ = checkpoint.load(run_dir / "checkpoints")
    except checkpoint.NoCheckpoint:
        return False
    require_complete(state, run_dir / "checkpoints")
    return RunProgress.of(state).finished(steps) and (run_dir / "curve.png").exists()


class Progress:
    """Prints a line for each of the `pending` runs of `total`, and keeps the current failures in the file `path`.

    `known` are those of the pending runs that are known by now.
    """

    def __init__(self, path: Path, total: int, pending: int, known: Sequence[Trial]) -> None:
        self._path, self._total, self._pending, self._left = path, total, pending, pending
        self._began: dict[Trial, float] = {}
        self._start = time.monotonic()
        errors = {
            (one["task"], one["core"], one.get("settings", ""), one["seed"]): one["error"] for one in failures_in(path)
        }
        own = {trial: (trial.task, trial.core, trial.settings, trial.seed) for trial in known}
        self.failures = {trial: errors[key] for trial, key in own.items() if key in errors}
        """Errors of the runs that failed at the last try."""
        self._save()

    def started(self, job: Job, place: str) -> None:
        """Print that a run starts, and its place if there are several."""
        self._began[job.trial] = time.monotonic()
        show("  ".join(filter(None, (f"start   {job.trial}", place, f"output in {job.log}"))))

    def skip(self, finished: int) -> None:
        """Count runs that were finished before."""
        self._left -= finished
        self._pending -= finished

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
        result = (
            f"failed  {job.trial}: {error}"
            if error
            else f"finish  {job.trial}  return {_final_return(job.run_dir):,.1f}"
        )
        show(f"{result}  in {spent}  {self._total - self._left} of {self._total}  ETA {remaining}")

    def _save(self) -> None:
        entries = [
            {
                "task": trial.task,
                "core": trial.core,
                "seed": trial.seed,
                **({"settings": trial.settings} if trial.point else {}),
                "error": error,
            }
            for trial, error in self.failures.items()
        ]
        write_atomically(self._path, (json.dumps(entries, indent=1) + "\n").encode())


def _final_return(run_dir: Path) -> float:
    records = read(run_dir / "metrics.jsonl")
    return float([record["eval/return_mean"] for record in records if "eval/return_mean" in record][-1])
