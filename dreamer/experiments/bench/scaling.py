"""Cost of an update by batch size, batch length, imagination horizon and size."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

from dreamer.config import Config, SizeName, override, resized
from dreamer.errors import UserError, reason
from dreamer.experiments.bench.costs import Subject, sgemm_gflops, timed

BATCHES, LENGTHS, HORIZONS = (4, 8, 16, 32), (16, 32, 64), (5, 10, 15, 30)
SIZES: tuple[SizeName, ...] = ("100k", "300k", "1m", "12m")


def measure(config: Config, device: str, updates: int, folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Return seconds per update with one setting changed at a time, and write them and a figure to `folder`."""
    axes: dict[str, dict[Any, Config]] = {
        "batch_size": {n: override(config, {"loop.batch_size": n}) for n in BATCHES},
        "batch_length": {n: override(config, {"loop.batch_length": n}) for n in LENGTHS},
        "imagination_horizon": {n: override(config, {"agent.imagination_horizon": n}) for n in HORIZONS},
        "size": {name: resized(config, name) for name in SIZES},
    }
    found = {
        axis: [{"value": value, **_cost(changed, device, updates)} for value, changed in settings.items()]
        for axis, settings in axes.items()
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "scaling.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        _draw(found, folder / "scaling.png")
    except OSError as error:
        raise UserError(f"--scaling: cannot write to {folder}: {reason(error)}") from None
    return found


def _cost(config: Config, device: str, updates: int) -> dict[str, int | float]:
    subject = Subject(config, device)
    subject.vector.close()
    subject.update()
    seconds = median(timed(subject.update, subject.agent.device) for _ in range(updates))
    reference, peak = subject.reference_gflop(), sgemm_gflops(subject.agent.device)
    return {
        "parameters": sum(subject.agent.parameter_counts().values()),
        "seconds_per_update": seconds,
        "reference_gflop": reference,
        "fraction_of_peak": reference / (seconds * peak),
    }


def _draw(found: dict[str, list[dict[str, Any]]], path: Path) -> None:
    from matplotlib.figure import Figure

    from dreamer.tracking.plotting import PALETTE

    figure = Figure(figsize=(9, 2.6), layout="constrained")
    for axes, (name, costs) in zip(figure.subplots(1, len(found), sharey=True), found.items(), strict=True):
        positions = range(len(costs))
        axes.plot(positions, [cost["seconds_per_update"] for cost in costs], marker="o", color=PALETTE[0])
        for position, cost in zip(positions, costs, strict=True):
            label = f"{cost['fraction_of_peak']:.0%}"
            axes.annotate(label, (position, cost["seconds_per_update"]), (0, 5), textcoords="offset points", fontsize=7)
        axes.set_xticks(positions, [str(cost["value"]) for cost in costs])
        axes.set_yscale("log")
        axes.set_xlabel(name.replace("_", " "))
        axes.grid(alpha=0.2)
    figure.axes[0].set_ylabel("seconds per update")
    figure.suptitle("Cost of an update, and its fraction of the rate of the matrix product", fontsize=9)
    figure.savefig(path, dpi=150)
