"""The course of a run: its metrics over environment steps, and what a check says about them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dreamer.config import Config

FEWEST = 6
"""Records with a metric below which nothing is said about its course."""


@dataclass(frozen=True)
class Verdict:
    """What a check found."""

    check: str
    """What was looked at, in a word or two."""
    unhealthy: bool | None
    """None when too little is recorded to tell."""
    says: str
    """One sentence with the numbers it rests on."""
    advice: str = ""
    """What to try, flags included; empty unless unhealthy."""


class Course:
    """The metrics of a run over environment steps."""

    def __init__(self, config: Config, records: Sequence[dict[str, Any]]):
        self.config, self.records = config, records
        self.step = int(max((record["step"] for record in records), default=0))

    def values(self, name: str) -> np.ndarray:
        """All values of a metric `[record]`."""
        return np.array([record[name] for record in self.records if name in record], float)

    def late(self, name: str) -> np.ndarray:
        """Values in the last third of the records that have the metric `[record]`; empty when these are too few."""
        values = self.values(name)
        return values[-(len(values) // 3) :] if len(values) >= FEWEST else values[:0]

    def since(self, name: str, holds: Callable[[np.ndarray], np.ndarray]) -> int:
        """The step from which on `holds` is true of every value of a metric."""
        steps = [record["step"] for record in self.records if name in record]
        broken = np.flatnonzero(~holds(self.values(name)))
        return int(steps[min(int(broken[-1]) + 1, len(steps) - 1) if len(broken) else 0])
