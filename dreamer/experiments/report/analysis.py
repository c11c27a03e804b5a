"""Numbers of an ablation report."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

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
MOST_PAIRED = 12
"""Number of arms up to which every arm is compared with every other, and not only with the best."""


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
class ArmResult:
    """Results of an arm over the tasks that are compared; NaN where no run recorded a cost."""

    final: Estimate
    """IQM of the scores of final evaluations."""
    auc: Estimate
    """IQM of the scores of mean heights of evaluation curves."""
    runs: int
    """Number of finished runs on these tasks."""
    # Means over all runs of the arm, the time per update with acting.
    parameters: float
    dynamics_parameters: float
    seconds_per_update: float
    wall_seconds: float
    env_steps_per_second: float


@dataclass(frozen=True)
class TaskResult:
    """Results of the finished runs of an arm on one task, in returns."""

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
    """Tasks with finished runs of every arm. Aggregates are over these tasks only."""
    arms: dict[str, ArmResult]
    cells: dict[str, dict[str, TaskResult]]
    """Results by task and arm."""
    improvement: dict[str, dict[str, Estimate]]
    """Probability that a run of X ends higher than a run of Y, by X and Y; empty without compared tasks.
    Beyond `MOST_PAIRED` arms only the pairs with the highest estimate are there."""
    profiles: dict[str, Estimate]
    """Fraction of runs that score above each of `THRESHOLDS`, by arm; empty without compared tasks."""

    def ranked(self, measure: Measure = "final") -> list[str]:
        """Return the arms, the one with the highest estimate first."""
        return sorted(self.arms, key=lambda name: -np.nan_to_num(getattr(self.arms[name], measure).value))


def analyse(runs: list[Run], arms: Iterable[str]) -> Analysis:
    """Return the comparison of the arms of finished runs, in this order. No two runs share task, arm and seed."""
    present = {run.arm for run in runs}
    names = [arm for arm in arms if arm in present]
    tasks = sorted({run.task for run in runs})
    groups = {task: {arm: [r for r in runs if (r.task, r.arm) == (task, arm)] for arm in names} for task in tasks}
    scales = {task: _scale([run for run in runs if run.task == task]) for task in tasks}
    compared = [task for task in tasks if all(groups[task].values())]

    def scores(arm: str, measure: Measure) -> Strata:
        return [
            np.array([scales[task].score(getattr(run, measure), run.largest_return) for run in groups[task][arm]])
            for task in compared
        ]

    finals = {arm: scores(arm, "final") for arm in names}
    results = {arm: _arm_result([r for r in runs if r.arm == arm], finals[arm], scores(arm, "auc")) for arm in names}
    improvement: dict[str, dict[str, Estimate]] = {arm: {} for arm in names} if compared else {}
    for x, y in _pairs(results) if compared else ():
        better = probability_of_improvement(finals[x], finals[y])
        improvement[x][y] = better
        improvement[y][x] = Estimate(1 - better.value, 1 - better.high, 1 - better.low)
    return Analysis(
        scales=scales,
        compared=compared,
        arms=results,
        cells={task: {arm: _task_result(group) for arm, group in groups[task].items() if group} for task in tasks},
        improvement=improvement,
        profiles={arm: performance_profile(finals[arm], THRESHOLDS) for arm in names} if compared else {},
    )


def _pairs(results: dict[str, ArmResult]) -> Sequence[tuple[str, str]]:
    if len(results) <= MOST_PAIRED:
        return list(itertools.combinations(results, 2))
    best = max(results, key=lambda arm: np.nan_to_num(results[arm].final.value))
    return [(best, other) for other in results if other != best]


def _scale(runs: list[Run]) -> Scale:
    largest = [run.largest_return for run in runs if run.largest_return]
    if largest:
        return Scale(0.0, max(largest), "0 to the largest return of an episode of its length")
    returns = np.concatenate([run.returns for run in runs])
    return Scale(float(returns.min()), float(returns.max()), "lowest to highest evaluation of all runs of the task")


def _arm_result(runs: list[Run], finals: Strata, aucs: Strata) -> ArmResult:
    def mean(values: Iterable[float]) -> float:
        known = [value for value in values if math.isfinite(value)]
        return float(np.mean(known)) if known else math.nan

    return ArmResult(
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
