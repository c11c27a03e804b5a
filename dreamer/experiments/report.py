"""`dreamer report`: a page about a run; or what all runs below a folder say, as a page, as Markdown and as numbers."""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from dreamer import run
from dreamer.checkpoint import write_atomically
from dreamer.errors import UserError
from dreamer.redaction import redact_command
from dreamer.trust import check_folder

if TYPE_CHECKING:  # they load scipy and matplotlib, for which other commands need not wait
    from dreamer.experiments.runs import Failure, Run

COSTS = ("seconds_per_update", "env_steps_per_second", "wall_seconds")


@dataclass(frozen=True)
class ReportArguments:
    """Write a page about a run, or one that compares the dynamics cores of all finished runs below a folder."""

    folder: tyro.conf.Positional[Path]
    """Run folder, or folder of run folders at any depth; the report is written into it."""


def report(args: ReportArguments) -> list[str]:
    """Write the report and return what it concludes, in lines."""
    from dreamer.experiments.run_report import is_run, write_run_report

    check_folder(args.folder)
    if is_run(args.folder):
        page, summary = write_run_report(args.folder)
        return [*summary, "", f"report  {page}"]
    path = write_report(args.folder)
    numbers = json.loads(path.with_suffix(".json").read_text())
    return [*numbers["verdict"], "", f"report  {path}"]


def write_report(folder: Path) -> Path:
    """Write report.html, report.md, report.json and figures/*.png into `folder` and return the path of the page.

    Raises `UserError` when there is no finished run below `folder`, or when it cannot be written to.
    """
    from dreamer.experiments import analysis, document, figures, page, runs, sections, settings, wording

    check_folder(folder)
    found, failures = runs.find_runs(folder)
    counted, outside = _select(settings.tell_apart(found), failures)
    if not counted:
        raise UserError(f"no finished run below {folder}: {_tally(counted, outside)}")
    result = analysis.analyse(counted)
    differ = settings.differing(counted)
    verdict = [*wording.verdict(result), *wording.cautions(result, len(outside), settings.confounding(counted))]
    command, commit = run.command_line(), run.commit()
    written = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    parts = [
        *sections.results(result),
        sections.left_out(outside),
        sections.settings(differ, counted),
        sections.runs_table(counted, result),
        *sections.provenance(command, commit, counted),
    ]
    title = f"Dynamics cores compared: {folder.resolve().name}"
    text = document.Document(title, f"{_tally(counted, outside)}; written {written}", verdict, parts)
    numbers = {
        "verdict": verdict,
        "command": command,
        "commit": commit,
        "written": written,
        **_plain(dataclasses.asdict(result)),
        "thresholds": analysis.THRESHOLDS.tolist(),
        "runs": [_plain(_row(one, result.scales[one.task].score(one.final))) for one in counted],
        "left_out": [dict(zip(("kind", "place", "reason"), entry, strict=True)) for entry in outside],
        "settings": differ,
    }
    try:
        svg = figures.draw(result, folder / "figures")
        write_atomically(folder / "report.json", (json.dumps(numbers, indent=1, allow_nan=False) + "\n").encode())
        write_atomically(folder / "report.md", document.markdown(text).encode())
        write_atomically(folder / "report.html", page.page(text, svg).encode())
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}") from None
    return folder / "report.html"


def _select(runs: list[Run], failures: list[Failure]) -> tuple[list[Run], list[tuple[str, str, str]]]:
    """The finished runs that count, and kind, place and reason of all else; of repeated runs the newest counts."""
    outside = [("failed", failure.place, failure.error) for failure in failures]
    newest: dict[tuple[str, str, int], Run] = {}
    for one in sorted(runs, key=lambda one: (str(one.info.get("created")), one.path)):
        key = (one.task, one.core, one.seed)
        what = f"{one.task}, {one.core}, seed {one.seed}"
        if not one.finished:
            reason = f"{what}: step {one.step:,} of {one.config.steps:,} ({one.step / one.config.steps:.0%})"
            outside.append(("unfinished", one.path, reason))
            continue
        if key in newest:
            outside.append(("repeated", newest[key].path, f"{what}: {one.path} is newer"))
        newest[key] = one
    return sorted(newest.values(), key=lambda one: one.path), outside


def _tally(counted: list[Run], outside: list[tuple[str, str, str]]) -> str:
    """`18 finished, 1 unfinished, 2 failed`."""
    kinds = [kind for kind, _, _ in outside]
    others = [f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds)]
    return ", ".join([f"{len(counted)} finished", *others])


def _row(one: Run, score: float) -> dict[str, Any]:
    return {
        **{name: getattr(one, name) for name in ("path", "task", "core", "seed", "final", "auc")},
        "score": score,
        **{name: getattr(one, name) for name in ("steps", "returns", "parameters", *COSTS)},
        "command": redact_command(str(one.info.get("command", "unknown"))),
        **{name: one.info.get(name) for name in ("commit", "device", "created")},
    }


def _plain(tree: Any) -> Any:
    """Nested values as JSON can hold them: arrays as lists, what is not known as null."""
    if isinstance(tree, dict):
        return {name: _plain(value) for name, value in tree.items()}
    if hasattr(tree, "tolist"):
        return _plain(tree.tolist())
    if isinstance(tree, list):
        return [_plain(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree
