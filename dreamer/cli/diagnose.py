"""`dreamer diagnose`: checks a run for signs of trouble."""

from __future__ import annotations

from collections.abc import Sequence

from dreamer.cli.parsing import parse
from dreamer.experiments.diagnosis.diagnose import DiagnoseArguments, diagnose
from dreamer.system.redaction import show


def run(argv: Sequence[str]) -> int:
    """Print the diagnosis; returns 1 when something is unhealthy."""
    lines, unhealthy = diagnose(parse(DiagnoseArguments, "diagnose", argv))
    show(*lines)
    return 1 if unhealthy else 0
