"""Published curves of returns, by task and kind of observations."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
from matplotlib.axes import Axes

from dreamer.config import Config
from dreamer.errors import UserError
from dreamer.experiments.report.statistics import Estimate
from dreamer.tracking.plotting import INK
from envs.errors import did_you_mean
from envs.returns import DMC_STEPS

FILE = "curves.csv.gz"
EVALUATION = "evaluation without noise"
METHODS = {
    "dreamerv3": "training episodes, sampled actions",
    **dict.fromkeys(("tdmpc2", "sac", "bro_utd10", "simbav2_utd8", "mrq"), EVALUATION),
}
"""Methods, in the order in which they are shown -> episodes that their returns are from."""
KINDS = {"state": "proprio", "pixels": "vision"}
"""Observations of a run -> observations in the file. There are no published curves from both."""
MARKERS = "os^Dvx"
"""Markers of `METHODS`."""


@dataclass(frozen=True)
class Curve:
    """Published returns of a method on one task."""

    method: str
    seeds: int
    steps: np.ndarray
    """Environment steps, action repeat included `[point]`."""
    returns: Estimate
    """Mean over seeds and its pointwise 95 % bootstrap interval `[point]`."""

    def at(self, step: int) -> Estimate | None:
        """Return the mean and its interval at a step, interpolated; None outside the steps of the curve."""
        if not self.steps[0] <= step <= self.steps[-1]:
            return None
        bounds = (self.returns.value, self.returns.low, self.returns.high)
        return Estimate(*(float(np.interp(step, self.steps, values)) for values in bounds))

    def between(self, step: int) -> tuple[int, int] | None:
        """Return the steps of the curve before and after a step within it; None where it has that step."""
        if step in self.steps or self.at(step) is None:
            return None
        place = int(np.searchsorted(self.steps, step))
        return int(self.steps[place - 1]), int(self.steps[place])


def check_methods(names: Collection[str]) -> None:
    """Raise `UserError` for a name that is no published method, with those there are."""
    for name in names:
        if name not in METHODS:
            hint = did_you_mean(name, list(METHODS))
            raise UserError(f"--with {name}: no such method; {hint}there are {', '.join(METHODS)}")


def curves_for(config: Config, methods: Collection[str] = tuple(METHODS), until: int | None = None) -> list[Curve]:
    """Return the published curves of a run's task and kind of observations, in the order of `METHODS`.

    There are none where the run changes the task: its episodes, its constructor, or what is observed of it. Curves that
    begin only at step `until` or later are left out.
    """
    env = config.env
    changed = env.hide or env.kwargs or env.flicker or env.obs_noise or env.camera is not None
    if changed or env.time_limit not in (0, DMC_STEPS) or env.obs not in KINDS:
        return []
    found = _curves().get((config.task, KINDS[env.obs]), {})
    shown = [found[name] for name in METHODS if name in found and name in methods]
    return [curve for curve in shown if until is None or curve.steps[0] < until]


def draw(axes: Axes, curves: Sequence[Curve], end: int) -> None:
    """Draw curves up to an environment step as broken lines in the colour of text, with their intervals."""
    for curve in curves:
        x = np.append(curve.steps[curve.steps < end], [end] if curve.at(end) else [])
        bands = (curve.returns.value, curve.returns.low, curve.returns.high)
        mean, low, high = (np.interp(x, curve.steps, values) for values in bands)
        marker = MARKERS[list(METHODS).index(curve.method)]
        line = axes.plot(x, mean, "--", color=INK, alpha=0.55, linewidth=0.9, label=f"{curve.method}, published")
        line[0].set(marker=marker, markersize=3.5, markerfacecolor="none", markevery=max(1, len(x) // 8), zorder=1)
        axes.fill_between(x, low, high, color=INK, alpha=0.05, linewidth=0, zorder=1)


def described(curves: Sequence[Curve]) -> str:
    """Return a sentence on the protocols of curves in a figure; empty without curves."""
    if not curves:
        return ""
    counts: dict[str, dict[str, set[int]]] = {}
    for curve in curves:
        counts.setdefault(METHODS[curve.method], {}).setdefault(curve.method, set()).add(curve.seeds)
    kinds = [
        f"{kind}: " + ", ".join(f"{name} ({'/'.join(map(str, sorted(seeds)))})" for name, seeds in methods.items())
        for kind, methods in counts.items()
    ]
    listed = "; ".join(kinds)
    return (
        f"Broken lines are published returns, with the number of seeds. {listed[0].upper()}{listed[1:]}. "
        "Bands are 95 % bootstrap intervals of the mean."
    )


@cache
def _curves() -> dict[tuple[str, str], dict[str, Curve]]:
    """All curves, by task and kind of observations, then by method."""
    text = gzip.decompress((files(__package__) / FILE).read_bytes()).decode()
    rows: dict[tuple[str, str], dict[str, list[list[float]]]] = {}
    for row in csv.DictReader(io.StringIO(text)):
        numbers = [float(row[name]) for name in ("env_steps", "mean", "low", "high", "seeds")]
        found = rows.setdefault((f"dmc:{row['task']}", row["observations"]), {})
        found.setdefault(row["method"], []).append(numbers)
    return {key: {name: _curve(name, lines) for name, lines in found.items()} for key, found in rows.items()}


def _curve(name: str, lines: Sequence[Sequence[float]]) -> Curve:
    steps, mean, low, high, seeds = np.array(lines).T
    return Curve(name, int(seeds.min()), steps, Estimate(mean, low, high))
