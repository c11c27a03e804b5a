"""Planners: choose actions by a search in imagination, with the prior alone, on any core.

`planner.py` has what they share, `cem.py` and `mppi.py` one planner each. A planner is a dataclass of its settings.
"""

from __future__ import annotations

from typing import Literal

PlanName = Literal["off", "cem", "mppi"]
"""The policy without a planner, or a planner."""
