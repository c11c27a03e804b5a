"""`dreamer report`: writes a page about a run, or a comparison of the cores of an ablation."""

from __future__ import annotations

from collections.abc import Sequence

from dreamer.cli.parsing import parse
from dreamer.experiments.report.report import ReportArguments, report
from dreamer.system.redaction import show


def run(argv: Sequence[str]) -> int:
    """Write the report and print its conclusion and its path."""
    show(*report(parse(ReportArguments, "report", argv)))
    return 0
