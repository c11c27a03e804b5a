"""Figures of a study: predictions of vectors with their bands, free dreams, and errors by the number of steps ahead."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dreamer.openloop.study import DREAMS, Study
from dreamer.plotting import INK, PALETTE, STYLE, WIDTH

PANELS = 9
"""Numbers that a figure of traces draws; files hold all."""
BANDS = {"90 %": (5, 95), "50 %": (25, 75)}
"""Central intervals of the samples, by percentiles; the outer one first."""
MODEL, BASELINE = PALETTE[0], PALETTE[3]


@dataclass(frozen=True)
class Trace:
    """One number of a vector over the rows of the episodes shown."""

    name: str
    """Key, and index where the vector has several numbers."""
    real: np.ndarray
    """What happened `[window, time]`."""
    samples: np.ndarray
    """What the model imagines `[window, sample, time]`."""
    dreams: np.ndarray
    """What follows the observed rows in free dreams `[window, dream, time]`."""


def traces(study: Study) -> list[Trace]:
    """Every number of every vector, the reward last."""
    found = []
    for key, signal in study.signals.items():
        if not signal.is_image:
            size = signal.real.shape[-1]
            for i in range(size):
                name = key if size == 1 else f"{key} {i}"
                found.append(Trace(name, *(x[..., i] for x in (signal.real, signal.samples, signal.dreams))))
    return found


def figures(study: Study) -> Iterator[tuple[str, Figure]]:
    """Figures by name: `predictions` and `dreams` of vectors, `errors`."""
    drawn = _chosen(study)
    with matplotlib.rc_context(STYLE):
        yield "predictions", _grid(study, drawn, _prediction)
        yield "dreams", _grid(study, drawn, _dream)
        yield "errors", _errors(study)


def _chosen(study: Study) -> list[Trace]:
    """The traces that a figure has room for: numbers of every key in turn, the reward always."""
    *numbers, reward = traces(study)
    keys = {trace.name.partition(" ")[0]: 0 for trace in numbers}
    ranks = {}
    for i, trace in enumerate(numbers):
        key = trace.name.partition(" ")[0]
        ranks[i] = keys[key]
        keys[key] += 1
    kept = sorted(sorted(ranks, key=lambda i: (ranks[i], i))[: PANELS - 1])
    return [*(numbers[i] for i in kept), reward]


def _grid(study: Study, drawn: list[Trace], draw: Callable[[Axes, Trace, int, int], None]) -> Figure:
    """A row for each number, a column for each episode; the observed rows are shaded."""
    columns, rows, context = len(drawn[0].real), len(drawn), study.settings.context
    figure = Figure(figsize=(WIDTH, 0.7 + 1.15 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey="row")
    for trace, row in zip(drawn, grid, strict=True):
        for window, axes in enumerate(row):
            axes.axvspan(1 - context, 0, color=INK, alpha=0.07, linewidth=0)
            draw(axes, trace, window, context)
            axes.plot(_steps(trace.real, context), trace.real[window], color=INK, linewidth=1.2, label="real")
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


def _prediction(axes: Axes, trace: Trace, window: int, context: int) -> None:
    steps, samples = _steps(trace.real, context), trace.samples[window]
    for (name, ends), alpha in zip(BANDS.items(), (0.18, 0.32), strict=True):
        axes.fill_between(steps, *np.percentile(samples, ends, 0), color=MODEL, alpha=alpha, linewidth=0, label=name)
    for i, sample in enumerate(samples[:DREAMS]):
        label = "single samples" if i == 0 else None
        axes.plot(steps, sample, color=MODEL, linewidth=0.6, alpha=0.75, label=label)


def _dream(axes: Axes, trace: Trace, window: int, context: int) -> None:
    steps = _steps(trace.real, context)[context:]
    for i, dream in enumerate(trace.dreams[window]):
        axes.plot(steps, dream, color=PALETTE[i], linewidth=1.0, alpha=0.9, label=f"dream {i + 1}")


def _steps(rows: np.ndarray, context: int) -> np.ndarray:
    """Steps ahead of the last observed row, for all rows `[window, time]`."""
    return np.arange(rows.shape[-1]) - (context - 1)


def _errors(study: Study) -> Figure:
    """RMSE and CRPS of every key beside those of repeating the last observed row."""
    rows = len(study.signals)
    figure = Figure(figsize=(WIDTH, 0.7 + 1.7 * rows), layout="constrained")
    grid = figure.subplots(rows, 2, squeeze=False, sharex=True)
    for (key, signal), row in zip(study.signals.items(), grid, strict=True):
        for axes, name in zip(row, ("rmse", "crps"), strict=True):
            curve = signal.errors[name]
            steps = np.arange(1, len(curve) + 1)
            axes.plot(steps, curve, color=MODEL, label="model")
            label = "repeat the last observed row"
            axes.plot(steps, signal.errors[f"copy_{name}"], color=BASELINE, linestyle="--", label=label)
            axes.set_ylim(bottom=0)
            axes.margins(x=0)
            axes.grid()
        row[0].set_ylabel(f"{key}\n({signal.unit})")
    grid[0][0].set_title("RMSE of the samples' mean")
    grid[0][1].set_title("CRPS of the samples")
    figure.supxlabel("steps ahead", fontsize=9)
    figure.align_ylabels()
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure
