"""`dreamer diagnose`: unhealthy signs of a run, each with its evidence and a flag to try."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import tyro

from dreamer.experiments.diagnosis.checks import CHECKS
from dreamer.experiments.diagnosis.history import Finding, RunHistory
from dreamer.runs.folder import open_run
from dreamer.tracking import read


@dataclass(frozen=True)
class DiagnoseArguments:
    """Report unhealthy signs of a run, finished or not, and flags to try. Exit status 1 if there are any."""

    run: tyro.conf.Positional[Path]
    """Run folder."""
    json: bool = False
    """Print one JSON object."""


def diagnose(args: DiagnoseArguments) -> tuple[list[str], bool]:
    """Return the diagnosis in lines, and True for an unhealthy run; raises `UserError` without a run folder."""
    run = open_run(args.run)
    history = RunHistory(run.config, read(run.metrics))
    findings = findings_of(history)
    unhealthy = any(finding.unhealthy for finding in findings.values())
    if args.json:
        checks = [{"check": name, **dataclasses.asdict(finding)} for name, finding in findings.items()]
        return [json.dumps({"run": str(args.run), "step": history.step, "checks": checks})], unhealthy
    config = run.config
    head = f"{args.run}: {config.agent.dynamics.core} on {config.task}, step {history.step:,} of {config.steps:,}"
    return [head, *_lines(findings)], unhealthy


def findings_of(history: RunHistory) -> dict[str, Finding]:
    """Return the finding of every check, by its name."""
    return {name: check(history) for name, check in CHECKS.items()}


def _lines(findings: dict[str, Finding]) -> list[str]:
    lines = []
    for finding in findings.values():
        if finding.unhealthy:
            lines += ["", f"unhealthy  {finding.says}", f"try        {finding.advice}"]
    lines = [*(lines or ["", "nothing unhealthy found"]), ""]
    for unhealthy, word in ((False, "healthy"), (None, "unknown")):
        lines += [f"{word}    {name}: {one.says}" for name, one in findings.items() if one.unhealthy is unhealthy]
    return lines
