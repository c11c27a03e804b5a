"""Statistics against numbers worked out by hand and against every resample there is."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats

from dreamer.experiments.report.statistics import (
    Estimate,
    area_under_curve,
    iqm,
    performance_profile,
    probability_of_improvement,
    stratified_bootstrap,
)

MANY = 200_000


def strata(*tasks):
    return [np.array(task, float) for task in tasks]


def every_resample(task):
    """All n^n equally likely resamples of n seeds."""
    return [np.array(drawn) for drawn in itertools.product(task, repeat=len(task))]


def exact_interval(values, confidence=0.95):
    """Smallest values below or at which 2.5 % and 97.5 % of the equally likely ones lie."""
    tail = (1 - confidence) / 2
    return np.quantile(np.array(values), [tail, 1 - tail], method="inverted_cdf")


def test_iqm_by_hand():
    """Of eight numbers the two lowest and the two highest go: (3 + 4 + 6 + 7) / 4."""
    scores = np.array([[100.0, 3.0], [-50.0, 4.0], [1.0, 7.0], [6.0, 8.0]])
    assert iqm(scores) == 5.0
    assert iqm(scores, axis=0) == pytest.approx([3.5, 5.5])  # (1 + 6) / 2 and (4 + 7) / 2


def test_iqm_removes_whole_runs_only():
    """A quarter of three runs is none, of five or seven one at either end."""
    assert iqm(np.array([0.0, 1.0, 8.0])) == 3.0
    assert iqm(np.array([0.0, 1.0, 2.0, 6.0, 100.0])) == 3.0
    assert iqm(np.array([0.0, 1.0, 2.0, 3.0, 4.0, 10.0, 100.0])) == 4.0


@pytest.mark.parametrize("statistic", [np.mean, np.median, iqm])
@pytest.mark.parametrize(
    "tasks",
    [([0.0, 1.0, 5.0],), ([0.0, 1.0], [10.0, 14.0]), ([0.1, 0.9, 0.4], [0.3, 0.8, 0.2]), ([1.0, 2.0], [4.0] * 3)],
)
def test_intervals_are_the_percentiles_of_all_resamples(statistic, tasks):
    pairs = itertools.product(*map(every_resample, tasks))
    low, high = exact_interval([statistic(np.concatenate(drawn)) for drawn in pairs])
    estimate = stratified_bootstrap(strata(*tasks), statistic, resamples=MANY)
    assert estimate.value == pytest.approx(statistic(np.concatenate(tasks)))
    assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=1e-9)


def test_confidence_is_the_share_between_the_bounds():
    """Nine resamples of two seeds' mean over two tasks, 0 to 1 in quarters: a 50 % interval is narrower."""
    tasks = strata([0.0, 1.0], [0.0, 1.0])
    narrow = stratified_bootstrap(tasks, np.mean, resamples=MANY, confidence=0.5)
    wide = stratified_bootstrap(tasks, np.mean, resamples=MANY)
    assert (narrow.low, narrow.high) == (0.25, 0.75) and (wide.low, wide.high) == (0.0, 1.0)


def test_seeds_are_redrawn_within_their_task_only():
    """Tasks without spread have no spread together, however far apart they are."""
    assert stratified_bootstrap(strata([0, 0, 0], [1, 1, 1]), np.mean) == Estimate(0.5, 0.5, 0.5)
    profile = performance_profile(strata([0, 0, 0], [1, 1, 1]), np.array([0.5]))
    assert (profile.value, profile.low, profile.high) == (0.5, 0.5, 0.5)
    assert probability_of_improvement(strata([1, 1], [5, 5]), strata([0, 0], [7, 7])) == Estimate(0.5, 0.5, 0.5)


def test_tasks_are_redrawn_independently_of_each_other():
    """Were both tasks redrawn alike, their opposite spreads would cancel."""
    estimate = stratified_bootstrap(strata([0, 1], [1, 0]), np.mean)
    assert (estimate.low, estimate.high) == (0.0, 1.0)


def test_the_same_seed_gives_the_same_interval():
    tasks = strata(np.arange(10.0), np.arange(7.0) ** 2)
    first, again, other = (stratified_bootstrap(tasks, iqm, seed=seed) for seed in (1, 1, 2))
    assert first == again and first != other


