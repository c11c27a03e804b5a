"""Subcommands that only parse their options and print a result. What one imports is loaded when it is called."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

import envs
from dreamer.cli.parsing import parse
from dreamer.errors import UserError
from dreamer.system.redaction import show


def diagnose(argv: Sequence[str]) -> int:
    """Print the diagnosis of a run; returns 1 when something is unhealthy."""
    from dreamer.experiments.diagnosis.diagnose import DiagnoseArguments, diagnose

    lines, unhealthy = diagnose(parse(DiagnoseArguments, "diagnose", argv))
    show(*lines)
    return 1 if unhealthy else 0


def bench(argv: Sequence[str]) -> int:
    """Measure one configuration, or several in turn, and print the result."""
    from dreamer.cli.configuration import defaults, with_current_names
    from dreamer.experiments.bench.bench import BenchArguments, bench

    def arguments(argv: Sequence[str], preset: str) -> BenchArguments:
        config = defaults(argv, preset, task="dmc:walker_walk")
        return parse(BenchArguments, "bench", argv, default=BenchArguments(config))

    argv = with_current_names(argv)
    if "--against" in argv[:-1]:  # joined with its value, which may begin with dashes
        place = argv.index("--against")
        argv = [*argv[:place], f"--against={argv[place + 1]}", *argv[place + 2 :]]
    args, other = arguments(argv, "dmc_proprio"), None
    if args.against:
        try:
            changes = with_current_names(shlex.split(args.against))
        except ValueError as error:
            raise UserError(f"--against {args.against}: {error}") from None
        other = arguments([*argv, *changes], args.config.preset).config
    show(*bench(args, other).split("\n"))
    return 0


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
    """Write a page about one run, or compare all finished runs below a folder."""

    folder: tyro.conf.Positional[Path]
    """Run folder, or folder of run folders at any depth. The report is written into it."""
    links: bool = True
    """Link to run folders and large videos; --no-links for a report that is copied elsewhere."""


def report(argv: Sequence[str]) -> int:
    """Write the report and print its conclusions and its path."""
    args = parse(ReportArguments, "report", argv)
    folder = args.folder
    # scipy and matplotlib take seconds to load.
    from dreamer.experiments.report.ablation_report import write_ablation_report
    from dreamer.experiments.report.run_report import is_run, write_run_report

    if is_run(folder):
        page, summary = write_run_report(folder, args.links)
    else:
        page, summary = write_ablation_report(folder, args.links)
    show(*summary, "", f"report  {page}")
    return 0


def compare(argv: Sequence[str]) -> int:
    """Print returns of runs beside published ones."""
    from dreamer.experiments.published.compare import CompareArguments, compare

    show(*compare(parse(CompareArguments, "compare", argv)))
    return 0


@dataclass(frozen=True)
class TasksArguments:
    """List the tasks that can be trained on this machine."""

    contains: tyro.conf.Positional[str] = ""
    """Show only names that contain this text."""


def tasks(argv: Sequence[str]) -> int:
    """Print the names of the tasks, one a line."""
    args = parse(TasksArguments, "tasks", argv)
    names = [name for family in envs.tasks().values() for name in family if args.contains in name]
    if not names:
        raise UserError(f"no task contains {args.contains!r}; `dreamer tasks` lists all")
    show(*names)
    return 0
