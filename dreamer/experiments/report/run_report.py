"""Page of one run: curves, videos, open-loop evaluation, settings and provenance in one file."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dreamer.config import Config, compose, leaves
from dreamer.errors import UserError, reason
from dreamer.experiments.report import run_curves, run_media
from dreamer.experiments.report.document import Document, Section, Table, html
from dreamer.experiments.report.run_folders import MARKS, Run, read_run
from dreamer.experiments.report.wording import UNKNOWN, duration, number
from dreamer.system.files import write_atomically
from dreamer.tracking import read

PAGE = "report.html"


def is_run(folder: Path) -> bool:
    """Return True for a folder that is meant to be a run folder rather than a folder of run folders."""
    return any((folder / name).is_file() for name in (*MARKS, "config.json"))


def write_run_report(folder: Path) -> tuple[Path, list[str]]:
    """Write report.html into a run folder and return its path and its summary.

    Raises `UserError` when the folder is damaged or cannot be written to.
    """
    run, records = read_run(folder, folder.resolve().name), read(folder / "metrics.jsonl")
    panels = run_curves.panels(sorted({name for record in records for name in record}))
    imagination = run_media.read_imagination(folder)
    summary = [*_results(run, records), *run_media.skills(imagination)]
    sections = [
        run_curves.returns(run),
        *run_media.videos(folder),
        *run_media.imagination(imagination),
        *run_curves.curves(records, panels),
        *settings(run.config),
        *_provenance(run),
    ]
    subtitle = f"{run.core}, size {run.config.size}, seed {run.seed}; {folder.resolve().name}"
    figures = run_curves.draw(records, panels) | (imagination.figures if imagination else {})
    try:
        write_atomically(folder / PAGE, html(Document(run.task, subtitle, summary, sections), figures))
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
    resumed = info.get("resumed") or []
    rows = [["command", str(info.get("command", UNKNOWN))]]
    rows += [["resumed", str(command)] for command in (resumed if isinstance(resumed, list) else [resumed])]
    names = ("commit", "created", "device", "threads", "python", "platform")
    rows += [[name, str(info.get(name, UNKNOWN))] for name in names]
    versions = info.get("versions")
    rows += [[name, str(version)] for name, version in (versions.items() if isinstance(versions, dict) else ())]
    sections = [Section("Command and versions", table=Table(["", ""], rows, words=2))]
    if run.parameters:
        parameters = [[part, f"{number:,}"] for part, number in run.parameters.items()]
        parameters.append(["all", f"{sum(run.parameters.values()):,}"])
        sections.append(Section("Parameters", table=Table(["part", "parameters"], parameters)))
    return sections


def _word(value: Any) -> str:
    return shlex.join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)
