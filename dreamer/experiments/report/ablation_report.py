"""Comparison of the runs below a folder, as a page, as Markdown and as numbers."""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from dreamer.errors import UserError, reason
from dreamer.experiments.ablation.manifest import settings_varied
from dreamer.experiments.published.curves import curves_for
from dreamer.experiments.report import ablation_figures, ablation_sections, ablation_verdict, health
from dreamer.experiments.report.ablation_sections import Excluded
from dreamer.experiments.report.analysis import THRESHOLDS, analyse
from dreamer.experiments.report.arms import confounding, differing, with_arms
from dreamer.experiments.report.document import Document, html, markdown, without_links
from dreamer.experiments.report.run_folders import Failure, Run, find_runs
from dreamer.runs.provenance import command_line, commit
from dreamer.runs.trust import check_folder
from dreamer.system.files import write_atomically
from dreamer.system.redaction import redact_command
from dreamer.tracking.progress import phase


def write_ablation_report(folder: Path, links: bool = True) -> tuple[Path, list[str]]:
    """Write report.html, report.md, report.json and figures/*.png into `folder`; returns the page and the verdict.

    Without `links` nothing links to the run folders, so that the report can leave its folder.
    Raises `UserError` when there is no finished run below `folder`, or when it cannot be written to.
    """
    check_folder(folder)
    with phase("reading"):
        found, failures = find_runs(folder)
    named, arms = with_arms([run for run in found if run.finished], settings_varied(folder))
    counted, excluded = _select(named, [run for run in found if not run.finished], failures)
    if not counted:
        raise UserError(f"no finished run below {folder}: {_tally(counted, excluded)}")
    with phase("comparing"):
        analysis = analyse(counted, arms.values)
    verdict = ablation_verdict.verdict(analysis, arms)
    verdict += ablation_verdict.cautions(analysis, arms, len(excluded), confounding(counted, arms))
    signs = health.of_runs(folder, counted)
    verdict += health.caution(signs)
    written = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    origin = {"command": command_line(), "commit": commit(), "written": written}
    numbers = {
        "verdict": verdict,
        **origin,
        "varied": list(arms.varied),
        "values": arms.values,
        **dataclasses.asdict(analysis),
        "thresholds": THRESHOLDS,
        "runs": [_run(one, analysis.scales[one.task].score(one.final, one.largest_return)) for one in counted],
        "left_out": [entry._asdict() for entry in excluded],
        "settings": differing(counted),
        "unhealthy": {path: names for path, found in signs.items() if (names := health.unhealthy(found))},
    }
    behind = {one.task: curves_for(one.config, until=one.step) for one in sorted(counted, key=lambda one: one.step)}
    document = Document(
        title=f"{arms.title}: {folder.resolve().name}",
        subtitle=f"{_tally(counted, excluded)}; written {written}",
        summary=verdict,
        sections=ablation_sections.sections(
            analysis, arms, counted, excluded, differing(counted), origin, behind, health.section_of_runs(signs)
        ),
    )
    document = document if links else without_links(document)
    try:
        with phase("drawing"):
            svg = ablation_figures.draw(analysis, folder / "figures", behind)
        write_atomically(folder / "report.json", json.dumps(_plain(numbers), indent=1, allow_nan=False), "\n")
        write_atomically(folder / "report.md", markdown(document))
        write_atomically(folder / "report.html", html(document, svg))
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {reason(error)}") from None
    return folder / "report.html", verdict


def _select(finished: list[Run], unfinished: list[Run], failures: list[Failure]) -> tuple[list[Run], list[Excluded]]:
    """The finished runs that count, and all others. Of repeated runs the newest counts."""
    excluded = [Excluded("failed", failure.place, failure.error) for failure in failures]
    for one in unfinished:
        reached = f"step {one.step:,} of {one.config.steps:,} ({one.step / one.config.steps:.0%})"
        name = f"{one.task}, {one.core}, seed {one.seed}"
        excluded.append(Excluded("unfinished", one.path, f"{name}: {reached}"))
    newest: dict[tuple[str, str, int], Run] = {}
    for one in sorted(finished, key=lambda one: (str(one.info.get("created")), one.path)):
        key = (one.task, one.arm, one.seed)
        name = f"{one.task}, {one.arm}, seed {one.seed}"
        if key in newest:
            excluded.append(Excluded("repeated", newest[key].path, f"{name}: {one.path} is newer"))
        newest[key] = one
    return sorted(newest.values(), key=lambda one: one.path), excluded


def _tally(counted: list[Run], excluded: list[Excluded]) -> str:
    """`18 finished, 1 unfinished, 2 failed`."""
    kinds = [entry.kind for entry in excluded]
    others = [f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds)]
    return ", ".join([f"{len(counted)} finished", *others])


def _run(one: Run, score: float) -> dict[str, Any]:
    return {
        **{name: getattr(one, name) for name in ("path", "task", "core", "arm", "seed", "final", "auc")},
        "score": score,
        **{name: getattr(one, name) for name in ("steps", "returns", "parameters", "seconds_per_update")},
        **{name: getattr(one, name) for name in ("env_steps_per_second", "wall_seconds")},
        "command": redact_command(str(one.info.get("command", "unknown"))),
        **{name: one.info.get(name) for name in ("commit", "device", "created")},
    }


def _plain(tree: Any) -> Any:
    """Nested values as JSON can hold them: arrays as lists, values that are not finite as null."""
    if isinstance(tree, dict):
        return {name: _plain(value) for name, value in tree.items()}
    if isinstance(tree, np.ndarray):
        return _plain(tree.tolist())
    if isinstance(tree, list):
        return [_plain(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree
