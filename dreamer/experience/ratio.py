"""The replay ratio: how much is learned from what is collected."""

from __future__ import annotations

from typing import Any


class ReplayRatio:
    """How many updates to do after collecting rows, so that `ratio` rows are trained on per collected row.

    The first call asks for exactly one update and starts the clock: rows collected before accrue no debt.
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
        """The debt."""
        return {"debt": self.debt}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the debt."""
        self.debt = state["debt"]
