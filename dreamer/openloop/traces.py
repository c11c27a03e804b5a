"""Figures of a study: predictions of vectors with their bands, free dreams, and errors by the number of steps ahead."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dreamer.openloop.record import PERCENTILES
from dreamer.tracking.plotting import INK, PALETTE, STYLE, WIDTH

PANELS = 9
"""Numbers that a figure of traces draws; the file holds all."""
MODEL, BASELINE = PALETTE[0], PALETTE[3]


@dataclass(frozen=True)
class Trace:
    """One number of a vector over the rows of the episodes shown."""

    name: str
    """Key, and index where the vector has several numbers."""
    real: np.ndarray
    """What happened `[window, time]`."""
    percentiles: np.ndarray
    """`PERCENTILES` of what the model imagines `[percentile, window, time]`."""
    samples: np.ndarray
    """Single samples of it `[window, sample, time]`."""
    dreams: np.ndarray
    """What follows the observed rows in free dreams `[window, dream, time]`."""


def figures(record: Mapping[str, Any]) -> Iterator[tuple[str, Figure]]:
    """Figures of a study's record by name: `predictions` and `dreams` of vectors, `errors`."""
    drawn, context = _chosen(record["traces"]), int(record["settings"]["context"])
    with matplotlib.rc_context(STYLE):
        yield "predictions", _grid(drawn, context, _prediction)
        yield "dreams", _grid(drawn, context, _dream)
        yield "errors", _errors(record["errors"])


def _chosen(entries: list[dict[str, Any]]) -> list[Trace]:
    """The traces that a figure has room for: numbers of every key in turn; the reward, which is last, always."""
    order = sorted(range(len(entries) - 1), key=lambda i: (entries[i]["index"], i))[: PANELS - 1]
    sizes = Counter(entry["key"] for entry in entries)
    return [_trace(entries[i], sizes) for i in [*sorted(order), len(entries) - 1]]


def _trace(entry: dict[str, Any], sizes: Counter[str]) -> Trace:
    name = entry["key"] if sizes[entry["key"]] == 1 else f"{entry['key']} {entry['index']}"
    percentiles = [entry[f"percentile_{p}"] for p in PERCENTILES]
    return Trace(name, *(np.array(x, float) for x in (entry["real"], percentiles, entry["samples"], entry["dreams"])))


def _grid(drawn: list[Trace], context: int, draw: Callable[[Axes, Trace, int, np.ndarray], None]) -> Figure:
    """A row for each number, a column for each episode; the observed rows are shaded."""
    columns, rows = len(drawn[0].real), len(drawn)
    figure = Figure(figsize=(WIDTH, 0.7 + 1.15 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey="row")
    steps = np.arange(drawn[0].real.shape[1]) - (context - 1)
    for trace, row in zip(drawn, grid, strict=True):
        for window, axes in enumerate(row):
            axes.axvspan(steps[0], 0, color=INK, alpha=0.07, linewidth=0)
            draw(axes, trace, window, steps)
            axes.plot(steps, trace.real[window], color=INK, linewidth=1.2, label="real")
            axes.margins(x=0)
            axes.grid()
        row[0].set_ylabel(trace.name)
    for window, axes in enumerate(grid[0]):
        axes.set_title(f"held-out episode {window + 1}")
    figure.supxlabel("steps ahead (shaded: observed)", fontsize=9)
    figure.align_ylabels()
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend([handles[-1], *handles[:-1]], [labels[-1], *labels[:-1]], loc="outside upper center", ncols=6)
    return figure


def _prediction(axes: Axes, trace: Trace, window: int, steps: np.ndarray) -> None:
    low, lower, median, upper, high = trace.percentiles[:, window]
    axes.fill_between(steps, low, high, color=MODEL, alpha=0.18, linewidth=0, label="90 % of samples")
    axes.fill_between(steps, lower, upper, color=MODEL, alpha=0.32, linewidth=0, label="50 %")
    axes.plot(steps, median, color=MODEL, linewidth=1.2, label="median")
    for i, sample in enumerate(trace.samples[window]):
        label = "single samples" if i == 0 else None
        axes.plot(steps, sample, color=MODEL, linewidth=0.5, alpha=0.8, label=label)


def _dream(axes: Axes, trace: Trace, window: int, steps: np.ndarray) -> None:
    dreams = trace.dreams[window]
    for i, dream in enumerate(dreams):
        axes.plot(steps[-len(dream) :], dream, color=PALETTE[i], linewidth=1.0, alpha=0.9, label=f"dream {i + 1}")


def _errors(errors: Mapping[str, Mapping[str, Any]]) -> Figure:
    """RMSE and CRPS of every key beside those of repeating the last observed row."""
    figure = Figure(figsize=(WIDTH, 0.7 + 1.7 * len(errors)), layout="constrained")
    grid = figure.subplots(len(errors), 2, squeeze=False, sharex=True)
    for (key, curves), row in zip(errors.items(), grid, strict=True):
        for axes, name in zip(row, ("rmse", "crps"), strict=True):
            curve, copied = (np.array(curves[kind], float) for kind in (name, f"copy_{name}"))
            steps = np.arange(1, len(curve) + 1)
            axes.plot(steps, curve, color=MODEL, label="model")
            axes.plot(steps, copied, color=BASELINE, linestyle="--", label="repeat the last observed row")
            axes.set_ylim(bottom=0)
            axes.margins(x=0)
            axes.grid()
        row[0].set_ylabel(f"{key}\n({curves['unit']})")
    grid[0][0].set_title("RMSE of the samples' mean")
    grid[0][1].set_title("CRPS of the samples")
    figure.supxlabel("steps ahead", fontsize=9)
    figure.align_ylabels()
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure
