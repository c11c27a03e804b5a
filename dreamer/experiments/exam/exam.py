"""`dreamer exam`: each part of the exam for every core and seed, done once and kept in a folder."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal, get_args

import torch
from annotated_types import Interval

import envs
from dreamer.config import SizeName, words
from dreamer.dynamics import LATENTS
from dreamer.errors import UserError, reason
from dreamer.experiments.ablation.grid import variants
from dreamer.experiments.exam import drift, recall, speed, uncertainty
from dreamer.experiments.exam.learner import exam_config
from dreamer.experiments.exam.plots import draw
from dreamer.experiments.exam.verdict import document
from dreamer.runs.provenance import command_line, commit
from dreamer.runs.saved import understood
from dreamer.runs.trust import check_folder
from dreamer.system.files import read_json, write_atomically
from dreamer.system.redaction import warn
from dreamer.tracking.progress import follow
from envs.ranges import Few, FewOrNone, NonNegative, checked, flag
from envs.safe_path import safe_path

ALL = tuple(name for core, latents in LATENTS.items() for name in (core, *(f"{core}:{other}" for other in latents[1:])))
"""Every core with every latent it can have."""
FORMAT = 1
Part = Literal["uncertainty", "memory", "drift", "speed"]
TRAINED: dict[Part, ModuleType] = {"uncertainty": uncertainty, "memory": recall, "drift": drift}
"""Parts that train every core with every seed, as modules."""
Key = tuple[str, int]
"""Variant of the core, and seed."""
Work = Callable[[], dict[str, Any]]
"""Function that trains, examines and returns numbers."""
UNREADABLE = "cannot read the results in {}"


@dataclass(frozen=True)
class ExamArguments:
    """Examine dynamics cores: two outcomes, memory, open-loop drift, speed. The same command resumes an exam."""

    cores: tuple[str, ...] = ("all",)
    """Cores, or variants such as rssm:gaussian. `all` is every core, rssm and ssm with both latents."""
    seeds: Few = 3
    """Number of models of each core, with seeds 0, 1, ..."""
    folder: Path = Path("runs/exam")
    """Folder of results and plots. An exam that was started there with the same settings is resumed."""
    size: SizeName = "100k"
    """Size whose number of parameters all cores are matched to."""
    parts: tuple[Part, ...] = ("uncertainty", "memory", "drift", "speed")
    """Parts of the exam to do."""
    task: str = "dmc:cartpole_swingup"
    """DeepMind Control task of the drift part."""
    free_nats: NonNegative = 0.0
    """Free nats of rssm and ssm. 0 trains priors to the end; Dreamer V3 uses 1."""
    effort: Annotated[float, Interval(gt=0, le=100)] = 1.0
    """Factor of episodes and updates; below 1 for a quick try without a verdict."""
    jobs: FewOrNone = 0
    """Number of models trained at a time, each in its own process; 0 is one per processor core. Speed runs alone."""
    json: bool = False
    """Print the results as one JSON object."""

    def settings(self) -> dict[str, Any]:
        """Return the settings that must agree for an exam to be resumed."""
        return {"format": FORMAT} | {name: getattr(self, name) for name in ("size", "task", "free_nats", "effort")}


def exam(args: ExamArguments) -> str:
    """Do the exam and return verdict and table as Markdown, or JSON; raises `UserError` for users' mistakes."""
    args = checked(args, flag)
    chosen = list(variants([name for word in words(args.cores) for name in (ALL if word == "all" else (word,))]))
    if not args.task.startswith("dmc:"):
        raise UserError(f"--task {args.task}: the drift part needs a dmc: task, whose simulator is deterministic")
    envs.make(args.task).close()
    check_folder(args.folder)
    _open_folder(args)
    _document(args, chosen)  # a damaged result shows before the work begins
    for part in args.parts:
        work = _speed(args, chosen) if part == "speed" else _trained(TRAINED[part], args, chosen)
        missing = {key: run for key, run in work.items() if not _path(args.folder, part, key).exists()}
        jobs = 1 if part == "speed" else args.jobs or envs.cores()
        for key, result in follow(_results(missing, jobs), part, len(missing), "models"):
            write_atomically(_path(args.folder, part, key), (json.dumps(result) + "\n").encode())
            warn(f"{part}  {key[0]}  seed {key[1]}  done")
    results, text = _document(args, chosen)
    try:
        write_atomically(args.folder / "results.json", (json.dumps(results) + "\n").encode())
        write_atomically(args.folder / "report.md", text)
        with understood(args.folder / "parts", UNREADABLE):
            draw(results, args.folder)
    except OSError as error:
        raise UserError(f"cannot write to {args.folder}: {reason(error)}") from None
    return json.dumps(results) if args.json else text


