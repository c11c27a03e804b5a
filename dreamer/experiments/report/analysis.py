"""Numbers of an ablation report."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from dreamer.dynamics import CoreName
from dreamer.experiments.report.run_folders import Run
from dreamer.experiments.report.statistics import (
    Estimate,
    Strata,
    iqm,
    performance_profile,
    probability_of_improvement,
    stratified_bootstrap,
)

THRESHOLDS = np.linspace(0.0, 1.0, 101)
"""Scores at which performance profiles are evaluated."""
Measure = Literal["final", "auc"]
"""Last evaluation of a run, or the mean height of its evaluation curve."""
COSTS = ("seconds_per_update", "wall_seconds", "env_steps_per_second")
UNKNOWN = Estimate(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Scale:
    """Scale of the returns of a task: score = (return - low) / (high - low)."""

    low: float
    """Return of score 0."""
    high: float
    """Return of score 1."""
    rule: str
    """Origin of the two, in words."""

    def score(self, value: float, largest: float | None = None) -> float:
        """Return the score of a return; 0 where all returns are the same.

        `largest` is the largest return that was possible, where it is known.
        """
        if largest:
            return value / largest
        return (value - self.low) / (self.high - self.low) if self.high > self.low else 0.0


@dataclass(frozen=True)
class CoreResult:
    """Results of a dynamics core over the tasks that are compared; NaN where no run recorded a cost."""

    final: Estimate
    """IQM of the scores of final evaluations."""
    auc: Estimate
    """IQM of the scores of mean heights of evaluation curves."""
    runs: int
    """Number of finished runs on these tasks."""
    # Means over all runs of the core, the time per update with acting.
    parameters: float
    dynamics_parameters: float
    seconds_per_update: float
    wall_seconds: float
    env_steps_per_second: float


@dataclass(frozen=True)
class TaskResult:
    """Results of the finished runs of a dynamics core on one task, in returns."""

    final: Estimate
    """Mean return of final evaluations."""
    auc: Estimate
    """Mean height of evaluation curves."""
    seeds: int
    steps: np.ndarray
    """Environment steps of `curve` `[point]`."""
    curve: Estimate
    """Mean return of evaluations."""


@dataclass(frozen=True)
class Analysis:
    """All numbers. Dictionaries are in the order in which a report shows them."""

    scales: dict[str, Scale]
    compared: list[str]
    """Tasks with finished runs of every core. Aggregates are over these tasks only."""
    cores: dict[str, CoreResult]
    cells: dict[str, dict[str, TaskResult]]
    """Results by task and core."""
    improvement: dict[str, dict[str, Estimate]]
    """Probability that a run of X ends higher than a run of Y, by X and Y; empty without compared tasks."""
    profiles: dict[str, Estimate]
    """Fraction of runs that score above each of `THRESHOLDS`, by core; empty without compared tasks."""

    def ranked(self, measure: Measure = "final") -> list[str]:
        """Return the cores, the one with the highest estimate first."""
        return sorted(self.cores, key=lambda name: -np.nan_to_num(getattr(self.cores[name], measure).value))


def analyse(runs: list[Run]) -> Analysis:
    """Return the comparison of the cores of finished runs. No two runs share task, core and seed."""
    names = sorted({run.core for run in runs}, key=_core_order)
    tasks = sorted({run.task for run in runs})
    groups = {task: {core: [r for r in runs if (r.task, r.core) == (task, core)] for core in names} for task in tasks}
    scales = {task: _scale([run for run in runs if run.task == task]) for task in tasks}
    compared = [task for task in tasks if all(groups[task].values())]

    def scores(core: str, measure: Measure) -> Strata:
        return [
            np.array([scales[task].score(getattr(run, measure), run.largest_return) for run in groups[task][core]])
            for task in compared
        ]

    finals = {core: scores(core, "final") for core in names}
    improvement: dict[str, dict[str, Estimate]] = {core: {} for core in names} if compared else {}
    for x, y in itertools.combinations(improvement, 2):
        better = probability_of_improvement(finals[x], finals[y])
        improvement[x][y] = better
        improvement[y][x] = Estimate(1 - better.value, 1 - better.high, 1 - better.low)
    return Analysis(
        scales=scales,
        compared=compared,
        cores={
            core: _core_result([r for r in runs if r.core == core], finals[core], scores(core, "auc")) for core in names
        },
        cells={task: {core: _task_result(group) for core, group in groups[task].items() if group} for task in tasks},
        improvement=improvement,
        profiles={core: performance_profile(finals[core], THRESHOLDS) for core in names} if compared else {},
    )


def _core_order(name: str) -> tuple[int, str]:
    """Sort key: cores in the order of the configuration, each followed by its variants."""
    known = [core for core in get_args(CoreName) if name.startswith(core)]
    return get_args(CoreName).index(max(known, key=len)), name


def _scale(runs: list[Run]) -> Scale:
    largest = [run.largest_return for run in runs if run.largest_return]
    if largest:
        return Scale(0.0, max(largest), "0 to the largest return of an episode of its length")
    returns = np.concatenate([run.returns for run in runs])
    return Scale(float(returns.min()), float(returns.max()), "lowest to highest evaluation of all runs of the task")


def _core_result(runs: list[Run], finals: Strata, aucs: Strata) -> CoreResult:
    def mean(values: Iterable[float]) -> float:
        known = [value for value in values if math.isfinite(value)]
        return float(np.mean(known)) if known else math.nan

    return CoreResult(
        final=stratified_bootstrap(finals, iqm) if finals else UNKNOWN,
        auc=stratified_bootstrap(aucs, iqm) if aucs else UNKNOWN,
        runs=sum(map(len, finals)),
        parameters=mean(float(sum(run.parameters.values()) or math.nan) for run in runs),
        dynamics_parameters=mean(float(run.parameters.get("dynamics", math.nan)) for run in runs),
        **{name: mean(getattr(run, name) for run in runs) for name in COSTS},
    )


def _task_result(runs: list[Run]) -> TaskResult:
    begin, end = max(run.steps[0] for run in runs), min(run.steps[-1] for run in runs)
    every = np.unique(np.concatenate([run.steps for run in runs]))
    steps = every[(every >= begin) & (every <= end)]
    curves = np.stack([np.interp(steps, run.steps, run.returns) for run in runs])
    return TaskResult(
        final=stratified_bootstrap([np.array([run.final for run in runs])], np.mean),
        auc=stratified_bootstrap([np.array([run.auc for run in runs])], np.mean),
        seeds=len(runs),
        steps=steps,
        curve=stratified_bootstrap([curves], np.mean),
    )
