"""Figures of the results of the exam."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from dreamer.experiments.exam.recall import DELAYS
from dreamer.experiments.report.ablation_figures import core_colors


def draw(results: dict[str, Any], folder: Path) -> None:
    """Write a PNG for every part of the results into `folder`."""
    colors = core_colors(dict.fromkeys(name for part in FIGURES if part in results for name in results[part]))
    for part, figure in FIGURES.items():
        if part in results:
            figure(results[part], colors).savefig(folder / f"{part}.png", dpi=110)


def _uncertainty(part: dict[str, Any], colors: dict[str, str]) -> Figure:
    """Decoded samples of the next position in one test state beside the true density, for seed 0."""
    figure = Figure(figsize=(3.1 * len(part), 3.0), layout="constrained")
    panels = figure.subplots(1, len(part), sharex=True, squeeze=False)[0]
    for axes, (name, runs) in zip(panels, part.items(), strict=True):
        example = runs[0]["example"]
        means, sigma = np.array(example["means"]), example["sigma"]
        grid = np.linspace(means.min() - 0.8, means.max() + 0.8, 400)
        density = (np.array(example["weights"]) * stats.norm.pdf(grid[:, None], means, sigma)).sum(-1)
        axes.hist(
            example["samples"], bins=np.linspace(grid[0], grid[-1], 60), density=True, color=colors[name], alpha=0.8
        )
        axes.plot(grid, density, color="black", linewidth=1)
        axes.set(title=name, xlabel="next position", ylim=(0, 2.5 * density.max()))
        axes.set_yticks([])
    figure.suptitle("One push, two outcomes: decoded prior samples (bars) and the true density of observations (line)")
    return figure


def _memory(part: dict[str, Any], colors: dict[str, str]) -> Figure:
    """Accuracy of recall by delay, with all seeds as points."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
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
    axes.legend(fontsize="small")
    return figure


def _drift(part: dict[str, Any], colors: dict[str, str]) -> Figure:
    """Error of open-loop prediction by horizon."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
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
    panels[0].legend(fontsize="x-small")
    return figure


def _speed(part: dict[str, Any], colors: dict[str, str]) -> Figure:
    """Seconds per update and per imagined step."""
    figure = Figure(figsize=(8, 0.6 + 0.35 * len(part)), layout="constrained")
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
