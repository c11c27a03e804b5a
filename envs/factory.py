"""A picklable recipe for environments, so that worker processes can build their own."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium

from envs.errors import UserError


@dataclass(frozen=True)
class EnvFactory:
    """Calls `envs.make` (or prepares the user's own environment) with everything but the environment's index fixed."""

    task: str
    """Task name as `envs.make` takes it; ignored when `custom` is given."""
    seed: int
    """Seed of the run."""
    repeat: int = 1
    """Environment steps per agent step."""
    time_limit: int = 0
    """Environment steps after which an episode is truncated; 0 keeps the task's own limit."""
    staggered_limit: int = 0
    """Environment i is also truncated after (i + 1) times this many environment steps; 0 is off."""
    imports: tuple[str, ...] = ()
    """Modules imported first, which register environments with Gymnasium."""
    custom: Callable[[], gymnasium.Env] | None = None
    """The user's own constructor."""

    def __call__(self, index: int) -> gymnasium.Env:
        """The environment with this index; (seed, index, episode) determines every episode."""
        import envs

        for module in self.imports:
            import_module(module)
        limits = [limit for limit in (self.time_limit, self.staggered_limit * (index + 1)) if limit]
        settings: dict[str, Any] = {
            "seed": self.seed,
            "index": index,
            "repeat": self.repeat,
            "time_limit": min(limits, default=None),
        }
        if self.custom is not None:
            return envs.prepare(self.custom(), **settings)
        return envs.make(self.task, **settings)


def import_module(name: str) -> None:
    """Import a user's module, also from the current folder; raises `UserError` when that fails."""
    if "" not in sys.path and "." not in sys.path:
        sys.path.insert(0, "")
    try:
        importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"--env-import {name}: {error}") from None
