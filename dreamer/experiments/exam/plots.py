"""Figures of the results of the exam."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from scipy import stats

from dreamer.experiments.exam.recall import DELAYS
from dreamer.experiments.report.ablation_figures import core_colors
from dreamer.tracking.plotting import INK, STYLE, WIDTH

COLUMNS = 4
"""Largest number of panels in a row."""


def draw(results: dict[str, Any], folder: Path) -> None:
    """Write a PNG for every part of the results into `folder`."""
    colors = core_colors(dict.fromkeys(name for part in FIGURES if part in results for name in results[part]))
    with rc_context(STYLE):
        for part, figure in FIGURES.items():
            if part in results:
                figure(results[part], colors).savefig(folder / f"{part}.png", dpi=150, facecolor="white")


def _uncertainty(part: dict[str, Any], colors: dict[str, str]) -> Figure:
    """Decoded samples of the next position in one test state beside the true density, for seed 0."""
    rows = -(-len(part) // COLUMNS)
    columns = -(-len(part) // rows)
    figure = Figure(figsize=(WIDTH, 0.5 + 2.1 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, squeeze=False)
    for axes in grid.flat[len(part) :]:
        axes.remove()
    for axes, (name, runs) in zip(grid.flat, part.items(), strict=False):
        example = runs[0]["example"]
        means, sigma = np.array(example["means"]), example["sigma"]
        positions = np.linspace(means.min() - 0.8, means.max() + 0.8, 400)
        density = (np.array(example["weights"]) * stats.norm.pdf(positions[:, None], means, sigma)).sum(-1)
        bins = np.linspace(positions[0], positions[-1], 60)
        axes.hist(example["samples"], bins=bins, density=True, color=colors[name], alpha=0.8)
        axes.plot(positions, density, color=INK, linewidth=1)
        axes.set(title=name, xlabel="next position", ylim=(0, 1.6 * density.max()))
        axes.tick_params(labelbottom=True)
        axes.set_yticks([])
    figure.suptitle(
        "One push, two outcomes: decoded prior samples (bars) and the true density of observations (line)", fontsize=9
    )
    return figure


def _memory(part: dict[str, Any], colors: dict[str, str]) -> Figure:
    """Accuracy of recall by delay, with all seeds as points."""
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, runs in part.items():
        values = np.array([[run["accuracy"][str(delay)] for delay in DELAYS] for run in runs])
        axes.plot(DELAYS, values.mean(0), marker="o", color=colors[name], label=name)
        for row in values:
            axes.plot(DELAYS, row, ".", color=colors[name], alpha=0.5)
    axes.axhline(0.5, color="gray", linestyle=":", label="guessing")
    axes.set(xscale="log", xlabel="steps since the cue", ylabel="accuracy of recall", xticks=DELAYS, ylim=(0.4, 1.03))
    axes.set_xticklabels([str(delay) for delay in DELAYS])
    axes.minorticks_off()
    axes.grid()
    figure.legend(loc="outside right center")
    return figure


def _drift(part: dict[str, Any], colors: dict[str, str]) -> Figure:
    """Error of open-loop prediction by horizon."""
    figure = Figure(figsize=(WIDTH, 3.8), layout="constrained")
    panels = figure.subplots(1, 2)
    for axes, key, title in zip(panels, ("rmse", "crps"), ("RMSE of the mean", "CRPS"), strict=True):
        for name, runs in part.items():
            curves = np.array([run[key] for run in runs])
            steps = np.arange(1, curves.shape[1] + 1)
            axes.plot(steps, curves.mean(0), color=colors[name], label=name)
            axes.fill_between(steps, curves.min(0), curves.max(0), color=colors[name], alpha=0.15, linewidth=0)
        copies = np.array([run[f"copy_{key}"] for runs in part.values() for run in runs]).mean(0)
        axes.plot(steps, copies, color="gray", linestyle="--", label="repeat the last observation")
        axes.axhline(0, color="gray", linestyle=":", label="perfect model")
        axes.set(xlabel="steps ahead", ylabel=f"{title} (standard deviations)")
        axes.grid()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=5)
    return figure


def _speed(part: dict[str, Any], colors: dict[str, str]) -> Figure:
    """Seconds per update and per imagined step."""
    figure = Figure(figsize=(WIDTH, 0.6 + 0.3 * len(part)), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    bars = (
        ("seconds_per_update", 1.0, "s per update (16 x 64)"),
        ("seconds_per_imagined_step", 1e3, "ms per imagined step of 1,024"),
    )
    for axes, (key, scale, title) in zip(panels, bars, strict=True):
        axes.barh(list(part), [scale * runs[0][key] for runs in part.values()], color=[colors[name] for name in part])
        axes.set(xlabel=title)
    panels[0].invert_yaxis()
    return figure


FIGURES = {"uncertainty": _uncertainty, "memory": _memory, "drift": _drift, "speed": _speed}
