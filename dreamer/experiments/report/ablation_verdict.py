"""Conclusions of a comparison, as sentences."""

from __future__ import annotations

from collections.abc import Sequence

from dreamer.experiments.report.analysis import Analysis
from dreamer.experiments.report.arms import Arms
from dreamer.experiments.report.statistics import Estimate
from dreamer.experiments.report.wording import estimate, listing, number

FEW_SEEDS = 5
"""Number of seeds from which percentile intervals are near their nominal coverage, on a few tasks."""
NOTHING = 0.005
"""Score below which an IQM reads 0.00."""
NAMED = 8
"""Number of arms beyond which a sentence counts the others."""


def verdict(analysis: Analysis, arms: Arms) -> list[str]:
    """Return the conclusions that the numbers allow."""
    tasks = analysis.compared
    if not tasks:
        return [f"No task has finished runs of every {arms.noun}, so the {arms.noun}s cannot be compared."]
    best = analysis.ranked()[0]
    top = analysis.arms[best].final.value
    over = f"{len(tasks)} {'task' if len(tasks) == 1 else 'tasks'}"
    score = estimate(analysis.arms[best].final)
    if top < NOTHING:
        which = f"{arms.said(best)} ends at" if len(analysis.arms) == 1 else f"Every {arms.noun} ends at"
        at_most = "" if len(analysis.arms) == 1 else "at most "
        return [f"{which} a score of {at_most}{number(top)} (IQM over {over}): nothing was learned on these tasks."]
    if len(analysis.arms) == 1:
        alone = f"There is no other {arms.noun} to compare it with."
        return [f"{arms.said(best)} ends at a score of {score} (IQM over {over}). {alone}"]
    equal = [arms.said(name) for name in analysis.ranked() if analysis.arms[name].final.value == top]
    verb = "ends" if len(equal) == 1 else "end"
    first = f"{listing(equal, NAMED)} {verb} with the highest score, {score} (IQM over {over}, 95 % interval)."
    return [first, *_against_the_best(analysis, arms), *_by_area(analysis, arms)]


def cautions(analysis: Analysis, arms: Arms, excluded: int, confounding: Sequence[str]) -> list[str]:
    """Return the limits of the conclusions.

    `excluded` is the number of runs that do not count. `confounding` names settings that differ together with the arms.
    """
    sentences = []
    seeds = [result.seeds for task in analysis.compared for result in analysis.cells[task].values()]
    few = [size for size in seeds if 1 < size < FEW_SEEDS]
    if few and len(analysis.arms) > 1:
        sentences.append(
            f"Some {arms.noun} has only {min(few)} seeds on a task, so intervals are too narrow. "
            "Take differences as provisional."
        )
    missing = [task for task in analysis.scales if task not in analysis.compared]
    if missing and analysis.compared:
        sentences.append(
            f"Not in the aggregates, since not every {arms.noun} has finished runs of it: {listing(missing)}."
        )
    if confounding:
        verb = "differs" if len(confounding) == 1 else "differ"
        also = f"{listing(confounding)} {verb} between runs of the same task, too"
        sentences.append(f"{also}, which may explain differences.")
    if excluded:
        sentences.append(f"Runs not counted, listed below: {excluded} that failed, are unfinished or were repeated.")
    return sentences


def _against_the_best(analysis: Analysis, arms: Arms) -> list[str]:
    best, *others = analysis.ranked()
    groups: dict[str, list[str]] = {"above": [], "likely": [], "open": [], "unknown": []}
    for other in others:
        better = analysis.improvement[best][other]
        if not better.has_interval:
            groups["unknown"].append(arms.said(other))
        elif _above(analysis.arms[best].final, analysis.arms[other].final):
            groups["above"].append(arms.said(other))
        elif better.low > 0.5:
            groups["likely"].append(f"{arms.said(other)} (with probability {estimate(better)})")
        else:
            groups["open"].append(arms.said(other))
    templates = {
        "above": "Its interval lies above {those}.",
        "likely": "Intervals overlap, but on the same task a run of {best} tends to beat a run of {names}.",
        "open": "Its interval overlaps {those}, and on the same task a run of either may win: "
        "nothing can be concluded about which is better.",
        "unknown": "Against {names} nothing can be concluded: one seed on a task gives no interval.",
    }
    return [
        template.format(best=arms.said(best), names=listing(groups[kind], NAMED), those=_that_of(groups[kind]))
        for kind, template in templates.items()
        if groups[kind]
    ]


def _by_area(analysis: Analysis, arms: Arms) -> list[str]:
    best, *others = analysis.ranked("auc")
    top = analysis.arms[best].auc
    if not all(arm.auc.has_interval for arm in analysis.arms.values()):
        return [f"{arms.said(best)} has the largest area under the curve, {estimate(top)}."]
    tied = [arms.said(name) for name in others if not _above(top, analysis.arms[name].auc)]
    begin = f"Over the whole of training {arms.said(best)} leads, with an area under the curve of {estimate(top)}"
    return [f"{begin}. Its interval overlaps {_that_of(tied)}." if tied else f"{begin}, above all others."]


def _above(x: Estimate, y: Estimate) -> bool:
    return bool(x.low > y.high)


def _that_of(names: Sequence[str]) -> str:
    return f"{'that' if len(names) == 1 else 'those'} of {listing(names, NAMED)}"
