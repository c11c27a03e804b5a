"""Small environments with known observations and rewards, for tests and debugging, and the table of all toys."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from envs.bars import Bars
from envs.interface import Observation, ResetResult, StepResult
from envs.push import Push
from envs.recall import Recall


class Counting(gymnasium.Env):
    """Observe the position in the stream, so that a pipeline can be checked row by row.

    `step` counts steps since the reset, `episode` counts episodes, `row` counts the arrival rows of the stream, with
    that of each reset, and `action` is the action that led here (one-hot if discrete; zeros after a reset). The reward
    is `step`. Episodes have `length` steps; even ones end in a terminal state, odd ones are truncated.
    """

    def __init__(self, length: int = 10, actions: int = 2, discrete: bool = False) -> None:
        self._length, self._actions, self._discrete = length, actions, discrete
        bounds = {"step": length, "episode": np.inf, "row": np.inf}
        counters = {key: spaces.Box(0.0, high, (1,), np.float32) for key, high in bounds.items()}
        self.observation_space = spaces.Dict({**counters, "action": spaces.Box(-1.0, 1.0, (actions,), np.float32)})
        self.action_space = spaces.Discrete(actions) if discrete else spaces.Box(-1.0, 1.0, (actions,), np.float32)
        self._episode, self._step = -1, 0

    def begin_episode(self, episode: int) -> None:
        """Make the next reset start this episode."""
        self._episode = episode - 1

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> ResetResult:
        super().reset(seed=seed)
        self._episode, self._step = self._episode + 1, 0
        return self._observation(np.zeros(self._actions, np.float32)), {}

    def step(self, action: Any) -> StepResult:
        self._step += 1
        arrived_by = np.eye(self._actions, dtype=np.float32)[action] if self._discrete else np.array(action, np.float32)
        over, terminal = self._step >= self._length, self._episode % 2 == 0
        return self._observation(arrived_by), float(self._step), over and terminal, over and not terminal, {}

    def _observation(self, action: np.ndarray) -> Observation:
        row = self._episode * (self._length + 1) + self._step
        counters = {"step": self._step, "episode": self._episode, "row": row}
        return {**{key: np.array([value], np.float32) for key, value in counters.items()}, "action": action}


class Chain(gymnasium.Env):
    """Walk along five states: action 1 moves right, action 0 moves left (and stays at the left end).

    The observation is the state, the reward depends only on the new state (`REWARDS`), the last state is terminal and
    episodes are truncated after `length` steps.
    """

    REWARDS = (0.0, 0.25, -0.5, 0.5, 1.0)
    """Reward of arriving in each state."""

    def __init__(self, length: int = 20) -> None:
        self._length = length
        self.observation_space, self.action_space = spaces.Discrete(len(self.REWARDS)), spaces.Discrete(2)
        self._state, self._step = 0, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self._state, self._step = 0, 0
        return self._state, {}

    def step(self, action: Any) -> tuple[int, float, bool, bool, dict[str, Any]]:
        self._step += 1
        self._state = self._state + 1 if action == 1 else max(0, self._state - 1)
        terminated = self._state == len(self.REWARDS) - 1
        return self._state, self.REWARDS[self._state], terminated, not terminated and self._step >= self._length, {}


class Copy(gymnasium.Env):
    """Repeat a cue: it is +1 or -1 at random, and the reward of the next action is cue x action.

    Observations are the previous action (one-hot if discrete; zeros after a reset) and the new cue. A perfect policy
    earns 1 per step, a random one 0; if discrete, action 1 stands for +1 and action 0 for -1. A model that pairs
    actions with the wrong observations cannot predict the `action` entry. Episodes are truncated after `length` steps.
    """

    def __init__(self, length: int = 32, discrete: bool = False) -> None:
        self._length, self._discrete = length, discrete
        self._size = 2 if discrete else 1
        vectors = {"action": self._size, "cue": 1}
        self.observation_space = spaces.Dict(
            {key: spaces.Box(-1.0, 1.0, (size,), np.float32) for key, size in vectors.items()}
        )
        self.action_space = spaces.Discrete(2) if discrete else spaces.Box(-1.0, 1.0, (1,), np.float32)
        self._cue, self._step = 0.0, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> ResetResult:
        super().reset(seed=seed)
        self._step = 0
        return self._observation(np.zeros(self._size, np.float32)), {}

    def step(self, action: Any) -> StepResult:
        self._step += 1
        value = 2.0 * int(action) - 1.0 if self._discrete else float(action[0])
        arrived_by = np.eye(2, dtype=np.float32)[action] if self._discrete else np.array(action, np.float32)
        reward = self._cue * value
        return self._observation(arrived_by), reward, False, self._step >= self._length, {}

    def _observation(self, action: np.ndarray) -> Observation:
        self._cue = float(self.np_random.choice((-1.0, 1.0)))
        return {"action": action, "cue": np.array([self._cue], np.float32)}


def make_toy(name: str, **arguments: Any) -> gymnasium.Env:
    """Build one of `TOYS`, drawn as bars."""
    return Bars(TOYS[name](**arguments))


TOYS: dict[str, Callable[..., gymnasium.Env]] = {
    "chain": Chain,
    "copy": Copy,
    "copy_discrete": partial(Copy, discrete=True),
    "counting": Counting,
    "counting_discrete": partial(Counting, discrete=True),
    "push": Push,
    "recall": Recall,
}
"""Toy environments by name."""
