"""The exam's results as one table and in plain words, all generated from the numbers."""

from __future__ import annotations

from collections.abc import Callable
from statistics import mean
from typing import Any

from dreamer.experiments.exam.memory import DELAYS

TOLERANCE = 0.10
"""Share of samples by which an outcome's mean mass may differ from its true mass and still be covered."""
TOLERANCE_PER_STATE = 0.20
"""Mean share by which the mass in a single state may differ: one future per state errs by 0.38, whatever its mean."""
RECALLS, GUESSES = 0.95, 0.6
"""Accuracies from which a cue counts as recalled, and up to which as forgotten."""
DETERMINISTIC = ("rnn", "gru")
HORIZONS = (5, 25, 50)


def document(results: dict[str, Any]) -> str:
    """Markdown: the verdict, then the table of means over seeds (least to greatest in brackets)."""
    settings = results["settings"]
    lines = ["# Exam of the dynamics cores", "", *(f"- {sentence}" for sentence in verdict(results)), ""]
    lines += table(results)
    lines += [
        "",
        f"Means over {settings['seeds']} seeds, least and greatest in brackets. Size {settings['size']} with matched "
        f"parameters, free nats {settings['free_nats']:g}, effort {settings['effort']:g}, drift on {settings['task']}, "
        f"{results['threads']} threads.",
        f"`{results['command']}` at commit {results['commit']}.",
        "",
    ]
    return "\n".join(lines)


def verdict(results: dict[str, Any]) -> list[str]:
    """One or more sentences for each part, expectations from the literature confirmed or refuted."""
    says: list[Callable[[dict[str, Any]], list[str]]] = [_uncertainty, _memory, _drift, _speed]
    names = ("uncertainty", "memory", "drift", "speed")
    return [
        sentence for name, say in zip(names, says, strict=True) if name in results for sentence in say(results[name])
    ]


def covers(runs: list[dict[str, Any]]) -> bool:
    """Whether both outcomes have about their true mass, in the mean over states and in single ones."""
    true = runs[0]["true_moved"]
    moved, stuck, apart = (_mean(runs, name) for name in ("moved", "stuck", "moved_error_per_state"))
    return max(abs(moved - true), abs(stuck - (1 - true))) <= TOLERANCE and apart <= TOLERANCE_PER_STATE


def _uncertainty(part: dict[str, Any]) -> list[str]:
    yes = [name for name, runs in part.items() if covers(runs)]
    no = [name for name in part if name not in yes]
    best = min(part, key=lambda name: _mean(part[name], "nll_gap"))
    says = [
        f"Two outcomes: {_list(yes)} {_verb(yes, 'cover')} both (mean mass within {TOLERANCE:.0%} of the "
        f"truth, single states within {TOLERANCE_PER_STATE:.0%} on average); {_list(no)} {_verb(no, 'do')} not. "
        f"{best} is closest to the true density ({_mean(part[best], 'nll_gap'):.2f} nats above it)."
    ]
    points = [name for name in part if name in DETERMINISTIC]
    if points:
        outcome = "refuted" if any(name in yes for name in points) else "confirmed"
        says.append(f"Expected: a deterministic core cannot cover both outcomes. {outcome.capitalize()} here.")
    if "mdn_rnn" in part:
        says.append(f"Expected: MDN-RNN covers both. {'Confirmed' if 'mdn_rnn' in yes else 'Refuted'} here.")
    return says


def _memory(part: dict[str, Any]) -> list[str]:
    says = []
    for delay in DELAYS:
        accuracy = {name: mean(run["accuracy"][str(delay)] for run in runs) for name, runs in part.items()}
        recalled = [name for name, value in accuracy.items() if value >= RECALLS]
        forgotten = [name for name, value in accuracy.items() if value <= GUESSES]
        says.append(
            f"Memory: after {delay} steps {_list(recalled)} {_verb(recalled, 'recall')} the cue "
            f"(at least {RECALLS:.0%} right), {_list(forgotten)} {_verb(forgotten, 'guess')} (at most {GUESSES:.0%})."
        )
    paths = [name for name in part if name.startswith("ssm")]
    if paths:
        last = str(DELAYS[1])
        kept = [name for name in paths if mean(run["accuracy"][last] for run in part[name]) >= RECALLS]
        outcome = f"Refuted here for {_list(kept)}" if kept else "Confirmed here"
        says.append(f"Expected: a purely stochastic path forgets. {outcome} (delay {last}).")
    return says


def _drift(part: dict[str, Any]) -> list[str]:
    says = []
    for horizon in (HORIZONS[0], HORIZONS[-1]):
        scores = {name: mean(run["crps"][horizon - 1] for run in runs) for name, runs in part.items()}
        copy = mean(run["copy_crps"][horizon - 1] for runs in part.values() for run in runs)
        best = min(scores, key=lambda name: scores[name])
        worse = [name for name, value in scores.items() if value > copy]
        beaten = f"; {_list(worse)} {_verb(worse, 'are')} worse than repeating the last row" if worse else ""
        says.append(
            f"Drift: {horizon} steps ahead {best} has the lowest CRPS ({scores[best]:.3f} standard deviations, "
            f"repeating the last row {copy:.3f}, a perfect model 0){beaten}."
        )
    return says


def _speed(part: dict[str, Any]) -> list[str]:
    seconds = {name: runs[0]["seconds_per_update"] for name, runs in part.items()}
    first = next(iter(seconds))
    ratios = ", ".join(f"{name} {value / seconds[first]:.2f}" for name, value in seconds.items() if name != first)
    return [f"Speed: an update takes {seconds[first]:.3f} s with {first}; relative to it: {ratios or 'nothing else'}."]


def table(results: dict[str, Any]) -> list[str]:
    """Rows of one Markdown table, a line for each variant."""
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
        "50 % interval holds": ("coverage_50", ".2f"),
        "90 % interval holds": ("coverage_90", ".2f"),
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


def _mean(runs: list[dict[str, Any]], key: str) -> float:
    return mean(run[key] for run in runs)


def _list(names: list[str]) -> str:
    return "none" if not names else names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _verb(names: list[str], many: str) -> str:
    """The verb of `_list(names)`."""
    one = {"are": "is", "do": "does", "guess": "guesses"}.get(many, f"{many}s")
    return many if len(names) > 1 else one
