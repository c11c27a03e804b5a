"""The figures of a run's page: returns, and a small panel for every metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from dreamer.tracking.curve import returns
from dreamer.tracking.plotting import PALETTE, STYLE, WIDTH, svg

POINTS = 300
"""Points of a curve, at most; beyond, neighbouring records are averaged."""
COLUMNS = 4


def draw(records: Sequence[Mapping[str, Any]], panels: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """SVG by name: `returns`, and a grid of curves for each group of metrics in `panels`."""
    with matplotlib.rc_context(STYLE):
        drawn = {"returns": svg(returns(records))}
        with matplotlib.rc_context({"font.size": 7.5, "axes.titlesize": 7.5}):
            return drawn | {group: svg(_grid(records, names)) for group, names in panels.items()}


def _grid(records: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Figure:
    rows = -(-len(names) // COLUMNS)
    figure = Figure(figsize=(WIDTH, 0.3 + 1.3 * rows), layout="constrained")
    grid = figure.subplots(rows, COLUMNS, squeeze=False)
    for axes, name in zip(grid.flat, names, strict=False):
        steps, values = thinned(*curve(records, name))
        axes.plot(steps, values, color=PALETTE[0], linewidth=1.1, marker="." if len(steps) < 3 else None)
        axes.set_title(name)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.grid()
    for axes in list(grid.flat)[len(names) :]:
        axes.remove()
    return figure


def curve(records: Sequence[Mapping[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Environment steps and values of one metric."""
    rows = [(record["step"], record[name]) for record in records if name in record and "step" in record]
    steps, values = np.array(rows, float).reshape(-1, 2).T
    return steps, values


def thinned(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most `POINTS` points: means of neighbouring records."""
    if len(steps) <= POINTS:
        return steps, values
    ends = np.linspace(0, len(steps), POINTS + 1).astype(int)
    counts = np.diff(ends)
    return np.add.reduceat(steps, ends[:-1]) / counts, np.add.reduceat(values, ends[:-1]) / counts
