"""A test of memory: a cue is observed once and rewarded much later."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from envs.interface import Observation, ResetResult, StepResult


class Recall(gymnasium.Env):
    """Show a cue, +1 or -1 at random, in the first observation; the reward of every later query is the cue.

    Observations are the `cue` (0 after the reset) and `query`, which is 1 at steps with a query: those `delays` steps
    after the reset, and others at random with `query_probability`. The reward of all other steps is 0. Actions have no
    effect, so every policy earns the same: a model can predict the rewards of queries only if it remembers the cue.
    Episodes are truncated one step after the last delay.
    """

    def __init__(self, delays: Sequence[int] = (10, 50, 200), query_probability: float = 0.1) -> None:
        self._delays, self._query_probability = frozenset(delays), query_probability
        self._length = max(delays) + 1
        self.observation_space = spaces.Dict(
            {"cue": spaces.Box(-1.0, 1.0, (1,), np.float32), "query": spaces.Box(0.0, 1.0, (1,), np.float32)}
        )
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self._cue, self._step = 0.0, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> ResetResult:
        super().reset(seed=seed)
        self._cue, self._step = float(self.np_random.choice((-1.0, 1.0))), 0
        return _observation(self._cue, False), {}

    def step(self, action: Any) -> StepResult:
        self._step += 1
        by_chance = self.np_random.random() < self._query_probability
        asks = by_chance or self._step in self._delays
        return _observation(0.0, asks), self._cue if asks else 0.0, False, self._step >= self._length, {}


def _observation(cue: float, asks: bool) -> Observation:
    return {"cue": np.array([cue], np.float32), "query": np.array([asks], np.float32)}
