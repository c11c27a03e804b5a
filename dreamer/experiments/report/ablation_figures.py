"""Figures of a comparison."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import get_args

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from dreamer.dynamics import CoreName
from dreamer.experiments.published import curves as published
from dreamer.experiments.report.analysis import MOST_PAIRED, THRESHOLDS, Analysis
from dreamer.experiments.report.statistics import Estimate
from dreamer.tracking.plotting import INK, PALETTE, STYLE, WIDTH, svg

MARKERS = "osD^vPX*"
LEGEND = 110
"""Characters that a row of a legend holds."""
LONGEST = 44
"""Characters in a line of the name of a row."""


def core_order(names: Iterable[str]) -> list[str]:
    """Return all dynamics cores and then the other names, such as variants; the names alone where none is a core."""
    names, known = list(names), get_args(CoreName)
    if not set(known).intersection(names):
        return names
    return [*known, *(name for name in names if name not in known)]


def core_colors(names: Iterable[str]) -> dict[str, str]:
    """Return the colour of every name; a core without variants has the same colour in all reports."""
    names = list(names)
    order = core_order(names)
    return {name: PALETTE[order.index(name) % len(PALETTE)] for name in names}


Behind = Mapping[str, Sequence[published.Curve]]
"""Published curves by task."""


def draw(analysis: Analysis, folder: Path, behind: Behind) -> dict[str, str]:
    """Write `<name>.png` of every figure that the numbers allow into `folder` and return their SVG by name."""
    folder.mkdir(exist_ok=True)
    drawings: dict[str, Callable[[Analysis], Figure]] = {"learning_curves": partial(_learning_curves, behind=behind)}
    if analysis.compared:
        drawings |= {"intervals": _intervals, "profiles": _profiles}
    if analysis.compared and 1 < len(analysis.arms) <= MOST_PAIRED:
        drawings |= {"improvement": _improvement}
    drawn: dict[str, str] = {}
    with matplotlib.rc_context(STYLE):
        for name, function in drawings.items():
            figure = function(analysis)
            figure.savefig(folder / f"{name}.png", dpi=200, facecolor="white")
            drawn[name] = svg(figure)
    return drawn


def _learning_curves(analysis: Analysis, behind: Behind) -> Figure:
    columns = 2 if len(analysis.cells) in (2, 4) else min(3, len(analysis.cells))
    rows = -(-len(analysis.cells) // columns)
    figure = Figure(figsize=(WIDTH, 0.4 + (2.4 if columns > 1 else 3.4) * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, (task, results) in zip(grid.flat, analysis.cells.items(), strict=False):
        for arm, result in results.items():
            _line(axes, analysis, arm, result.steps, result.curve)
        published.draw(axes, behind.get(task, ()), int(max(result.steps[-1] for result in results.values())))
        axes.set(title=textwrap.fill(task, 44))
        axes.set_ylim(bottom=min(axes.get_ylim()[0], analysis.scales[task].low))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.grid()
    for axes in list(grid.flat)[len(analysis.cells) :]:
        axes.remove()
    figure.supxlabel("environment steps", fontsize=9)
    figure.supylabel("return of evaluation", fontsize=9)
    _legend(figure, analysis)
    return figure


def _intervals(analysis: Analysis) -> Figure:
    figure = Figure(figsize=(WIDTH, 0.75 + 0.32 * len(analysis.arms)), layout="constrained")
    names, labels = analysis.ranked()[::-1], {"final": "final evaluation", "auc": "area under the evaluation curve"}
    for axes, (measure, label) in zip(figure.subplots(1, 2, sharey=True), labels.items(), strict=True):
        for row, name in enumerate(names):
            _interval(axes, row, getattr(analysis.arms[name], measure), core_colors(analysis.arms)[name])
        axes.set(xlabel=f"score, IQM: {label}")
        _name_rows(axes, [_fitting(name, name.replace(" ", "\n", 1)) for name in names])
    return figure


def _improvement(analysis: Analysis) -> Figure:
    pairs = list(itertools.combinations(analysis.ranked(), 2))[::-1]
    labels = [_fitting(f"{x}  over  {y}", f"{x}\nover  {y}") for x, y in pairs]
    lines = max(label.count("\n") + 1 for label in labels)
    figure = Figure(figsize=(0.75 * WIDTH, 0.8 + 0.28 * lines * len(pairs)), layout="constrained")
    axes = figure.add_subplot()
    for row, (x, y) in enumerate(pairs):
        _interval(axes, row, analysis.improvement[x][y], core_colors(analysis.arms)[x])
    axes.axvline(0.5, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    label = "probability that a run of the first beats a run of the second on the same task"
    axes.set(xlim=(-0.02, 1.02), xlabel=label)
    _name_rows(axes, labels)
    return figure


def _profiles(analysis: Analysis) -> Figure:
    figure = Figure(figsize=(0.75 * WIDTH, 3.2), layout="constrained")
    axes = figure.add_subplot()
    for arm, band in analysis.profiles.items():
        _line(axes, analysis, arm, THRESHOLDS, band)
    axes.set(xlim=(0, 1), ylim=(-0.02, 1.02), xlabel="score τ", ylabel="fraction of runs with score > τ")
    axes.grid()
    _legend(figure, analysis)
    return figure


def _line(axes: Axes, analysis: Analysis, arm: str, x: np.ndarray, band: Estimate) -> None:
    color = core_colors(analysis.arms)[arm]
    marker = MARKERS[core_order(analysis.arms).index(arm) % len(MARKERS)]
    axes.plot(x, band.value, color=color, label=arm, marker=marker, markersize=3.5, markevery=max(1, len(x) // 10))
    axes.fill_between(x, band.low, band.high, color=color, alpha=0.16, linewidth=0)


def _fitting(name: str, broken: str) -> str:
    """The name of a row, in two lines where one is too long; the middle of a longer line is left out."""
    lines = [name] if len(name) <= LONGEST else broken.split("\n")
    half = LONGEST // 2
    return "\n".join(line if len(line) <= LONGEST else f"{line[:half]}...{line[-half:]}" for line in lines)


def _name_rows(axes: Axes, names: list[str]) -> None:
    axes.set(ylim=(-0.6, len(names) - 0.4), yticks=range(len(names)), yticklabels=names)
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)


def _interval(axes: Axes, row: int, estimate: Estimate, color: str) -> None:
    if estimate.has_interval:
        axes.plot([estimate.low, estimate.high], [row, row], color=color, linewidth=7, alpha=0.4, solid_capstyle="butt")
    filled = color if estimate.has_interval else "none"
    axes.plot([estimate.value], [row], "o", color=color, markerfacecolor=filled, markersize=5)


def _legend(figure: Figure, analysis: Analysis) -> None:
    handles = {
        label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    shown = [name for name in analysis.arms if name in handles]
    shown += [label for label in handles if label not in shown]
    columns = max(1, min(6, len(shown), LEGEND // (max(map(len, shown), default=0) + 5)))
    figure.legend([handles[name] for name in shown], shown, loc="outside upper center", ncols=columns)
