"""Curves on the page of a run: returns, and a panel and a table row for every metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from dreamer.experiments.report.document import Section, Table
from dreamer.experiments.report.run_folders import Run
from dreamer.tracking import describe, is_registered
from dreamer.tracking.plotting import PALETTE, STYLE, WIDTH, learning_curve, svg

POINTS = 300
"""Largest number of points of a curve. A longer curve shows means of neighbouring records."""
COLUMNS = 4
GROUPS = {
    "World model": ("loss/", "reconstruction/", "model/", "imagination/"),
    "Actor and critic": ("loss/actor", "loss/critic", "loss/replay_critic", "behavior/"),
    "Optimizer, replay and time": ("optim/", "replay/", "time/"),
}
"""Metrics of a section, by prefixes of their names. The longest prefix that fits counts."""
OTHER = "Other metrics"
"""Section of the metrics that no prefix fits and that the registry does not know."""


def returns(run: Run) -> Section:
    """Return the section of the learning curve."""
    text = "Sum of rewards of an episode. Evaluation runs in environments whose seeds training never uses."
    return Section("Returns", text if len(run.steps) else "Nothing has been evaluated yet.", "returns")


def panels(names: Sequence[str]) -> dict[str, list[str]]:
    """Return the metrics among `names` by section, in the order of `names`, without empty sections."""
    places = [(prefix, group) for group, prefixes in GROUPS.items() for prefix in prefixes]
    found: dict[str, list[str]] = {group: [] for group in [*GROUPS, OTHER]}
    for name in names:
        fitting = [(len(prefix), group) for prefix, group in places if name.startswith(prefix)]
        if fitting:
            found[max(fitting)[1]].append(name)
        elif name not in ("step", "updates") and not is_registered(name):
            found[OTHER].append(name)
    return {group: members for group, members in found.items() if members}


def curves(records: Sequence[Mapping[str, Any]], groups: Mapping[str, Sequence[str]]) -> list[Section]:
    """Return a section for each group of metrics, with the meaning and the last value of each metric."""
    sections = []
    for group, names in groups.items():
        rows = []
        for name in names:
            metric, values = describe(name), curve(records, name)[1]
            rows.append([name, metric.description, metric.unit, metric.healthy, f"{values[-1]:.4g}"])
        table = Table(["metric", "meaning", "unit", "healthy", "last"], rows, words=4)
        sections.append(Section(group, figure=group, table=table, folded=True))
    return sections


def draw(records: Sequence[Mapping[str, Any]], panels: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return SVG by name: `returns`, and a grid of curves for each group of metrics in `panels`."""
    with matplotlib.rc_context(STYLE):
        drawn = {"returns": svg(learning_curve(records))}
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
    """Return environment steps and values of one metric."""
    rows = [(record["step"], record[name]) for record in records if name in record and "step" in record]
    steps, values = np.array(rows, float).reshape(-1, 2).T
    return steps, values


def thinned(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return at most `POINTS` points, each the mean of neighbouring records."""
    if len(steps) <= POINTS:
        return steps, values
    ends = np.linspace(0, len(steps), POINTS + 1).astype(int)
    counts = np.diff(ends)
    return np.add.reduceat(steps, ends[:-1]) / counts, np.add.reduceat(values, ends[:-1]) / counts
