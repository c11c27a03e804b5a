"""Environments by name: `make("dmc:walker_walk")`, `make("gym:Pendulum-v1")`, `make("toy:chain")`.

Every environment that is made or prepared here observes a Dict of float32 vectors, one-hot vectors of discrete values
and uint8 images, and takes actions from Box(-1, 1, [n]) or Discrete(n). It depends only on (seed, index, episode) and
the actions since the reset.
"""

from __future__ import annotations

from envs.catalog import make, tasks
from envs.errors import UserError
from envs.factory import EVAL_INDEX, EnvFactory
from envs.interface import BuildEnv, MakeEnv
from envs.pace import Pace, measure_pace
from envs.settings import EnvSettings, TaskSettings
from envs.vector import cores, failures, make_vector, restart_vector, restore_vector
from envs.worker import WorkerError
from envs.wrappers import prepare

__all__ = [
    "EVAL_INDEX",
    "BuildEnv",
    "EnvFactory",
    "EnvSettings",
    "MakeEnv",
    "Pace",
    "TaskSettings",
    "UserError",
    "WorkerError",
    "cores",
    "failures",
    "make",
    "make_vector",
    "measure_pace",
    "prepare",
    "restart_vector",
    "restore_vector",
    "tasks",
]
