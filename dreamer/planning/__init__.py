"""Planners: choose actions by a search in imagination, with the prior alone, on any core.

`planner.py` has what they share, `cem.py` and `mppi.py` one planner each. A planner is a dataclass of its settings.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from dreamer.planning.cem import CEM
from dreamer.planning.mppi import MPPI
from dreamer.planning.planner import Planner

PlanName = Literal["off", "cem", "mppi"]
"""The policy without a planner, or a planner."""


@dataclass(frozen=True)
class PlanningConfig:
    """Acting by a search in imagination. Learning does not depend on it, except through the collected data."""

    planner: Annotated[PlanName, tyro.conf.arg(aliases=("--loop.plan",))] = "off"
    """Planner that acts in the policy's place, in collection and evaluation; off is the policy."""
    cem: CEM = field(default_factory=CEM)
    """Settings of the planner `cem`."""
    mppi: MPPI = field(default_factory=MPPI)
    """Settings of the planner `mppi`."""

    def make(self) -> Planner | None:
        """The chosen planner; raises `UserError` for settings that do not fit together."""
        chosen: Planner | None = {"off": None, "cem": self.cem, "mppi": self.mppi}[self.planner]
        if chosen is not None:
            chosen.check()
        return chosen
