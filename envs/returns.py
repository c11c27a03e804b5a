"""Largest possible returns of tasks that have one."""

from __future__ import annotations

DMC_STEPS = 1000
"""Environment steps of an episode of the DeepMind Control Suite, whose rewards are at most 1 (Tassa et al. 2018)."""


def largest_return(task: str, time_limit: int = 0) -> float | None:
    """Largest return of an episode of at most `time_limit` environment steps, 0 for the task's own; None if unknown."""
    return float(min(DMC_STEPS, time_limit or DMC_STEPS)) if task.startswith("dmc:") else None
