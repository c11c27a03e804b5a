"""Reduce returns of single seeds to curves.csv.gz: `python -m dreamer.experiments.published.reduce RETURNS.csv`.

RETURNS.csv has the columns method, observations, task, seed, env_steps and return. A curve has the steps that all its
seeds have; there it holds the mean over seeds and its 95 % bootstrap interval. The same returns give the same bytes.
"""

from __future__ import annotations

import csv
import gzip
import io
import sys
from pathlib import Path

import numpy as np

from dreamer.experiments.published.curves import FILE, METHODS
from dreamer.experiments.report.statistics import stratified_bootstrap

POINTS = 51
"""Largest number of steps of a curve. Of more, evenly spaced ones are kept."""
AMBIGUOUS = {"finger_turn"}
"""Names of no task of the control suite, which has finger_turn_easy and finger_turn_hard."""


def reduced(source: Path) -> bytes:
    """Return the content of curves.csv.gz for a file of returns."""
    curves: dict[tuple[str, str, str], dict[str, dict[int, float]]] = {}
    with source.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["task"] in AMBIGUOUS or row["method"] not in METHODS:
                continue
            seeds = curves.setdefault((row["method"], row["observations"], row["task"]), {})
            seeds.setdefault(row["seed"], {})[int(row["env_steps"])] = float(row["return"])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["method", "observations", "task", "env_steps", "mean", "low", "high", "seeds"])
    for key, seeds in sorted(curves.items()):
        steps = sorted(set.intersection(*(set(seed) for seed in seeds.values())))
        kept = [steps[i] for i in np.unique(np.linspace(0, len(steps) - 1, POINTS).round().astype(int))]
        band = stratified_bootstrap([np.array([[seed[step] for step in kept] for seed in seeds.values()])], np.mean)
        for step, *values in zip(kept, band.value, band.low, band.high, strict=True):
            writer.writerow([*key, step, *(f"{value:.1f}" for value in values), len(seeds)])
    return gzip.compress(text.getvalue().encode(), mtime=0)


if __name__ == "__main__":
    Path(__file__).with_name(FILE).write_bytes(reduced(Path(sys.argv[1])))
