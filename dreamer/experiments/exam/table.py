"""Table of the results of the exam, in Markdown."""

from __future__ import annotations

from collections.abc import Callable
from statistics import mean
from typing import Any

from dreamer.experiments.exam.recall import DELAYS

HORIZONS = (5, 25, 50)
"""Steps ahead whose errors are shown."""


def table(results: dict[str, Any]) -> list[str]:
    """Return the lines of one Markdown table with a row for each variant."""
    columns = {
        name: values
        for part, make in COLUMNS.items()
        if part in results
        for name, values in make(results[part]).items()
    }
    variants = list(next(iter(results[part] for part in COLUMNS if part in results)))
    rows = [["core", *columns], ["---"] * (1 + len(columns))]
    rows += [[name, *(values.get(name, "") for values in columns.values())] for name in variants]
    return ["| " + " | ".join(row) + " |" for row in rows]


Columns = dict[str, dict[str, str]]


def _uncertainty_columns(part: dict[str, Any]) -> Columns:
    keys = {
        "NLL gap (nats)": ("nll_gap", ".2f"),
        "moved (true 0.70)": ("moved", ".2f"),
        "stuck (true 0.30)": ("stuck", ".2f"),
        "mass error in one state": ("moved_error_per_state", ".2f"),
        "50 % interval covers": ("coverage_50", ".2f"),
        "90 % interval covers": ("coverage_90", ".2f"),
    }
    return {
        title: {name: _range([run[key] for run in runs], form) for name, runs in part.items()}
        for title, (key, form) in keys.items()
    }


def _memory_columns(part: dict[str, Any]) -> Columns:
    return {
        f"recall at {delay}": {
            name: _range([run["accuracy"][str(delay)] for run in runs], ".2f") for name, runs in part.items()
        }
        for delay in DELAYS
    }


def _drift_columns(part: dict[str, Any]) -> Columns:
    return {
        f"{title} at {horizon}": {
            name: _range([run[key][horizon - 1] for run in runs], ".3f") for name, runs in part.items()
        }
        for title, key in (("RMSE", "rmse"), ("CRPS", "crps"))
        for horizon in HORIZONS
    }


def _speed_columns(part: dict[str, Any]) -> Columns:
    return {
        "s/update": {name: f"{runs[0]['seconds_per_update']:.3f}" for name, runs in part.items()},
        "ms/imagined step": {name: f"{1e3 * runs[0]['seconds_per_imagined_step']:.2f}" for name, runs in part.items()},
        "parameters": {name: f"{runs[0]['parameters']:,}" for name, runs in part.items()},
    }


COLUMNS: dict[str, Callable[[dict[str, Any]], Columns]] = {
    "uncertainty": _uncertainty_columns,
    "memory": _memory_columns,
    "drift": _drift_columns,
    "speed": _speed_columns,
}


def _range(values: list[float], form: str) -> str:
    middle = f"{mean(values):{form}}"
    return middle if len(values) == 1 else f"{middle} [{min(values):{form}}, {max(values):{form}}]"
