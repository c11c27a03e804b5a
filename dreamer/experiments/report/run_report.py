"""Page of one run: curves of all metrics, videos, open-loop evaluation, settings and provenance in one file."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from dreamer.config import Config, compose, leaves
from dreamer.errors import UserError, reason
from dreamer.experiments.published import curves as published
from dreamer.experiments.report import health, run_media
from dreamer.experiments.report.document import Document, Section, Table, html, without_links
from dreamer.experiments.report.run_folders import MARKS, Run, read_run
from dreamer.experiments.report.wording import UNKNOWN, duration, number
from dreamer.system.files import write_atomically
from dreamer.system.redaction import warn
from dreamer.tracking import describe, is_registered
from dreamer.tracking.plotting import PALETTE, STYLE, WIDTH, learning_curve, points, svg
from dreamer.tracking.progress import follow, phase

PAGE = "report.html"
RETURNS = "Sum of rewards of an episode. Evaluation runs in environments whose seeds training never uses."
POINTS = 300
"""Largest number of points of a curve. A longer curve shows means of neighbouring records."""
COLUMNS = 4
GROUPS = {
    "World model": ("loss/", "reconstruction/", "model/", "imagination/"),
    "Actor and critic": ("loss/actor", "loss/critic", "loss/replay_critic", "behavior/"),
    "Optimizer, replay and time": ("optim/", "replay/", "time/"),
}
"""Metrics of a section, by prefixes of their names. The longest prefix that fits counts."""
PANELS = 60
"""Largest number of metrics of a section."""
OTHER = "Other metrics"
"""Section of the metrics that no prefix fits and that the registry does not know."""


def is_run(folder: Path) -> bool:
    """Return True for a folder that is meant to be a run folder rather than a folder of run folders."""
    return any((folder / name).is_file() for name in (*MARKS, "config.json"))


def write_run_report(folder: Path, links: bool = True) -> tuple[Path, list[str]]:
    """Write report.html into a run folder and return its path and its summary.

    Without `links` nothing links to videos that are too large for the page, so that it can leave its folder.
    Raises `UserError` when the folder is damaged or cannot be written to.
    """
    with phase("reading"):
        run, records = read_run(folder, folder.resolve().name)
    groups = panels(sorted({name for record in records for name in record}))
    imagination = run_media.read_imagination(folder)
    curves = published.curves_for(run.config, until=run.step)
    returns = (
        f"{RETURNS} {published.described(curves)}".strip() if len(run.steps) else "Nothing has been evaluated yet."
    )
    found = health.findings(run.config, records)
    summary = [*_results(run, records), *health.summary(found), *run_media.skills(imagination)]
    sections = [
        Section("Returns", returns, "returns"),
        health.section(found),
        *run_media.videos(folder),
        *run_media.imagination(imagination),
        *_curves(records, groups),
        *settings(run.config),
        *_provenance(run),
    ]
    subtitle = f"{run.core}, size {run.config.size}, seed {run.seed}; {folder.resolve().name}"
    behind = partial(published.draw, curves=curves, end=run.step)
    figures = _draw(records, groups, behind) | (imagination.figures if imagination else {})
    document = Document(run.task, subtitle, summary, sections)
    try:
        write_atomically(folder / PAGE, html(document if links else without_links(document), figures))
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {reason(error)}") from None
    return folder / PAGE, summary


def _results(run: Run, records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Sentences about progress, returns and cost."""
    evaluation = next((record for record in reversed(records) if "eval/return_mean" in record), None)
    state = "Finished" if run.finished else f"Unfinished, at step {run.step:,} of {run.config.steps:,}"
    if evaluation is None:
        return [f"{state}: not evaluated yet."]

    def value(name: str) -> str:
        return number(evaluation.get(f"eval/{name}", np.nan), 1)

    updates = max((record.get("loop/updates", 0) for record in records), default=0)
    return [
        f"{state}: return {value('return_mean')} ± {value('return_std')} over {value('episodes').partition('.')[0]} "
        f"episodes (worst {value('return_min')}, best {value('return_max')}) at step {evaluation['step']:,}; "
        f"{value('mode_return_mean')} with the policy's mode.",
        f"{run.step:,} environment steps and {updates:,.0f} updates in {duration(run.wall_seconds)} on "
        f"{run.info['device']}; {sum(run.parameters.values()):,} parameters.",
    ]


