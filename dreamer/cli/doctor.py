"""`dreamer doctor`: prints environment information."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dreamer.cli.parsing import parse
from dreamer.experiments.bench.doctor import doctor
from dreamer.system.redaction import show


@dataclass(frozen=True)
class DoctorArguments:
    """Print environment information: versions, devices, rendering, W&B login and disk space."""


def run(argv: Sequence[str]) -> int:
    """Print the information, one item a line."""
    parse(DoctorArguments, "doctor", argv)
    show(*doctor().split("\n"))
    return 0
