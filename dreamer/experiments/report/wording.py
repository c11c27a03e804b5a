"""Numbers in words: how a report prints estimates, durations and counts, and what it concludes from them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dreamer.experiments.report.analysis import Analysis, Core
from dreamer.experiments.report.statistics import Estimate

UNKNOWN = "n/a"
FEW_SEEDS = 5
"""Seeds from which on percentile intervals are near their nominal coverage, at a few tasks."""


def number(value: float, digits: int = 2) -> str:
    """A decimal number; unknown when it is NaN."""
    return f"{value:z,.{digits}f}" if math.isfinite(value) else UNKNOWN


def estimate(value: Estimate, digits: int = 2) -> str:
    """`0.81 [0.75, 0.86]`, with `n/a` for what is not known."""
    interval = f"{number(value.low, digits)}, {number(value.high, digits)}" if value.has_interval else UNKNOWN
    return f"{number(value.value, digits)} [{interval}]"


def duration(seconds: float) -> str:
    """Milliseconds to hours, with three digits."""
    if not math.isfinite(seconds):
        return UNKNOWN
    units = (("h", 3600.0), ("min", 60.0), ("s", 1.0), ("ms", 1e-3))
    unit, size = next((one for one in units if seconds >= one[1]), units[-1])
    return f"{seconds / size:#.3g}".rstrip(".") + f" {unit}"


def count(value: float) -> str:
    """`640,867`, or unknown."""
    return number(value, 0)


def listing(words: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def verdict(analysis: Analysis) -> list[str]:
    """Sentences that say what follows from the numbers, and what does not."""
    cores, tasks = list(analysis.cores), analysis.compared
    if not tasks:
        return ["No task has finished runs of every core, so the cores cannot be compared."]
    best = analysis.ranked()[0]
    over = f"{len(tasks)} {'task' if len(tasks) == 1 else 'tasks'}"
    score = estimate(analysis.cores[best].final)
    if len(cores) == 1:
        return [f"{best} ends at a score of {score} (IQM over {over}); there is no other core to compare it with."]
    sentences = [f"{best} ends with the highest score, {score} (IQM over {over} with 95 % interval)."]
    sentences += _against_the_best(analysis)
    sentences += _by_area(analysis)
    return sentences


def cautions(analysis: Analysis, outside: int, confounding: Sequence[str]) -> list[str]:
    """What a reader has to know before believing the verdict.

    `outside` counts what was found and left out; `confounding` names settings that differ between runs of a task.
    """
    sentences = []
    seeds = [cell.seeds for task in analysis.compared for cell in analysis.cells[task].values()]
    few = [size for size in seeds if 1 < size < FEW_SEEDS]
    if few and len(analysis.cores) > 1:
        begin = f"With no more than {min(few)} seeds of a core on a task"
        sentences.append(f"{begin}, intervals are narrower than they should be: take differences as provisional.")
    missing = [task for task in analysis.scales if task not in analysis.compared]
    if missing and analysis.compared:
        sentences.append(f"Not in the aggregates, as not every core has finished runs of it: {listing(missing)}.")
    if confounding:
        sentences.append(f"Runs of the same task also differ in {listing(confounding)}, which may explain differences.")
    if outside:
        sentences.append(f"Listed below and not counted: {outside} that failed, did not finish or were repeated.")
    return sentences


def _against_the_best(analysis: Analysis) -> list[str]:
    best, *others = analysis.ranked()
    groups: dict[str, list[str]] = {"above": [], "likely": [], "open": [], "unknown": []}
    for other in others:
        better = analysis.improvement[best][other]
        if not better.has_interval:
            groups["unknown"].append(other)
        elif _above(analysis.cores[best].final, analysis.cores[other].final):
            groups["above"].append(other)
        elif better.low > 0.5:
            groups["likely"].append(f"{other} (with probability {estimate(better)})")
        else:
            groups["open"].append(other)
    templates = {
        "above": "Its interval lies above {those}.",
        "likely": "Intervals overlap, yet on the same task a run of {best} tends to beat one of {names}.",
        "open": "Its interval overlaps {those}, and on the same task a run of either may win: "
        "nothing can be concluded about which is better.",
        "unknown": "Against {names} nothing can be concluded: with one seed on a task there is no interval.",
    }
    return [
        template.format(best=best, names=listing(groups[kind]), those=_that_of(groups[kind]))
        for kind, template in templates.items()
        if groups[kind]
    ]


def _by_area(analysis: Analysis) -> list[str]:
    def area(core: Core) -> Estimate:
        return core.auc

    best, *others = analysis.ranked(area)
    top = analysis.cores[best].auc
    if not all(core.auc.has_interval for core in analysis.cores.values()):
        return [f"{best} has the largest area under the curve, {estimate(top)}."]
    tied = [name for name in others if not _above(top, analysis.cores[name].auc)]
    begin = f"Over the whole of training {best} is ahead, with an area under the curve of {estimate(top)}"
    return [f"{begin}; its interval overlaps {_that_of(tied)}." if tied else f"{begin}, above all others."]


def _above(x: Estimate, y: Estimate) -> bool:
    return x.low > y.high


def _that_of(names: Sequence[str]) -> str:
    return f"{'that' if len(names) == 1 else 'those'} of {listing(names)}"
