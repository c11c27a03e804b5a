"""Findings of `dreamer diagnose` in reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dreamer.config import Config
from dreamer.experiments.diagnosis.diagnose import findings_of
from dreamer.experiments.diagnosis.history import Finding, RunHistory
from dreamer.experiments.report.document import Section, Table, TableCell
from dreamer.experiments.report.run_folders import Run
from dreamer.experiments.report.wording import listing
from dreamer.tracking import read

STATES = {True: "unhealthy", False: "healthy", None: "unknown"}
TITLE = "Diagnosis"
TEXT = "Signs in the metrics of a run, each with a flag to try, as from `dreamer diagnose RUN`."
SHOWN = 100
"""Largest number of rows."""

Findings = Mapping[str, Finding]
"""Findings by the name of their check."""


def findings(config: Config, records: Sequence[dict[str, Any]]) -> Findings:
    """Return the finding of every check of a run."""
    return findings_of(RunHistory(config, records))


def unhealthy(found: Findings) -> list[str]:
    """Return the names of the unhealthy checks."""
    return [name for name, finding in found.items() if finding.unhealthy]


def summary(found: Findings) -> list[str]:
    """Return a sentence about the unhealthy checks of a run; none for a healthy one."""
    signs = unhealthy(found)
    return [f"Unhealthy: {listing(signs)}; see {TITLE}."] if signs else []


def section(found: Findings) -> Section:
    """Return all findings of a run, the unhealthy ones first."""
    order = sorted(found.items(), key=lambda one: list(STATES).index(one[1].unhealthy))
    rows = [[STATES[finding.unhealthy], name, finding.says, finding.advice] for name, finding in order]
    return Section(TITLE, TEXT, table=Table(["", "check", "finding", "try"], rows, words=4))


def of_runs(folder: Path, runs: Sequence[Run]) -> dict[str, Findings]:
    """Return the findings of several runs below `folder`, by their paths."""
    return {run.path: findings(run.config, read(folder / run.path / "metrics.jsonl")) for run in runs}


def caution(found: Mapping[str, Findings]) -> list[str]:
    """Return a sentence about the runs with unhealthy signs, and one about those that learned nothing."""
    signs = {path: unhealthy(one) for path, one in found.items()}
    some = [path for path, names in signs.items() if names]
    few = [path for path, names in signs.items() if "updates" in names]
    sentences = []
    if few:
        verb = "run has" if len(few) == 1 else "runs have"
        sentences.append(f"{len(few)} of {len(found)} {verb} made too few updates to learn much: {listing(few, 4)}.")
    if some:
        verb = "run shows" if len(some) == 1 else "runs show"
        sentences.append(f"{len(some)} of {len(found)} {verb} unhealthy signs; see {TITLE}.")
    return sentences


def section_of_runs(found: Mapping[str, Findings]) -> Section:
    """Return the unhealthy findings of several runs."""
    rows: list[list[str | TableCell]] = [
        [TableCell(path, path), name, finding.says, finding.advice]
        for path, one in found.items()
        for name, finding in one.items()
        if finding.unhealthy
    ]
    if not rows:
        return Section(TITLE, "Nothing unhealthy in the metrics of any run that counts.")
    more = f" The first {SHOWN} of {len(rows)} are shown." if len(rows) > SHOWN else ""
    table = Table(["run", "check", "finding", "try"], rows[:SHOWN], words=4)
    return Section(TITLE, TEXT + more, table=table, folded=len(rows) > 20)
