"""Largest possible returns of tasks that have one."""

from __future__ import annotations

from envs.settings import TaskSettings

DMC_STEPS = 1000
"""Environment steps of an episode of the DeepMind Control Suite, whose rewards are at most 1 (Tassa et al. 2018)."""


def largest_return(task: str, settings: TaskSettings) -> float | None:
    """Largest return of an episode of a task with these settings; None if it is not known."""
    limit = settings.time_limit or DMC_STEPS
    steps = limit if settings.extend_limit else min(limit, DMC_STEPS)
    return float(steps) if task.startswith("dmc:") else None
