"""`dreamer debug-batch`: repeats a skipped update."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from dreamer.cli.parsing import parse
from dreamer.experiments.diagnosis.debug_batch import debug_batch
from dreamer.system.redaction import show


@dataclass(frozen=True)
class DebugBatchArguments:
    """Repeat an update whose loss or gradient was not finite, and print which values became so first."""

    file: tyro.conf.Positional[Path]
    """Batch that a run has saved: RUN/faults/batch_<update>.pt."""


def run(argv: Sequence[str]) -> int:
    """Repeat the update and print where it fails."""
    show(*debug_batch(parse(DebugBatchArguments, "debug-batch", argv).file))
    return 0
