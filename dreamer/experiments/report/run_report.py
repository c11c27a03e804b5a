"""A page about one run that needs nothing else: curves, films, imagination, settings, and how it came about."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from dreamer.errors import UserError
from dreamer.experiments.report import document, page, run_figures, run_sections
from dreamer.experiments.report.runs import MARKS, Run, read_run
from dreamer.experiments.report.wording import duration, number
from dreamer.openloop import folder as openloop
from dreamer.openloop.traces import figures
from dreamer.system.files import write_atomically
from dreamer.tracking import read
from dreamer.tracking.plotting import STYLE, svg

PAGE = "report.html"


def is_run(folder: Path) -> bool:
    """Whether a folder is meant to be a run folder rather than one of several."""
    return any((folder / name).is_file() for name in (*MARKS, "config.json"))


def write_run_report(folder: Path) -> tuple[Path, list[str]]:
    """Write report.html into a run folder; returns its path and what it says first.

    Raises `UserError` when the folder is damaged or cannot be written to.
    """
    run, records = read_run(folder, folder.resolve().name), read(folder / "metrics.jsonl")
    names = sorted({name for record in records for name in record})
    panels = run_sections.panels(names)
    drawings = run_figures.draw(records, panels)
    study, seen, media = _imagination(folder)
    summary = [*_results(run, records), *_imagined(study)]
    parts = [
        run_sections.returns(run),
        *run_sections.films(folder),
        *run_sections.imagination(seen, study, media),
        *run_sections.curves(records, panels),
        *run_sections.settings(run.config),
        *run_sections.provenance(run),
    ]
    subtitle = f"{run.core}, size {run.config.size}, seed {run.seed}; {folder.resolve().name}"
    text = document.Document(run.task, subtitle, summary, parts)
    try:
        write_atomically(folder / PAGE, page.page(text, drawings | seen).encode())
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}") from None
    return folder / PAGE, summary


def _results(run: Run, records: Sequence[Mapping[str, Any]]) -> list[str]:
    """How far the run came, what it reached and what it cost."""
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


def _imagined(study: Mapping[str, Any] | None) -> list[str]:
    """How much better the model predicts than the last observed row, by key."""
    if study is None:
        return []
    skills = []
    for key, errors in study["errors"].items():
        model, copied = (np.mean(np.array(errors[name], float)) for name in ("crps", "copy_crps"))
        skills.append(f"{key} {number(1 - model / copied)}" if copied > 0 else f"{key} unknown")
    rows = len(study["episodes_alive"])
    scale = "1 is perfect, 0 no better than repeating the last observed row"
    return [f"Skill of imagination over {rows} steps ahead ({scale}): {', '.join(skills)}."]


def _imagination(folder: Path) -> tuple[dict[str, Any] | None, dict[str, str], list[Path]]:
    """The newest study of a run: its record, its figures as SVG by name, and its films and film strips."""
    newest = openloop.newest(folder)
    if newest is None:
        return None, {}, []
    try:
        study = json.loads((newest / openloop.RECORD).read_text())
        with matplotlib.rc_context(STYLE):
            drawn = {name: svg(figure) for name, figure in figures(study)}
        study |= {"folder": newest.relative_to(folder).as_posix(), "step": int(newest.name.removeprefix("step_"))}
    except (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise UserError(
            f"{newest / openloop.RECORD} is damaged ({error}); `dreamer imagine {folder}` renews it"
        ) from None
    return study, drawn, sorted([*newest.glob("*_strip.png"), *newest.glob("*.mp4")])
