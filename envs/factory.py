"""A picklable recipe for environments, so that worker processes can build their own."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium

from envs.errors import UserError
from envs.wrappers import Observations


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
    short_limit: int = 0
    """Environment steps after which the environments with an index below `short_envs` are truncated too; 0 is off."""
    short_envs: int = 0
    """Number of environments with the short limit."""
    hide: tuple[str, ...] = ()
    """Observations to remove: keys, or `velocities`."""
    blank: tuple[str, ...] = ()
    """Observations to replace by zeros, for an agent that was trained on them."""
    flicker: float = 0.0
    """Probability with which a whole observation is zeros."""
    obs_noise: float = 0.0
    """Standard deviation of the noise added to every observed number."""
    obs: Observations = "state"
    """What is observed: the environment's own observations, its frames, or both."""
    image_size: tuple[int, int] = (64, 64)
    """Height and width of observed images."""
    camera: int | None = None
    """Camera of dmc tasks; None takes the task's own."""
    shadows: bool = True
    """Whether dmc tasks are drawn with shadows and reflections."""
    imports: tuple[str, ...] = ()
    """Modules imported first, which register environments with Gymnasium."""
    custom: Callable[[], gymnasium.Env] | None = None
    """The user's own constructor."""

    def __call__(self, index: int) -> gymnasium.Env:
        """The environment with this index; (seed, index, episode) determines every episode."""
        import envs

        for module in self.imports:
            import_module(module)
        short = self.short_limit if index < self.short_envs else 0
        limits = [limit for limit in (self.time_limit, short) if limit]
        settings: dict[str, Any] = {
            "seed": self.seed,
            "index": index,
            "repeat": self.repeat,
            "time_limit": min(limits, default=None),
            "hide": self.hide,
            "blank": self.blank,
            "flicker": self.flicker,
            "obs_noise": self.obs_noise,
            "obs": self.obs,
            "image_size": self.image_size,
        }
        if self.custom is not None and (self.camera is not None or not self.shadows):
            raise UserError(
                "cameras can be chosen, and shadows left out, of dmc tasks only, not of one's own environment"
            )
        if self.custom is not None:
            return envs.prepare(self.custom(), **settings)
        return envs.make(self.task, camera=self.camera, shadows=self.shadows, **settings)


def import_module(name: str) -> None:
    """Import a user's module, from the current folder when it is installed nowhere; raises `UserError` on failure."""
    try:
        if importlib.util.find_spec(name.partition(".")[0]) is None:
            sys.path.append("")  # last, and for no other module's sake: the current folder may be somebody else's
        importlib.import_module(name)
    except (ImportError, ValueError) as error:
        raise UserError(f"--env-import {name}: {error}") from None
