"""The exam: what each dynamics core can and cannot represent, measured against ground truth (`dreamer exam`).

World models alone, trained on the same recorded data with as many parameters each, and no policy. Four parts, one file
each: `uncertainty`, `memory`, `drift`, `speed`.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt

import envs
from dreamer.checkpoint import write_atomically
from dreamer.config import SizeName, words
from dreamer.dynamics import LATENTS
from dreamer.errors import UserError
from dreamer.experiments.exam import drift, memory, speed, uncertainty
from dreamer.experiments.exam.learner import exam_config
from dreamer.experiments.exam.plots import draw
from dreamer.experiments.exam.verdict import document
from dreamer.experiments.grid import variants
from dreamer.redaction import tell
from dreamer.run import command_line, commit
from dreamer.trust import check_folder
from envs.push import SIGMA
from envs.safe_path import safe_path

Part = Literal["uncertainty", "memory", "drift", "speed"]
ALL = tuple(name for core, latents in LATENTS.items() for name in (core, *(f"{core}:{other}" for other in latents[1:])))
"""Every core with every latent it can have."""
FORMAT = 1


@dataclass(frozen=True)
class ExamArguments:
    """Examine dynamics cores: two outcomes, memory, open-loop drift, speed. An interrupted exam goes on."""

    cores: tuple[str, ...] = ("all",)
    """Cores, or variants such as rssm:gaussian; all is every core, rssm and ssm with both latents."""
    seeds: Annotated[int, Ge(1)] = 3
    """Models of each core, with seeds 0 to N - 1."""
    folder: Path = Path("runs/exam")
    """Where results and plots go; an exam that began there with the same settings goes on."""
    size: SizeName = "100k"
    """Size whose number of parameters all cores are matched to."""
    parts: tuple[Part, ...] = ("uncertainty", "memory", "drift", "speed")
    """Parts of the exam to take."""
    task: str = "dmc:cartpole_swingup"
    """DeepMind Control task of the drift part."""
    free_nats: Annotated[float, Ge(0)] = 0.0
    """Free nats of rssm and ssm; 0 trains priors to the end, Dreamer V3 uses 1."""
    effort: Annotated[float, Gt(0)] = 1.0
    """Multiplies episodes and updates; below 1 for a quick look."""
    jobs: Annotated[int, Ge(0)] = 0
    """Models trained at a time, each in a process of its own; 0 is one per processor core. Speed is measured alone."""
    json: bool = False
    """Print the results as one JSON object."""

    def settings(self) -> dict[str, Any]:
        """What must agree for an exam to go on."""
        names = ("size", "task", "free_nats", "effort")
        return {"format": FORMAT} | {name: value for name, value in asdict(self).items() if name in names}

    def scaled(self, number: int) -> int:
        """A number of episodes or updates at this effort, at least 2."""
        return max(2, round(number * self.effort))


def exam(args: ExamArguments) -> str:
    """Take the exam; returns the table and the verdict, or JSON. Raises `UserError` for what the user can put right."""
    chosen = list(variants([name for word in words(args.cores) for name in (ALL if word == "all" else (word,))]))
    if args.seeds < 1:
        raise UserError(f"--seeds: must be at least 1 (got {args.seeds})")
    if args.jobs < 0:
        raise UserError(f"--jobs: must be at least 0 (got {args.jobs})")
    if args.free_nats < 0 or args.effort <= 0:
        raise UserError("--free-nats must be at least 0 and --effort greater than 0")
    if not args.task.startswith("dmc:"):
        raise UserError(f"--task {args.task}: the drift part needs a dmc: task, whose simulator repeats itself")
    check_folder(args.folder)
    _open_folder(args)
    for part in args.parts:
        work = PARTS[part](args, chosen)
        missing = {(name, seed): run for name, seed, run in work if not _path(args.folder, part, name, seed).exists()}
        for (variant, seed), result in _done(missing, 1 if part == "speed" else args.jobs or envs.cores()):
            write_atomically(_path(args.folder, part, variant, seed), (json.dumps(result) + "\n").encode())
            tell(f"{part}  {variant}  seed {seed}  done")
    results = _gather(args, chosen)
    text = document(results)
    write_atomically(args.folder / "results.json", (json.dumps(results) + "\n").encode())
    write_atomically(args.folder / "report.md", text.encode())
    draw(results, args.folder)
    return json.dumps(results) if args.json else text


def _done(work: dict[Key, Callable[[], dict[str, Any]]], jobs: int) -> Iterator[tuple[Key, dict[str, Any]]]:
    """Do everything, `jobs` at a time, and yield results as they come."""
    if min(jobs, len(work)) <= 1:
        yield from ((key, run()) for key, run in work.items())
        return
    threads = max(1, envs.cores() // jobs)
    context = multiprocessing.get_context("spawn")
    with safe_path(), ProcessPoolExecutor(min(jobs, len(work)), context, torch.set_num_threads, (threads,)) as pool:
        futures = {pool.submit(run): key for key, run in work.items()}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)


Key = tuple[str, int]
"""Variant and seed."""
Work = Iterator[tuple[str, int, Callable[[], dict[str, Any]]]]
"""Variant, seed, and what examines it."""


def _uncertainty(args: ExamArguments, names: list[str]) -> Work:
    train, test = uncertainty.recordings(args.scaled(8000), args.scaled(130))
    for variant in names:
        config = exam_config(
            variant,
            args.size,
            args.free_nats,
            train.spec,
            uncertainty.STOCH,
            uncertainty.LEARNING_RATE,
            SIGMA,
        )
        for seed in range(args.seeds):
            stages = [stage.scaled(args.effort) for stage in uncertainty.STAGES]
            yield variant, seed, partial(uncertainty.examine, config, train, test, stages, 1000, seed)


def _memory(args: ExamArguments, names: list[str]) -> Work:
    train, test = memory.recordings(args.scaled(500), args.scaled(200))
    for variant in names:
        config = exam_config(variant, args.size, args.free_nats, train.spec, memory.STOCH)
        for seed in range(args.seeds):
            stages = [stage.scaled(args.effort) for stage in memory.STAGES]
            yield variant, seed, partial(memory.examine, config, train, test, stages, seed)


def _drift(args: ExamArguments, names: list[str]) -> Work:
    train, test = drift.recordings(args.task, args.scaled(200), args.scaled(64))
    for variant in names:
        config = exam_config(variant, args.size, args.free_nats, train.spec)
        for seed in range(args.seeds):
            stages = [stage.scaled(args.effort) for stage in drift.STAGES]
            yield (
                variant,
                seed,
                partial(drift.examine, config, train, test, stages, 32, seed),
            )


def _speed(args: ExamArguments, names: list[str]) -> Work:
    """All variants in turn in one process; the first asks for all."""
    train, _ = drift.recordings(args.task, 2, 2)
    measured: dict[str, dict[str, Any]] = {}

    def measure(variant: str) -> dict[str, Any]:
        if not measured:
            configs = {name: exam_config(name, args.size, args.free_nats, train.spec) for name in names}
            measured.update(speed.examine(configs, train.spec, max(1, round(10 * min(1.0, args.effort)))))
        return measured[variant]

    for variant in names:
        yield variant, 0, partial(measure, variant)


PARTS: dict[str, Callable[[ExamArguments, list[str]], Work]] = {
    "uncertainty": _uncertainty,
    "memory": _memory,
    "drift": _drift,
    "speed": _speed,
}


def _path(folder: Path, part: str, variant: str, seed: int) -> Path:
    return folder / "parts" / f"{part}_{variant.replace(':', '_')}_seed{seed}.json"


def _open_folder(args: ExamArguments) -> None:
    """Make the folder, or check that what was begun there has these settings."""
    path = args.folder / "exam.json"
    try:
        (args.folder / "parts").mkdir(parents=True, exist_ok=True)
        if not path.exists():
            write_atomically(path, (json.dumps(args.settings(), indent=1) + "\n").encode())
        before = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"cannot use {args.folder} for an exam: {error}") from None
    now = args.settings()
    differing = sorted(name for name in now if not isinstance(before, dict) or before.get(name) != now[name])
    if differing:
        raise UserError(
            f"{args.folder} holds an exam with another {', '.join(differing)}; give the same, or another --folder"
        )


def _gather(args: ExamArguments, names: list[str]) -> dict[str, Any]:
    """Every finished part by part and variant, a list over seeds."""
    results: dict[str, Any] = {
        "settings": args.settings() | {"seeds": args.seeds},
        "command": command_line(),
        "commit": commit(),
        "threads": torch.get_num_threads(),
    }
    for part in PARTS:
        found: dict[str, list[Any]] = {}
        for variant in names:
            paths = [_path(args.folder, part, variant, seed) for seed in range(args.seeds)]
            read = [json.loads(path.read_text()) for path in paths if path.exists()]
            if read:
                found[variant] = read
        if found:
            results[part] = found
    return results
