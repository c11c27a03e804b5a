"""A picklable recipe for environments, so that worker processes can build their own."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import gymnasium
from gymnasium.vector import VectorEnv

from envs.batched import BatchedEnvs, OneOfBatch, require_batchable
from envs.catalog import make, make_batch
from envs.errors import UserError, one_line
from envs.interface import BuildEnv
from envs.rendering import before_building
from envs.settings import DEFAULTS, EnvSettings
from envs.vector import Vector, make_vector
from envs.wrappers import prepare

EVAL_INDEX = 10_000
"""First index of evaluation environments, so that they never share a seed with training environments."""


@dataclass(frozen=True)
class EnvFactory:
    """Constructor of the environments of a run, by index."""

    task: str
    """Task name as `envs.make` takes it; ignored when `custom` is given."""
    seed: int
    """Seed of the run."""
    settings: EnvSettings = DEFAULTS
    """Settings of every environment."""
    imports: tuple[str, ...] = ()
    """Modules to import first, which register environments with Gymnasium."""
    custom: BuildEnv | None = None
    """The user's own constructor."""
    short_limit: int = 0
    """Time limit of the environments with an index below `short_envs`, where it is shorter; 0 is none."""
    short_envs: int = 0
    """Number of environments with the short time limit."""

    def __call__(self, index: int) -> gymnasium.Env:
        """Build the environment with this index; (seed, index, episode) determines every episode."""
        for module in self.imports:
            import_module(module)
        settings = self.settings
        if self.short_limit and index < self.short_envs:
            settings = replace(settings, cap=self.short_limit)
        if self.custom is not None:
            before_building(drawn=settings.obs != "state")
            with one_line(f"{self.task}: make_env failed"):
                env = OneOfBatch(self._batch) if self.batched else self.custom()
            if isinstance(env, VectorEnv):
                raise UserError(f"{self.task}: a make_env that returns a VectorEnv must have the argument num_envs")
            return prepare(env, settings, seed=self.seed, index=index)
        return make(self.task, settings, seed=self.seed, index=index)

    @property
    def batched(self) -> bool:
        """True where training steps all environments as one batch: a gym-vector task, or an argument `num_envs`."""
        if self.custom is None:
            return self.task.startswith("gym-vector:")
        return "num_envs" in inspect.signature(self.custom).parameters

    def vector(self, indices: Sequence[int], parallel: bool = False, timeout: float = 0.0) -> Vector:
        """The environments to train in: one batch where there is one, otherwise as `make_vector`."""
        if not self.batched:
            return make_vector(self, indices, parallel, timeout)
        self.require_trainable(self.short_limit)
        single = replace(self, short_limit=0)(indices[0])
        return BatchedEnvs(self._batch, single, indices, self.seed, self.settings, timeout)

    def require_trainable(self, short_limit: int) -> None:
        """Raise UserError for settings that environments stepped as one batch cannot have in training."""
        if self.batched:
            require_batchable(replace(self.settings, cap=short_limit))

    def _batch(self, num_envs: int) -> VectorEnv:
        if self.custom is None:
            return make_batch(self.task, self.settings, num_envs)
        batch: Any = self.custom
        return batch(num_envs=num_envs)


def import_module(name: str) -> None:
    """Import a user's module, from the current folder if it is not installed. Raises UserError where that fails."""
    package = name.partition(".")[0]
    with one_line(f"--env-import {name}"):
        spec = importlib.util.find_spec(package)
        if spec is None:
            sys.path.append("")  # last, and only for this module: the current folder may be from somebody else
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            here, found = os.path.abspath(package), os.path.dirname(spec.origin or "") if spec else ""
            if found and os.path.isdir(here) and here != found:
                hidden = f"{here} is hidden by {found}: give it another name"
                raise ModuleNotFoundError(f"{error}; {hidden}", name=error.name) from error
            raise
