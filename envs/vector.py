"""Several environments as one, stepped in this process or in parallel, with restarts and restored positions."""

from __future__ import annotations

import functools
import multiprocessing
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from envs.batched import BatchedEnvs
from envs.guarded import Guarded
from envs.interface import MakeEnv, Observation, StreamPosition
from envs.parallel import ParallelEnvs

Vector = SyncVectorEnv | ParallelEnvs | BatchedEnvs


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def make_vector(make_env: MakeEnv, indices: Sequence[int], parallel: bool = False, timeout: float = 0.0) -> Vector:
    """A vector environment of `make_env(index)` for each index, whose steps are a stream of arrival rows.

    After the last step of an episode, the next `step` ignores that environment's action and returns the first
    observation of the next episode with reward 0 (NEXT_STEP autoreset). Observations are copies that may be kept.
    `parallel` distributes the environments over as many processes as there are cores. `make_env` is sent to them by
    cloudpickle; they start sooner if it refers to little.
    A failure of one environment, or no answer within `timeout` seconds (0 waits forever), does not affect the others:
    `failures` reports it and `restart_vector` restarts the environment. `envs.guarded` defines failures.
    Raises UserError as an environment raises it, and `envs.WorkerError` where one cannot be built.
    """
    limit = 0.0 if parallel else timeout  # a process that hangs is terminated from outside
    builders = [functools.partial(Guarded, functools.partial(make_env, index), limit) for index in indices]
    if not parallel:
        return SyncVectorEnv(builders, autoreset_mode=AutoresetMode.NEXT_STEP)
    # A plain fork would copy locks that PyTorch's threads hold, and could wait for them forever.
    forkserver = "forkserver" in multiprocessing.get_all_start_methods()
    context = "forkserver" if forkserver else "spawn"
    return ParallelEnvs(builders, context, processes=min(len(builders), cores()), timeout=timeout)


def failures(info: Mapping[str, Any]) -> dict[int, str]:
    """Description of each failure in the info of a step or reset, by the environment's place in the vector.

    The first line names the error; a traceback may follow.
    """
    failed = info.get("_failure")
    return {} if failed is None else {int(i): str(info["failure"][i]) for i in np.flatnonzero(failed)}


def restart_vector(vector: Vector, episodes: Mapping[int, int]) -> dict[int, tuple[Observation, str]]:
    """Start the given episode of each environment index; other environments are not affected.

    Returns the first observation, and a new failure or "", by place in the vector.
    """
    answers = vector.call("restart", dict(episodes))
    return {place: answer for place, answer in enumerate(answers) if answer[0]}


def restore_vector(
    vector: Vector, positions: Mapping[int, StreamPosition]
) -> tuple[Observation, np.ndarray, np.ndarray, np.ndarray]:
    """Put prepared environments back to the stream positions that are given by environment index.

    Returns the result of the last step (or reset) before that position: observations [env, size] by key, rewards,
    terminations and truncations [env]. The vector continues from there as it did the first time, with an autoreset
    that was pending. The result of an environment that does not repeat itself differs from what was recorded.
    """
    # The reset clears the vector's own record of pending autoresets; SeededEpisodes keeps the restored ones.
    vector.reset()
    observations, rewards, terminations, truncations = zip(*vector.call("restore", dict(positions)), strict=True)
    keys = observations[0]
    stacked = {key: np.stack([observation[key] for observation in observations]) for key in keys}
    return stacked, np.array(rewards, np.float64), np.array(terminations, bool), np.array(truncations, bool)
