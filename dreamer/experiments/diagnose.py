"""`dreamer diagnose`: what is unhealthy about a run, in plain words, with the evidence and what to try."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import tyro

from dreamer.experiments.course import Course, Verdict
from dreamer.experiments.health import CHECKS
from dreamer.run import open_run
from dreamer.tracking import read


@dataclass(frozen=True)
class DiagnoseArguments:
    """Say what is unhealthy about a run, finished or not, and which flag to try; exit status 1 if anything is."""

    run: tyro.conf.Positional[Path]
    """Run folder."""
    json: bool = False
    """Print one JSON object."""


def diagnose(args: DiagnoseArguments) -> tuple[list[str], bool]:
    """The diagnosis in lines, and whether something is unhealthy; raises `UserError` for what is no run folder."""
    run = open_run(args.run)
    course = Course(run.config, read(run.metrics))
    verdicts = [check(course) for check in CHECKS]
    sick = any(verdict.unhealthy for verdict in verdicts)
    if args.json:
        found = {"run": str(args.run), "step": course.step, "checks": [dataclasses.asdict(one) for one in verdicts]}
        return [json.dumps(found)], sick
    config = run.config
    head = f"{args.run}: {config.agent.dynamics.core} on {config.task}, step {course.step:,} of {config.steps:,}"
    return [head, *_told(verdicts)], sick


def _told(verdicts: list[Verdict]) -> list[str]:
    lines = []
    for verdict in verdicts:
        if verdict.unhealthy:
            lines += ["", f"unhealthy  {verdict.says}", f"try        {verdict.advice}"]
    healthy = [verdict for verdict in verdicts if verdict.unhealthy is False]
    unknown = [verdict for verdict in verdicts if verdict.unhealthy is None]
    if not lines:
        lines += ["", "nothing unhealthy found"]
    lines.append("")
    lines += [f"healthy    {verdict.check}: {verdict.says}" for verdict in healthy]
    lines += [f"unknown    {verdict.check}: {verdict.says}" for verdict in unknown]
    return lines
