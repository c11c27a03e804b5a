"""Statistics of few runs: interquartile means, stratified bootstrap intervals, probability of improvement, profiles.

After Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice" (arXiv 2108.13264).
The runs of one task are a stratum: one 1-D array of scores. Tasks may differ in their number of seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.integrate
import scipy.stats

Strata = Sequence[np.ndarray]
"""Scores `[seed]` of every task."""
Statistic = Callable[..., Any]
"""Function that reduces an array over `axis`, such as `numpy.mean` and `iqm`."""

RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """Value and its interval."""

    value: float
    """Point estimate."""
    low: float
    """Lower bound; NaN with too few seeds for an interval."""
    high: float
    """Upper bound; NaN with too few seeds for an interval."""

    @property
    def has_interval(self) -> bool:
        """True when both bounds are known."""
        return math.isfinite(self.low) and math.isfinite(self.high)


@dataclass(frozen=True)
class Band:
    """Curve and its pointwise interval, each `[point]`. The bounds are NaN with too few seeds."""

    value: np.ndarray
    """Point estimates."""
    low: np.ndarray
    """Lower bounds."""
    high: np.ndarray
    """Upper bounds."""


def iqm(scores: np.ndarray, axis: int | None = None) -> Any:
    """Return the interquartile mean: without the lowest and the highest quarter, each rounded down to whole runs.

    `scores` are `[seed task]`, pooled over both axes unless `axis` names the one to reduce (section 4.2).
    """
    return scipy.stats.trim_mean(scores, 0.25, axis=axis)


def stratified_bootstrap(
    scores: Strata, statistic: Statistic, resamples: int = RESAMPLES, confidence: float = CONFIDENCE, seed: int = 0
) -> Estimate:
    """Return a statistic of the pooled runs with its percentile interval; each task redraws its seeds (section 4.1)."""
    pooled = np.concatenate([*scores])
    drawn = _redrawn_runs(scores, resamples, seed)
    low, high = _interval(statistic(drawn, axis=-1), confidence, scores)
    return Estimate(float(statistic(pooled, axis=-1)), float(low), float(high))


def probability_of_improvement(
    x: Strata, y: Strata, resamples: int = RESAMPLES, confidence: float = CONFIDENCE, seed: int = 0
) -> Estimate:
    """Return P(X > Y) + P(X = Y) / 2 for runs of X and Y on the same task, averaged over tasks (section 4.3).

    On each task it is the Mann-Whitney U of X divided by the number of pairs. Task i of `x` is task i of `y`.
    """
    random = np.random.default_rng(seed)
    value = np.mean([_superiority(a, b) for a, b in zip(x, y, strict=True)])
    drawn = [
        _superiority(_redrawn(a, resamples, random), _redrawn(b, resamples, random)) for a, b in zip(x, y, strict=True)
    ]
    low, high = _interval(np.mean(drawn, axis=0), confidence, [*x, *y])
    return Estimate(float(value), float(low), float(high))


def performance_profile(
    scores: Strata,
    thresholds: np.ndarray,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Band:
    """Return the fraction of runs that score above each of the thresholds `[point]` (section 4.3)."""
    pooled = np.concatenate([*scores])
    drawn = _redrawn_runs(scores, resamples, seed)
    fractions = np.stack([(drawn > threshold).mean(-1) for threshold in thresholds], -1)
    return Band((pooled[:, None] > thresholds).mean(0), *_interval(fractions, confidence, scores))


def mean_curve(curves: np.ndarray, resamples: int = RESAMPLES, confidence: float = CONFIDENCE, seed: int = 0) -> Band:
    """Return the mean of the curves `[seed point]` of one task; the bootstrap redraws whole curves."""
    rows = np.random.default_rng(seed).integers(len(curves), size=(resamples, len(curves)))
    return Band(curves.mean(0), *_interval(curves[rows].mean(1), confidence, [curves]))


def area_under_curve(steps: np.ndarray, returns: np.ndarray) -> float:
    """Return the mean height of a learning curve: its area by the trapezoid rule over the range of `steps` `[point]`.

    A curve of one point has the height of that point.
    """
    if len(steps) == 1:
        return float(returns[0])
    return float(scipy.integrate.trapezoid(returns, steps) / (steps[-1] - steps[0]))


def _superiority(x: np.ndarray, y: np.ndarray) -> Any:
    """Fraction of the pairs of `x` `[... seed]` and `y` `[... seed]` in which x is larger; a tie counts half."""
    first, second = x[..., :, None], y[..., None, :]
    return ((first > second) + 0.5 * (first == second)).mean((-2, -1))


def _redrawn_runs(scores: Strata, resamples: int, seed: int) -> np.ndarray:
    """Pooled runs `[resample run]`; each task is redrawn separately."""
    random = np.random.default_rng(seed)
    return np.concatenate([_redrawn(task, resamples, random) for task in scores], axis=1)


def _redrawn(task: np.ndarray, resamples: int, random: np.random.Generator) -> np.ndarray:
    return task[random.integers(len(task), size=(resamples, len(task)))]


def _interval(drawn: np.ndarray, confidence: float, scores: Strata) -> np.ndarray:
    """Percentile bounds `[2 ...]` over the first axis; NaN when some task has only one seed."""
    tail = (1 - confidence) / 2
    bounds = np.quantile(drawn, [tail, 1 - tail], axis=0)
    return bounds if min(map(len, scores)) > 1 else np.full_like(bounds, np.nan)
