"""Replay ratio: training steps replayed per environment step collected."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class ReplayRatio:
    """Number of updates to do after collecting rows, so that `ratio` rows are replayed per collected row.

    The first call asks for exactly one update; rows collected before it do not count.
    """

    def __init__(self, ratio: float, rows_per_update: int):
        self.rows_per_update = rows_per_update
        self.per_row = ratio / rows_per_update
        self.debt: float | None = None

    def __call__(self, rows: int) -> int:
        """Updates due after `rows` more rows."""
        if self.debt is None:
            self.debt = 0.0
            return 1
        self.debt += rows * self.per_row
        due = int(self.debt)
        self.debt -= due
        return due

    def state_dict(self) -> dict[str, Any]:
        """The fraction of an update that is due."""
        return {"debt": self.debt}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.debt = state["debt"]