def settings(config: Config) -> list[Section]:
    """Return the settings that differ from the preset, and all settings."""
    everything = dict(leaves(dataclasses.asdict(config)))
    preset = dict(leaves(dataclasses.asdict(compose(config.preset, config.size))))
    changed = [[name, _word(value), _word(preset[name])] for name, value in everything.items() if value != preset[name]]
    text = f"Preset {config.preset} with these changes." if changed else f"Preset {config.preset}, unchanged."
    table = Table(["setting", "value", f"in {config.preset}"], changed, words=3) if changed else None
    rows = [[name, _word(value)] for name, value in everything.items()]
    return [
        Section("Settings", text, table=table),
        Section("All settings", table=Table(["setting", "value"], rows, words=2), folded=True),
    ]


def _provenance(run: Run) -> list[Section]:
    """Commands, commit, versions and machine, and the parameters of each part of the agent."""
    info = run.info
    rows = [["command", info.get("command", UNKNOWN)]]
    rows += [["resumed", command] for command in info.get("resumed", [])]
    names = ("commit", "created", "device", "threads", "python", "platform")
    rows += [[name, str(info.get(name, UNKNOWN))] for name in names]
    rows += [[name, version] for name, version in info.get("versions", {}).items()]
    sections = [Section("Command and versions", table=Table(["", ""], rows, words=2))]
    if run.parameters:
        parameters = [[part, f"{number:,}"] for part, number in run.parameters.items()]
        parameters.append(["all", f"{sum(run.parameters.values()):,}"])
        sections.append(Section("Parameters", table=Table(["part", "parameters"], parameters)))
    return sections


def _word(value: Any) -> str:
    return shlex.join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)


def panels(names: Sequence[str]) -> dict[str, list[str]]:
    """Return the metrics among `names` by section, in the order of `names`, without empty sections."""
    places = [(prefix, group) for group, prefixes in GROUPS.items() for prefix in prefixes]
    found: dict[str, list[str]] = {group: [] for group in [*GROUPS, OTHER]}
    for name in names:
        fitting = [(len(prefix), group) for prefix, group in places if name.startswith(prefix)]
        if fitting:
            found[max(fitting)[1]].append(name)
        elif name not in ("step", "updates") and not is_registered(name):
            found[OTHER].append(name)
    for group, members in found.items():
        if len(members) > PANELS:
            warn(f"dreamer: left out: {len(members) - PANELS} of {len(members)} metrics of {group}")
    return {group: members[:PANELS] for group, members in found.items() if members}


def _curves(records: Sequence[Mapping[str, Any]], groups: Mapping[str, Sequence[str]]) -> list[Section]:
    """Return a section for each group of metrics, with the meaning and the last value of each metric."""
    sections = []
    for group, names in groups.items():
        rows = []
        for name in names:
            metric, values = describe(name), points(records, name)[1]
            rows.append([name, metric.description, metric.unit, metric.healthy, f"{values[-1]:.4g}"])
        table = Table(["metric", "meaning", "unit", "healthy", "last"], rows, words=4)
        sections.append(Section(group, figure=group, table=table, folded=True))
    return sections


def _draw(
    records: Sequence[Mapping[str, Any]], groups: Mapping[str, Sequence[str]], behind: Callable[[Axes], None]
) -> dict[str, str]:
    """Return SVG by name: `returns`, with curves behind those of the run, and a grid for each group of metrics."""
    with matplotlib.rc_context(STYLE):
        with phase("drawing"):
            drawn = {"returns": svg(learning_curve(records, behind=behind))}
        with matplotlib.rc_context({"font.size": 7.5, "axes.titlesize": 7.5}):
            for group, names in follow(groups.items(), "drawing", len(groups), "figures"):
                drawn[group] = svg(_grid(records, names))
            return drawn


def _grid(records: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Figure:
    rows = -(-len(names) // COLUMNS)
    figure = Figure(figsize=(WIDTH, 0.3 + 1.3 * rows), layout="constrained")
    grid = figure.subplots(rows, COLUMNS, squeeze=False)
    for axes, name in zip(grid.flat, names, strict=False):
        steps, values = thinned(*points(records, name))
        axes.plot(steps, values, color=PALETTE[0], linewidth=1.1, marker="." if len(steps) < 3 else None)
        axes.set_title(name)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.grid()
    for axes in list(grid.flat)[len(names) :]:
        axes.remove()
    return figure


def thinned(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return at most `POINTS` points, each the mean of neighbouring records."""
    if len(steps) <= POINTS:
        return steps, values
    ends = np.linspace(0, len(steps), POINTS + 1).astype(int)
    counts = np.diff(ends)
    return np.add.reduceat(steps, ends[:-1]) / counts, np.add.reduceat(values, ends[:-1]) / counts
