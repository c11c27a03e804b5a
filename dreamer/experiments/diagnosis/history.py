"""Metrics of a run over environment steps, and the finding of a check."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dreamer.config import Config

FEWEST = 6
"""Number of records of a metric below which checks find nothing."""


@dataclass(frozen=True)
class Finding:
    """Result of a check."""

    unhealthy: bool | None
    """None with too few records."""
    says: str
    """One sentence with the numbers behind it."""
    advice: str = ""
    """Flags to try; empty unless unhealthy."""


class RunHistory:
    """Metrics of a run over environment steps."""

    def __init__(self, config: Config, records: Sequence[dict[str, Any]]):
        self.config, self.records = config, records
        self.step = int(max((record["step"] for record in records), default=0))

    def values(self, name: str) -> np.ndarray:
        """Return all values of a metric `[record]`."""
        return np.array([record[name] for record in self.records if name in record], float)

    def late(self, name: str) -> np.ndarray:
        """Return the values in the last third of the records with the metric `[record]`; empty with too few records."""
        values = self.values(name)
        return values[-(len(values) // 3) :] if len(values) >= FEWEST else values[:0]

    def since(self, name: str, holds: Callable[[np.ndarray], np.ndarray]) -> int:
        """Return the step from which `holds` is true of every value of a metric."""
        steps = [record["step"] for record in self.records if name in record]
        broken = np.flatnonzero(~holds(self.values(name)))
        return int(steps[min(int(broken[-1]) + 1, len(steps) - 1) if len(broken) else 0])
