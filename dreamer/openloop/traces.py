"""Figures of an open-loop evaluation: predictions of vectors, imagined rollouts, and errors by steps ahead."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dreamer.openloop.record import PERCENTILES, Record
from dreamer.tracking.plotting import INK, PALETTE, STYLE, WIDTH

PANELS, KEYS, EPISODES = 9, 24, 6
"""Largest numbers of traces, of keys with errors and of episodes in a figure; the file holds all."""
MODEL, BASELINE = PALETTE[0], PALETTE[3]


@dataclass(frozen=True)
class Trace:
    """One dimension of a vector over the steps of the episodes shown."""

    name: str
    """Key, with the index in a vector of several dimensions."""
    real: np.ndarray
    """Truth `[episode, time]`."""
    percentiles: np.ndarray
    """`PERCENTILES` of the samples of the model `[percentile, episode, time]`."""
    samples: np.ndarray
    """Single samples `[episode, sample, time]`."""
    rollouts: np.ndarray
    """Imagined rollouts after the observed steps `[episode, rollout, time]`."""


def figures(record: Record) -> Iterator[tuple[str, Figure]]:
    """Yield the figures of a record by name: `predictions`, `dreams` (imagined rollouts) and `errors`.

    Raises `ValueError`, `TypeError` or `LookupError` where entries or lengths do not fit.
    """
    drawn, context = _chosen(record["traces"]), record["settings"]["context"]
    with matplotlib.rc_context(STYLE):
        yield "predictions", _grid(drawn, context, _prediction)
        yield "dreams", _grid(drawn, context, _rollout)
        yield "errors", _errors(record["errors"])


def _chosen(entries: Sequence[Mapping[str, Any]]) -> list[Trace]:
    """Traces that a figure has room for: dimensions of all keys in turn, and always the reward, which is last."""
    order = sorted(range(len(entries) - 1), key=lambda i: (entries[i]["index"], i))[: PANELS - 1]
    sizes = Counter(entry["key"] for entry in entries)
    drawn = []
    for entry in [entries[i] for i in [*sorted(order), len(entries) - 1]]:
        name = entry["key"] if sizes[entry["key"]] == 1 else f"{entry['key']} {entry['index']}"
        real, samples, rollouts = (entry[kind][:EPISODES] for kind in ("real", "samples", "dreams"))
        percentiles = [entry[f"percentile_{p}"][:EPISODES] for p in PERCENTILES]
        drawn.append(Trace(name, *(np.array(x, float) for x in (real, percentiles, samples, rollouts))))
    return drawn


def _grid(drawn: list[Trace], context: int, draw: Callable[[Axes, Trace, int, np.ndarray], None]) -> Figure:
    """Grid with a row for each trace and a column for each episode; the observed steps are shaded."""
    columns, rows = len(drawn[0].real), len(drawn)
    figure = Figure(figsize=(WIDTH, 0.7 + 1.15 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey="row")
    steps = np.arange(drawn[0].real.shape[1]) - (context - 1)
    for trace, row in zip(drawn, grid, strict=True):
        for episode, axes in enumerate(row):
            axes.axvspan(steps[0], 0, color=INK, alpha=0.07, linewidth=0)
            draw(axes, trace, episode, steps)
            axes.plot(steps, trace.real[episode], color=INK, linewidth=1.2, label="real")
            axes.margins(x=0)
            axes.grid()
        row[0].set_ylabel(trace.name)
    for episode, axes in enumerate(grid[0]):
        axes.set_title(f"held-out episode {episode + 1}")
    figure.supxlabel("steps ahead (shaded: observed)", fontsize=9)
    figure.align_ylabels()
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend([handles[-1], *handles[:-1]], [labels[-1], *labels[:-1]], loc="outside upper center", ncols=6)
    return figure


def _prediction(axes: Axes, trace: Trace, episode: int, steps: np.ndarray) -> None:
    low, lower, median, upper, high = trace.percentiles[:, episode]
    axes.fill_between(steps, low, high, color=MODEL, alpha=0.18, linewidth=0, label="90 % of samples")
    axes.fill_between(steps, lower, upper, color=MODEL, alpha=0.32, linewidth=0, label="50 %")
    axes.plot(steps, median, color=MODEL, linewidth=1.2, label="median")
    for i, sample in enumerate(trace.samples[episode]):
        label = "single samples" if i == 0 else None
        axes.plot(steps, sample, color=MODEL, linewidth=0.5, alpha=0.8, label=label)


def _rollout(axes: Axes, trace: Trace, episode: int, steps: np.ndarray) -> None:
    for i, rollout in enumerate(trace.rollouts[episode]):
        label = f"imagined rollout {i + 1}"
        axes.plot(steps[-len(rollout) :], rollout, color=PALETTE[i], linewidth=1.0, alpha=0.9, label=label)


def _errors(errors: Mapping[str, Mapping[str, Any]]) -> Figure:
    """RMSE and CRPS of every key, beside repeating the last observation."""
    errors = dict(list(errors.items())[:KEYS])
    figure = Figure(figsize=(WIDTH, 0.7 + 1.7 * len(errors)), layout="constrained")
    grid = figure.subplots(len(errors), 2, squeeze=False, sharex=True)
    for (key, curves), row in zip(errors.items(), grid, strict=True):
        for axes, name in zip(row, ("rmse", "crps"), strict=True):
            curve, repeated = (np.array(curves[kind], float) for kind in (name, f"copy_{name}"))
            steps = np.arange(1, len(curve) + 1)
            axes.plot(steps, curve, color=MODEL, label="model")
            axes.plot(steps, repeated, color=BASELINE, linestyle="--", label="repeat the last observation")
            axes.set_ylim(bottom=0)
            axes.margins(x=0)
            axes.grid()
        row[0].set_ylabel(f"{key}\n({curves['unit']})")
    grid[0][0].set_title("RMSE of the mean of the samples")
    grid[0][1].set_title("CRPS of the samples")
    figure.supxlabel("steps ahead", fontsize=9)
    figure.align_ylabels()
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure
