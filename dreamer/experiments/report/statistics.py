"""Statistics of few runs: interquartile means, stratified bootstrap intervals, probability of improvement, profiles.

After Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice" (arXiv 2108.13264).
The runs of one task are a stratum: one 1-D array of scores. Tasks may differ in their number of seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.integrate
import scipy.stats

Strata = Sequence[np.ndarray]
"""Scores `[seed]` of every task, or curves `[seed point]`."""
Statistic = Callable[..., Any]
"""Function that reduces an array over `axis`, such as `numpy.mean` and `iqm`."""

RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """Value and its interval; for a curve all three are arrays `[point]`, and the interval is pointwise."""

    value: Any
    """Point estimate."""
    low: Any
    """Lower bound; NaN with too few seeds for an interval."""
    high: Any
    """Upper bound; NaN with too few seeds for an interval."""

    @property
    def has_interval(self) -> bool:
        """True when both bounds are known."""
        return bool(np.isfinite([self.low, self.high]).all())


def iqm(scores: np.ndarray, axis: int | None = None) -> Any:
    """Return the interquartile mean: without the lowest and the highest quarter, each rounded down to whole runs.

    `scores` are `[seed task]`, pooled over both axes unless `axis` names the one to reduce (section 4.2).
    """
    return scipy.stats.trim_mean(scores, 0.25, axis=axis)


def stratified_bootstrap(
    scores: Strata, statistic: Statistic, resamples: int = RESAMPLES, confidence: float = CONFIDENCE, seed: int = 0
) -> Estimate:
    """Return a statistic of the pooled runs with its percentile interval; each task redraws its seeds (section 4.1)."""
    random = np.random.default_rng(seed)
    drawn = np.concatenate([_redrawn(task, resamples, random) for task in scores], axis=1)
    bounds = _interval(statistic(drawn, axis=1), confidence, scores)
    return Estimate(statistic(np.concatenate([*scores]), axis=0), *bounds)


def probability_of_improvement(x: Strata, y: Strata, resamples: int = RESAMPLES) -> Estimate:
    """Return P(X > Y) + P(X = Y) / 2 for runs of X and Y on the same task, averaged over tasks (section 4.3).

    On each task it is the Mann-Whitney U of X divided by the number of pairs. Task i of `x` is task i of `y`.
    """
    random = np.random.default_rng(0)
    pairs = list(zip(x, y, strict=True))
    drawn = [_superiority(_redrawn(a, resamples, random), _redrawn(b, resamples, random)) for a, b in pairs]
    bounds = _interval(np.mean(drawn, axis=0), CONFIDENCE, [*x, *y])
    return Estimate(np.mean([_superiority(a, b) for a, b in pairs]), *bounds)


def performance_profile(scores: Strata, thresholds: np.ndarray, resamples: int = RESAMPLES) -> Estimate:
    """Return the fraction of runs that score above each of the thresholds `[point]` (section 4.3)."""

    def fractions(runs: np.ndarray, axis: int) -> np.ndarray:
        return np.stack([(runs > threshold).mean(axis) for threshold in thresholds], -1)

    return stratified_bootstrap(scores, fractions, resamples)


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


def _redrawn(task: np.ndarray, resamples: int, random: np.random.Generator) -> np.ndarray:
    return task[random.integers(len(task), size=(resamples, len(task)))]


def _interval(drawn: np.ndarray, confidence: float, scores: Strata) -> np.ndarray:
    """Percentile bounds `[2 ...]` over the first axis; NaN when some task has only one seed."""
    tail = (1 - confidence) / 2
    bounds = np.quantile(drawn, [tail, 1 - tail], axis=0)
    return bounds if min(map(len, scores)) > 1 else np.full_like(bounds, np.nan)
