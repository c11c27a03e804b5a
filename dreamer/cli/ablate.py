"""`dreamer ablate`: the sweep that varies the core."""

from __future__ import annotations

from collections.abc import Sequence

from dreamer.cli import sweep
from dreamer.experiments.ablation.manifest import AblateArguments


def run(argv: Sequence[str]) -> int:
    """Do all runs that are not finished; returns 1 when some failed, 130 after an interrupt, 75 after other signals."""
    return sweep.run(argv, AblateArguments, "ablate")
