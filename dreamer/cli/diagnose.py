"""`dreamer diagnose`: checks a run for signs of trouble."""

from __future__ import annotations

from collections.abc import Sequence

from dreamer.cli.parsing import parse
from dreamer.experiments.diagnosis.diagnose import DiagnoseArguments, diagnose


def run(argv: Sequence[str]) -> int:
    """Print the diagnosis; returns 1 when something is unhealthy."""
    text, unhealthy = diagnose(parse(DiagnoseArguments, "diagnose", argv))
    print(text)
    return 1 if unhealthy else 0
