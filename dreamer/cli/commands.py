"""Subcommands that print the lines of one function. What a function imports is loaded when it is called."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from dreamer.cli.parsing import parse
from dreamer.system.redaction import show


def diagnose(argv: Sequence[str]) -> int:
    """Print the diagnosis of a run; returns 1 when something is unhealthy."""
    from dreamer.experiments.diagnosis.diagnose import DiagnoseArguments, diagnose

    lines, unhealthy = diagnose(parse(DiagnoseArguments, "diagnose", argv))
    show(*lines)
    return 1 if unhealthy else 0


@dataclass(frozen=True)
class DoctorArguments:
    """Print environment information: versions, devices, rendering, W&B login and disk space."""


def doctor(argv: Sequence[str]) -> int:
    """Print environment information, one item a line."""
    parse(DoctorArguments, "doctor", argv)
    from dreamer.experiments.bench.doctor import doctor

    show(*doctor())
    return 0


@dataclass(frozen=True)
class DebugBatchArguments:
    """Repeat an update whose loss or gradient was not finite, and print which values became so first."""

    file: tyro.conf.Positional[Path]
    """Batch that a run has saved: RUN/faults/batch_<update>.pt."""


def debug_batch(argv: Sequence[str]) -> int:
    """Repeat a skipped update and print where it fails."""
    args = parse(DebugBatchArguments, "debug-batch", argv)
    from dreamer.experiments.diagnosis.debug_batch import debug_batch

    show(*debug_batch(args.file))
    return 0


def exam(argv: Sequence[str]) -> int:
    """Take the exam and print the table and the verdict."""
    from dreamer.experiments.exam.exam import ExamArguments, exam

    show(*exam(parse(ExamArguments, "exam", argv)).split("\n"))
    return 0


@dataclass(frozen=True)
class ReportArguments:
    """Write a page about one run, or compare the dynamics cores of all finished runs below a folder."""

    folder: tyro.conf.Positional[Path]
    """Run folder, or folder of run folders at any depth. The report is written into it."""


def report(argv: Sequence[str]) -> int:
    """Write the report and print its conclusions and its path."""
    folder = parse(ReportArguments, "report", argv).folder
    # scipy and matplotlib take seconds to load.
    from dreamer.experiments.report.ablation_report import write_ablation_report
    from dreamer.experiments.report.run_report import is_run, write_run_report

    if is_run(folder):
        page, summary = write_run_report(folder)
    else:
        page = write_ablation_report(folder)
        summary = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))["verdict"]
    show(*summary, "", f"report  {page}")
    return 0
