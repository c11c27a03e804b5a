"""Results of the exam as Markdown: its conclusions as sentences, and a table."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from operator import itemgetter
from statistics import mean
from typing import Any

from dreamer.experiments.exam.recall import DELAYS
from dreamer.experiments.report.wording import listing

Part = dict[str, list[dict[str, Any]]]
"""Results of a part: for each variant of the core, one dictionary per seed."""
HORIZONS = (5, 25, 50)
"""Steps ahead whose errors are shown."""

TOLERANCE = 0.10
"""Largest difference between the mean mass of an outcome and its true mass at which it counts as covered."""
TOLERANCE_PER_STATE = 0.20
"""Largest mean difference of the mass in single states. One future per state has 0.38, whatever its mean mass."""
RECALLS, GUESSES = 0.95, 0.6
"""Accuracy from which a cue counts as recalled, and accuracy up to which it counts as forgotten."""
VALID_EFFORT = 1.0
"""Effort from which the limits above hold; they were chosen for models trained for as long."""
DETERMINISTIC = ("rnn", "gru")


def document(results: dict[str, Any]) -> str:
    """Return the verdict, then the table of means over seeds (lowest and highest in brackets), as Markdown."""
    settings = results["settings"]
    lines = ["# Exam of the dynamics cores", "", *(f"- {sentence}" for sentence in verdict(results)), ""]
    lines += table(results)
    lines += [
        "",
        f"Means over {settings['seeds']} seeds, lowest and highest in brackets. Size {settings['size']} with matched "
        f"parameters, free nats {settings['free_nats']:g}, effort {settings['effort']:g}, drift on {settings['task']}, "
        f"{results['threads']} threads.",
        f"`{results['command']}` at commit {results['commit']}.",
        "",
    ]
    return "\n".join(lines)


def verdict(results: dict[str, Any]) -> list[str]:
    """Return sentences for each part. They confirm or refute expectations from the literature.

    With less than `VALID_EFFORT` one sentence says that there is no verdict.
    """
    effort = results["settings"]["effort"]
    if effort < VALID_EFFORT:
        says = f"effort {effort:g} is below {VALID_EFFORT:g}, so the models are not trained to the end"
        return [f"No verdict: {says}. The table shows that the exam works, not what the cores can represent."]
    parts = {"uncertainty": _uncertainty, "memory": _memory, "drift": _drift, "speed": _speed}
    return [sentence for name, part in parts.items() if name in results for sentence in part(results[name])]


def covers(runs: list[dict[str, Any]]) -> bool:
    """Return True when both outcomes have about their true mass, on average over states and in single states."""
    true = runs[0]["true_moved"]
    moved, stuck, apart = (_mean(runs, name) for name in ("moved", "stuck", "moved_error_per_state"))
    return max(abs(moved - true), abs(stuck - (1 - true))) <= TOLERANCE and apart <= TOLERANCE_PER_STATE


def _uncertainty(part: Part) -> list[str]:
    yes = [name for name, runs in part.items() if covers(runs)]
    no = [name for name in part if name not in yes]
    best = min(part, key=lambda name: _mean(part[name], "nll_gap"))
    sentences = [
        f"Two outcomes: {listing(yes)} {_verb(yes, 'cover')} both (mean mass within {TOLERANCE:.0%} of the "
        f"truth, single states within {TOLERANCE_PER_STATE:.0%} on average); {listing(no)} {_verb(no, 'do')} not. "
        f"{best} is closest to the true density ({_mean(part[best], 'nll_gap'):.2f} nats above it)."
    ]
    points = [name for name in part if name in DETERMINISTIC]
    if points:
        outcome = "refuted" if any(name in yes for name in points) else "confirmed"
        sentences.append(f"Expected: a deterministic core cannot cover both outcomes. {outcome.capitalize()} here.")
    if "mdn_rnn" in part:
        sentences.append(f"Expected: MDN-RNN covers both. {'Confirmed' if 'mdn_rnn' in yes else 'Refuted'} here.")
    return sentences


def _memory(part: Part) -> list[str]:
    sentences = []
    for delay in DELAYS:
        accuracy = {name: mean(_accuracy(run, delay) for run in runs) for name, runs in part.items()}
        recalled = [name for name, value in accuracy.items() if value >= RECALLS]
        forgotten = [name for name, value in accuracy.items() if value <= GUESSES]
        sentences.append(
            f"Memory: after {delay} steps {listing(recalled)} {_verb(recalled, 'recall')} the cue "
            f"(at least {RECALLS:.0%} right), {listing(forgotten)} {_verb(forgotten, 'guess')} (at most {GUESSES:.0%})."
        )
    paths = [name for name in part if name.startswith("ssm")]
    if paths:
        last = DELAYS[1]
        kept = [name for name in paths if mean(_accuracy(run, last) for run in part[name]) >= RECALLS]
        outcome = f"Refuted here for {listing(kept)}" if kept else "Confirmed here"
        sentences.append(f"Expected: a purely stochastic path forgets. {outcome} (delay {last}).")
    return sentences


def _drift(part: Part) -> list[str]:
    sentences = []
    for horizon in (HORIZONS[0], HORIZONS[-1]):
        scores = {name: mean(run["crps"][horizon - 1] for run in runs) for name, runs in part.items()}
        copy = mean(run["copy_crps"][horizon - 1] for runs in part.values() for run in runs)
        best = min(scores, key=lambda name: scores[name])
        worse = [name for name, value in scores.items() if value > copy]
        beaten = f"; {listing(worse)} {_verb(worse, 'are')} worse than repeating the last observation" if worse else ""
        sentences.append(
            f"Drift: {horizon} steps ahead {best} has the lowest CRPS ({scores[best]:.3f} standard deviations, "
            f"repeating the last observation {copy:.3f}, a perfect model 0){beaten}."
        )
    return sentences


def _speed(part: Part) -> list[str]:
    seconds = {name: runs[0]["seconds_per_update"] for name, runs in part.items()}
    first = next(iter(seconds))
    ratios = ", ".join(f"{name} {value / seconds[first]:.2f}" for name, value in seconds.items() if name != first)
    return [f"Speed: an update takes {seconds[first]:.3f} s with {first}; relative to it: {ratios or 'nothing else'}."]


def _mean(runs: list[dict[str, Any]], key: str) -> float:
    return mean(run[key] for run in runs)


def _accuracy(run: dict[str, Any], delay: int) -> float:
    return run["accuracy"][str(delay)]


def _error(run: dict[str, Any], name: str, horizon: int) -> float:
    return run[name][horizon - 1]


def _verb(names: list[str], many: str) -> str:
    """The verb after `listing(names)`, singular or plural."""
    one = {"are": "is", "do": "does", "guess": "guesses"}.get(many, f"{many}s")
    return many if len(names) > 1 else one


Column = tuple[str, str, Callable[[dict[str, Any]], float], str]
COLUMNS: list[Column] = [
    ("uncertainty", "NLL gap (nats)", itemgetter("nll_gap"), ".2f"),
    ("uncertainty", "moved (true 0.70)", itemgetter("moved"), ".2f"),
    ("uncertainty", "stuck (true 0.30)", itemgetter("stuck"), ".2f"),
    ("uncertainty", "mass error in one state", itemgetter("moved_error_per_state"), ".2f"),
    ("uncertainty", "50 % interval covers", itemgetter("coverage_50"), ".2f"),
    ("uncertainty", "90 % interval covers", itemgetter("coverage_90"), ".2f"),
    *(("memory", f"recall at {delay}", partial(_accuracy, delay=delay), ".2f") for delay in DELAYS),
    *(("drift", f"RMSE at {h}", partial(_error, name="rmse", horizon=h), ".3f") for h in HORIZONS),
    *(("drift", f"CRPS at {h}", partial(_error, name="crps", horizon=h), ".3f") for h in HORIZONS),
    ("speed", "s/update", itemgetter("seconds_per_update"), ".3f"),
    ("speed", "ms/imagined step", lambda run: 1e3 * run["seconds_per_imagined_step"], ".2f"),
    ("speed", "parameters", itemgetter("parameters"), ","),
]
"""Part, title, value of a run, and its format."""


def table(results: dict[str, Any]) -> list[str]:
    """Return the lines of one Markdown table with a row for each variant, and a column for each known measure."""
    columns = [(title, results[part], value, form) for part, title, value, form in COLUMNS if part in results]
    rows = [["core", *(title for title, *_ in columns)], ["---"] * (1 + len(columns))]
    for name in columns[0][1]:
        rows.append([name, *(_range(list(map(value, part.get(name, ()))), form) for _, part, value, form in columns)])
    return ["| " + " | ".join(row) + " |" for row in rows]


def _range(values: list[float], form: str) -> str:
    """Mean, and the lowest and the highest of several values; empty for none."""
    if not values:
        return ""
    middle = f"{mean(values):{form}}"
    return middle if len(values) == 1 else f"{middle} [{min(values):{form}}, {max(values):{form}}]"
