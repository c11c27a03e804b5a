"""Several environments as one, stepped in this process or in parallel, and put back to any moment of their streams."""

from __future__ import annotations

import functools
import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from envs.guarded import Guarded
from envs.parallel import ParallelEnvs, cores
from envs.wrappers import Plan

Vector = SyncVectorEnv | ParallelEnvs


def make_vector(
    make_env: Callable[[int], gymnasium.Env], indices: Sequence[int], parallel: bool = False, timeout: float = 0.0
) -> Vector:
    """A vector environment of `make_env(index)` for each index, whose stream of steps is a stream of arrival rows.

    After the last step of an episode the next `step` ignores that environment's action and returns the first
    observation of the next episode with reward 0 (NEXT_STEP autoreset). Observations are copies that may be kept.
    `parallel` deals them over as many processes as there are cores, which share no memory with PyTorch's threads;
    `make_env` is sent there by cloudpickle, so the less it refers to, the sooner the processes are up.
    An environment that fails, or does not answer within `timeout` seconds (0 waits for ever), is told by `failures`
    and started again by `restart_vector`; the others are not disturbed. See `envs.guarded` for what a failure is.
    Raises UserError as an environment raises it, and `envs.parallel.WorkerError` when one cannot be made.
    """
    limit = 0.0 if parallel else timeout  # a process that hangs is ended from outside, whatever it is doing
    thunks = [functools.partial(Guarded, functools.partial(make_env, index), limit) for index in indices]
    if not parallel:
        return SyncVectorEnv(thunks, autoreset_mode=AutoresetMode.NEXT_STEP)
    # A plain fork would copy locks that PyTorch's threads hold, and so could wait for them forever.
    forkserver = "forkserver" in multiprocessing.get_all_start_methods()
    context = "forkserver" if forkserver else "spawn"
    return ParallelEnvs(thunks, context, processes=min(len(thunks), cores()), timeout=timeout)


def failures(info: Mapping[str, Any]) -> dict[int, str]:
    """What went wrong in each failed environment, by its place in the vector, from the info of a step or reset.

    The first line of a text says it, a traceback may follow.
    """
    failed = info.get("_failure")
    return {} if failed is None else {int(i): str(info["failure"][i]) for i in np.flatnonzero(failed)}


def restart_vector(vector: Vector, episodes: Mapping[int, int]) -> dict[int, tuple[dict[str, np.ndarray], str]]:
    """Start the given episode of each environment index, others are left alone.

    Returns the first observation, and what went wrong again or "", by place in the vector.
    """
    answers = vector.call("restart", dict(episodes))
    return {place: answer for place, answer in enumerate(answers) if answer[0]}


def restore_vector(
    vector: Vector, plans: Mapping[int, Plan]
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray]:
    """Put prepared environments back to the moments that `plans` gives by environment index.

    Returns what the last step (or reset) returned at that moment: observations [env, size] by key, rewards,
    terminations and truncations [env]. From here the vector steps on as if it had never been anywhere else, a pending
    autoreset included. Where an environment does not repeat itself, the answer differs from what was recorded.
    """
    # The reset clears the vector's own memory of pending autoresets; SeededEpisodes keeps the restored ones.
    vector.reset()
    observations, rewards, terminations, truncations = zip(*vector.call("restore", dict(plans)), strict=True)
    keys = observations[0]
    stacked = {key: np.stack([observation[key] for observation in observations]) for key in keys}
    return stacked, np.array(rewards, np.float64), np.array(terminations, bool), np.array(truncations, bool)
