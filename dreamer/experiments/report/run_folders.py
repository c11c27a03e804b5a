"""Run folders below a folder, reduced to the values that a report compares."""

from __future__ import annotations

import dataclasses
import math
import os
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dreamer.config import Config
from dreamer.errors import UserError
from dreamer.experiments.ablation.grid import variant_name
from dreamer.experiments.ablation.manifest import Failed, failures_in
from dreamer.experiments.report.statistics import area_under_curve
from dreamer.runs.folder import RunInfo, open_run
from dreamer.system.redaction import redact
from dreamer.tracking import read
from envs.returns import largest_return

MARKS = {"run.json", "metrics.jsonl"}
"""A folder with one of these files is meant to be a run folder."""


@dataclass(frozen=True)
class Run:
    """Values of one run folder."""

    path: str
    """Folder, relative to the folder of the report."""
    task: str
    core: str
    """Dynamics core, with its latent family and its objective where they are not the default."""
    seed: int
    config: Config
    """Full configuration."""
    info: RunInfo
    """Content of run.json."""
    steps: np.ndarray
    """Environment steps at the evaluations `[evaluation]`."""
    returns: np.ndarray
    """Mean returns with sampled actions `[evaluation]`."""
    mode_returns: np.ndarray
    """Mean returns with the policy's mode `[evaluation]`; NaN where not recorded."""
    step: int
    """Environment steps of the last record."""
    wall_seconds: float
    """Wall-clock time in seconds; NaN when not recorded."""
    seconds_per_update: float
    """Seconds of training per update, with acting, without evaluation and saving; NaN when not recorded."""
    env_steps_per_second: float
    """Environment steps per second of training; NaN when not recorded."""
    arm: str = ""
    """Name by the settings that vary between the runs of a comparison, see `arms`."""

    @property
    def finished(self) -> bool:
        """True when the evaluation at the end of the run is recorded."""
        return len(self.steps) > 0 and bool(self.steps[-1] >= self.config.steps)

    @property
    def largest_return(self) -> float | None:
        """Largest return that an episode can have; None if it is not known."""
        return largest_return(self.config.task, self.config.env)

    @property
    def final(self) -> float:
        """Return of the last evaluation."""
        return float(self.returns[-1])

    @property
    def auc(self) -> float:
        """Mean height of the evaluation curve."""
        return area_under_curve(self.steps, self.returns)

    @property
    def parameters(self) -> dict[str, int]:
        """Number of parameters of each part of the agent; empty when not recorded."""
        return {part: count for part, count in self.info.get("parameters", {}).items() if part != "total"}


@dataclass(frozen=True)
class Failure:
    """Run that left no readable run folder."""

    place: str
    """Folder, or task, core and seed."""
    error: str
    """Error in one line."""


def find_runs(folder: Path) -> tuple[list[Run], list[Failure]]:
    """Return all runs below `folder`, and all failures, in the order of their paths.

    `failures.json` in the folder, a list of objects with `task`, `core`, `seed` and `error`, adds runs that left no
    folder. Raises `UserError` when `folder` is not a folder.
    """
    if not folder.is_dir():
        raise UserError(f"no folder {folder}")
    runs: list[Run] = []
    failures = [
        Failure(_place(one), textwrap.shorten(redact(one["error"]), 300))
        for one in failures_in(folder / "failures.json")
    ]
    for path in _candidates(folder):
        place = os.fsencode(path.relative_to(folder).as_posix()).decode(errors="replace")
        try:
            run, _ = read_run(path, place)
            if not np.isfinite(run.returns).all():
                raise UserError("an evaluation return is not finite")
            runs.append(run)
        except UserError as error:
            failures.append(Failure(place, textwrap.shorten(str(error).replace(str(path), place), 300)))
    return runs, failures


def _place(one: Failed) -> str:
    settings = f" {one['settings']}" if one.get("settings") else ""
    return f"{one['task']} {one['core']}{settings} seed {one['seed']}"


def _candidates(folder: Path) -> Iterable[Path]:
    for name, folders, files in os.walk(folder):
        folders.sort()
        if MARKS.intersection(files):
            folders.clear()
            yield Path(name)


def read_run(path: Path, place: str) -> tuple[Run, list[dict[str, Any]]]:
    """Return values and records of a run folder, named `place` in the report; raises `UserError` for a damaged one."""
    folder = open_run(path)
    records = read(folder.metrics)
    config = folder.config
    dynamics = config.agent.dynamics
    default = dataclasses.replace(dynamics, latent="auto").family
    steps, returns = _columns(records, "step", "eval/return_mean")
    every, elapsed = _columns(records, "step", "time/elapsed")
    run = Run(
        path=place,
        task=config.task,
        core=variant_name(
            dynamics.core if dynamics.family == default else f"{dynamics.core}:{dynamics.family}",
            config.agent.world_model.representation.objective,
        ),
        seed=config.seed,
        config=config,
        info=folder.info,
        steps=steps,
        returns=returns,
        mode_returns=_modes(records),
        step=int(max([0, *steps, *every])),
        wall_seconds=_total(elapsed) if len(elapsed) else math.nan,
        seconds_per_update=1 / _rate(*_columns(records, "loop/updates", "time/updates_per_second")),
        env_steps_per_second=_rate(*_columns(records, "step", "time/env_steps_per_second")),
    )
    return run, records


def _columns(records: list[dict[str, Any]], *names: str) -> np.ndarray:
    """Values `[name record]` of the records that have all of these names."""
    rows = [[record[name] for name in names] for record in records if all(name in record for name in names)]
    return np.array(rows, float).reshape(-1, len(names)).T


def _modes(records: list[dict[str, Any]]) -> np.ndarray:
    """Returns with the policy's mode `[evaluation]`, beside those with sampled actions."""
    name = "eval/mode_return_mean"
    found = [record.get(name) for record in records if "step" in record and "eval/return_mean" in record]
    return np.array([math.nan if value is None else value for value in found], float)


def _total(elapsed: np.ndarray) -> float:
    """Seconds counted by a clock that may have restarted at zero when the run was resumed."""
    passed = np.diff(elapsed, prepend=0.0)
    return float(np.where(passed < 0, elapsed, passed).sum())


def _rate(counts: np.ndarray, rates: np.ndarray) -> float:
    """Mean over time of the rates at which a counter grew between records; NaN for a counter that never grew."""
    grown = np.diff(counts, prepend=0.0)
    used = (grown > 0) & (rates > 0)
    return float(grown[used].sum() / (grown[used] / rates[used]).sum()) if used.any() else math.nan