def test_one_seed_has_no_interval():
    """Nor has a mean over tasks of which one has a single seed: its spread is unknown, not zero."""
    two, one = strata([1, 2], [3, 4]), strata([1, 2], [3])
    for estimate in (
        stratified_bootstrap(one, iqm),
        probability_of_improvement(one, two),
        probability_of_improvement(two, one),
    ):
        assert math.isfinite(estimate.value) and math.isnan(estimate.low) and math.isnan(estimate.high)
        assert not estimate.has_interval
    for band in (
        performance_profile(one, np.array([0.0, 2.0])),
        stratified_bootstrap([np.array([[1.0, 2.0]])], np.mean),
    ):
        assert np.isfinite(band.value).all() and np.isnan(band.low).all() and np.isnan(band.high).all()
    assert stratified_bootstrap(two, iqm).has_interval


def test_probability_of_improvement_by_counting():
    """Task 1: of (3, 1), (3, 3), (5, 1), (5, 3) three are larger and one ties: 3.5 / 4. Task 2: 0 of 2."""
    x, y = strata([3, 5], [0]), strata([1, 3], [2, 9])
    assert probability_of_improvement(x[:1], y[:1]).value == 3.5 / 4
    assert probability_of_improvement(x, y).value == (3.5 / 4 + 0) / 2


def test_probability_of_improvement_is_mann_whitney():
    random = np.random.default_rng(0)
    x, y = random.integers(0, 6, 9).astype(float), random.integers(0, 6, 7).astype(float)
    expected = scipy.stats.mannwhitneyu(x, y).statistic / (9 * 7)
    forward, backward = probability_of_improvement([x], [y]), probability_of_improvement([y], [x])
    assert forward.value == pytest.approx(expected)
    assert forward.value + backward.value == pytest.approx(1.0)


def test_both_sides_of_a_comparison_are_redrawn():
    x, y = [1.0, 4.0], [2.0, 3.0, 9.0]

    def larger(a, b):
        return np.mean([(i > j) + 0.5 * (i == j) for i in a for j in b])

    low, high = exact_interval([larger(a, b) for a in every_resample(x) for b in every_resample(y)])
    estimate = probability_of_improvement(strata(x), strata(y), resamples=MANY)
    assert estimate.value == pytest.approx(2 / 6)
    assert (estimate.low, estimate.high) == pytest.approx((low, high))


def test_tasks_of_a_comparison_must_match():
    with pytest.raises(ValueError, match="shorter"):
        probability_of_improvement(strata([1, 2], [3, 4]), strata([1, 2]))


def test_profiles_count_the_runs_above_each_threshold():
    tasks = strata([0.2, 0.4], [0.6, 0.8, 0.4])
    thresholds = np.array([0.0, 0.4, 0.6, 0.9])
    profile = performance_profile(tasks, thresholds, resamples=MANY)
    assert profile.value == pytest.approx([1.0, 2 / 5, 1 / 5, 0.0])
    pairs = list(itertools.product(*map(every_resample, tasks)))
    for i, threshold in enumerate(thresholds):
        low, high = exact_interval([(np.concatenate(drawn) > threshold).mean() for drawn in pairs])
        assert (profile.low[i], profile.high[i]) == pytest.approx((low, high))


def test_mean_curves_redraw_whole_curves():
    curves = np.array([[0.0, 3.0], [1.0, 1.0], [5.0, 2.0]])
    band = stratified_bootstrap([curves], np.mean, resamples=MANY)
    assert band.value == pytest.approx([2.0, 2.0])
    means = [np.mean(drawn, axis=0) for drawn in itertools.product(curves, repeat=3)]
    for i in range(2):
        assert (band.low[i], band.high[i]) == pytest.approx(exact_interval([mean[i] for mean in means]))


def test_area_under_curve_by_hand():
    """Trapezoids (0 + 4) / 2 * 10 and (4 + 10) / 2 * 30 over 40 steps."""
    assert area_under_curve(np.array([10, 20, 50]), np.array([0.0, 4.0, 10.0])) == (20 + 210) / 40
    assert area_under_curve(np.array([10, 30]), np.array([7.0, 7.0])) == 7.0
    assert area_under_curve(np.array([10]), np.array([3.0])) == 3.0
