"""Evaluation: returns of episodes that nothing is learned from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

import envs
from dreamer.agent import Agent
from dreamer.behavior.acting import ActionMode
from dreamer.errors import UserError, first_line
from dreamer.experience.spaces import Spec, require_spec
from dreamer.system.randomness import own_randomness
from dreamer.system.redaction import warn
from dreamer.tracking.progress import phase
from dreamer.training.heldout import HeldOut
from envs import EVAL_INDEX, MakeEnv

LIMIT = 50_000
"""Agent steps after which an evaluation episode is cut."""


@dataclass(frozen=True)
class Evaluation:
    """Undiscounted returns and lengths of finished episodes."""

    returns: np.ndarray
    """Sum of rewards of each episode `[episode]`."""
    lengths: np.ndarray
    """Agent steps of each episode `[episode]`."""
    held_out: Mapping[str, float] = field(default_factory=dict)
    """Metrics of the world model and the critic in these episodes (`dreamer.training.heldout`)."""


class Stopped(Exception):
    """An evaluation that was interrupted because its caller asked for it."""


class AllFailed(UserError):
    """An evaluation without a single finished episode, since every environment failed."""


class Evaluator:
    """Runs one episode in each of `episodes` environments at once; every evaluation sees the same initial states.

    An episode that has not ended after `limit` agent steps is cut and counts as it stands. An episode whose environment
    fails (see `envs.guarded`; `timeout` in seconds, 0 waits for ever) does not count. A line reports either.
    """

    def __init__(self, make_env: MakeEnv, episodes: int, seed: int, limit: int = LIMIT, timeout: float = 0.0):
        self.indices = [EVAL_INDEX + i for i in range(episodes)]
        self.seed, self.limit = seed, limit
        self._longest = 0
        with phase("building environments"):
            self.vector = envs.make_vector(make_env, self.indices, parallel=False, timeout=timeout)

    def run(
        self, agent: Agent, mode: ActionMode, stop: Callable[[], bool] = lambda: False, deterministic: bool = False
    ) -> Evaluation:
        """Evaluate with actions as in `Agent.act`. Leaves the global random state as it was.

        With sampled actions, whose returns the critic estimates, `held_out` is filled too. Raises `Stopped` as soon as
        `stop` returns True, and `UserError` when every environment fails twice.
        """
        try:
            with own_randomness(agent.device, self.seed):
                return self._run(agent, mode, stop, deterministic)
        except AllFailed as error:  # perhaps by something shared, such as the renderer, which a restart makes again
            warn(f"{error}; trying once more")
        with own_randomness(agent.device, self.seed):
            return self._run(agent, mode, stop, deterministic)

    def _run(self, agent: Agent, mode: ActionMode, stop: Callable[[], bool], deterministic: bool) -> Evaluation:
        with phase("evaluating", self._longest, "steps") as show:  # as long as the last evaluation, where there was one
            return self._episodes(agent, mode, stop, deterministic, show)

    def _episodes(
        self, agent: Agent, mode: ActionMode, stop: Callable[[], bool], deterministic: bool, show: Callable[[int], None]
    ) -> Evaluation:
        require_spec(Spec(agent.obs_shapes, agent.action), self.vector)
        obs, *_ = envs.restore_vector(self.vector, dict.fromkeys(self.indices, (0, ())))
        count = len(self.indices)
        returns, lengths = np.zeros(count), np.zeros(count, np.int64)
        running, failed = np.ones(count, bool), dict[int, str]()
        carry, steps, held_out = None, 0, HeldOut(agent, count)
        while running.any() and steps < self.limit:
            if stop():
                raise Stopped
            seen = {key: obs[key] for key in agent.obs_shapes}  # the environments may have more
            actions, carry = agent.act(seen, np.full(count, carry is None), carry, mode, deterministic)
            if mode == "sample":
                held_out.chosen(carry, running)
            obs, rewards, terminated, truncated, info = self.vector.step(actions)
            terminated, truncated = np.asarray(terminated, bool), np.asarray(truncated, bool)
            steps += 1
            show(steps)
            returns[running] += rewards[running]
            lengths[running] += 1
            failed |= {place: text for place, text in envs.failures(info).items() if running[place]}
            running[list(failed)] = False
            if mode == "sample" and running.any():
                held_out.arrived(obs, rewards, terminated, truncated, running, carry)
            running &= ~(terminated | truncated)
        self._longest = steps
        self._report(int(running.sum()), failed)
        kept = np.setdiff1d(np.arange(count), list(failed))
        return Evaluation(returns[kept], lengths[kept], held_out.metrics() if mode == "sample" else {})

    def _report(self, cut: int, failed: dict[int, str]) -> None:
        """Print how many episodes were cut or failed; raises `AllFailed` when all did."""
        of = f"of {len(self.indices)} evaluation episodes"
        if cut:
            warn(f"{cut} {of} had not ended after {self.limit} steps and were cut there")
        if failed:
            reason = first_line(next(iter(failed.values())))
            if len(failed) == len(self.indices):
                raise AllFailed(f"every evaluation environment failed: {reason}")
            warn(f"{len(failed)} {of} failed and do not count: {reason}")

    def close(self) -> None:
        """Close the environments."""
        self.vector.close()


def summarize(sampled: Evaluation, mode: Evaluation) -> dict[str, float]:
    """Metrics of an evaluation with sampled actions and one with mode actions."""
    return {
        "eval/return_mean": float(sampled.returns.mean()),
        "eval/return_std": float(sampled.returns.std()),
        "eval/return_min": float(sampled.returns.min()),
        "eval/return_max": float(sampled.returns.max()),
        "eval/length_mean": float(sampled.lengths.mean()),
        "eval/mode_return_mean": float(mode.returns.mean()),
        "eval/mode_return_std": float(mode.returns.std()),
        "eval/episodes": float(len(sampled.returns)),
        **sampled.held_out,
    }
