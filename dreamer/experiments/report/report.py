"""`dreamer report`: a page about one run, or a comparison of all finished runs below a folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class ReportArguments:
    """Write a page about one run, or compare the dynamics cores of all finished runs below a folder."""

    folder: tyro.conf.Positional[Path]
    """Run folder, or folder of run folders at any depth. The report is written into it."""


def report(args: ReportArguments) -> list[str]:
    """Write the report and return its conclusions and its path as text."""
    # scipy and matplotlib take seconds to load; the other commands do not need them.
    from dreamer.experiments.report.ablation_report import write_ablation_report
    from dreamer.experiments.report.run_report import is_run, write_run_report

    if is_run(args.folder):
        page, summary = write_run_report(args.folder)
    else:
        page = write_ablation_report(args.folder)
        summary = json.loads(page.with_suffix(".json").read_text())["verdict"]
    return [*summary, "", f"report  {page}"]