def _document(args: ExamArguments, variants: list[str]) -> tuple[dict[str, Any], str]:
    """All results so far, and the report on them; raises `UserError` where one of them is damaged."""
    results = _gather(args, variants)
    with understood(args.folder / "parts", UNREADABLE):
        return results, document(results) if any(part in results for part in get_args(Part)) else ""


def _trained(part: ModuleType, args: ExamArguments, variants: Sequence[str]) -> dict[Key, Work]:
    episodes = [max(2, round(number * args.effort)) for number in part.EPISODES]
    train, test = part.recordings(*episodes, *([args.task] if part is drift else []))
    stages = [stage.scaled(args.effort) for stage in part.STAGES]
    configs = {name: exam_config(name, args.size, args.free_nats, train.spec, **part.SETTINGS) for name in variants}
    return {
        (variant, seed): partial(part.examine, config, train, test, stages, seed)
        for variant, config in configs.items()
        for seed in range(args.seeds)
    }


def _speed(args: ExamArguments, variants: Sequence[str]) -> dict[Key, Work]:
    """All variants in turn in one process: the first call measures all of them."""
    train, _ = drift.recordings(2, 2, args.task)

    @cache
    def measured() -> dict[str, dict[str, Any]]:
        configs = {name: exam_config(name, args.size, args.free_nats, train.spec) for name in variants}
        return speed.examine(configs, train.spec, rounds=max(1, round(10 * min(1.0, args.effort))))

    return {(variant, 0): lambda variant=variant: measured()[variant] for variant in variants}  # type: ignore[misc]


def _results(work: dict[Key, Work], jobs: int) -> Iterator[tuple[Key, dict[str, Any]]]:
    """Results of all work, in the order in which they are ready; `jobs` processes at a time."""
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


def _path(folder: Path, part: str, key: Key) -> Path:
    variant, seed = key
    return folder / "parts" / f"{part}_{variant.replace(':', '_')}_seed{seed}.json"


def _open_folder(args: ExamArguments) -> None:
    """Create the folder; raises `UserError` when an exam with other settings was started there."""
    path = args.folder / "exam.json"
    try:
        if args.folder.is_dir() and not path.exists() and {file.name for file in args.folder.iterdir()} - {"parts"}:
            raise UserError(f"{args.folder} already exists and is not an exam; choose another --folder")
        (args.folder / "parts").mkdir(parents=True, exist_ok=True)
        if not path.exists():
            write_atomically(path, (json.dumps(args.settings(), indent=1) + "\n").encode())
        before = read_json(path, dict[str, Any])
    except (OSError, UserError) as error:
        raise UserError(f"cannot use {args.folder} for an exam: {error}") from None
    now = args.settings()
    differing = sorted(name for name in now if before.get(name) != now[name])
    if differing:
        raise UserError(
            f"{args.folder} holds an exam with another {', '.join(differing)}; use the same value, or another --folder"
        )


def _gather(args: ExamArguments, names: list[str]) -> dict[str, Any]:
    """Every finished part by part and variant, a list over seeds."""
    parts: dict[str, dict[str, list[Any]]] = {}
    for part in get_args(Part):
        paths = {name: [_path(args.folder, part, (name, seed)) for seed in range(args.seeds)] for name in names}
        found = {name: [read_json(path, dict[str, Any]) for path in paths[name] if path.exists()] for name in names}
        parts[part] = {name: runs for name, runs in found.items() if runs}
    return {
        "settings": args.settings() | {"seeds": args.seeds},
        "command": command_line(),
        "commit": commit(),
        "threads": torch.get_num_threads(),
        **{part: found for part, found in parts.items() if found},
    }
