"""Seeds for every episode, so that any position in the stream of an environment can be restored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np

from envs.errors import UserError
from envs.interface import Arrival, StepResult, StreamPosition


class SeededEpisodes(gymnasium.Wrapper):
    """Seed every episode from (seed, index, episode), so that any position of the stream can be restored.

    `episode` is the number of the current episode, -1 before the first reset. `reset(seed=s)` starts the stream of
    seed `s` at its episode 0. Where the environment has a method `begin_episode(episode)`, it is called before each
    reset.
    """

    def __init__(self, env: gymnasium.Env, *, seed: int, index: int) -> None:
        super().__init__(env)
        if seed < 0 or index < 0:
            raise UserError(f"seed and environment index must not be negative, got seed {seed} and index {index}")
        self.seed, self.index, self.episode = seed, index, -1
        self._begin_episode = getattr(env.unwrapped, "begin_episode", None)
        self._ended_by_restore = False

    @property
    def spec(self) -> None:  # type: ignore[override]
        """None: Gymnasium's recipe for building an environment cannot describe these wrappers."""
        return None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            self.seed, self.episode = seed, -1
        self.episode += 1
        self._ended_by_restore = False
        if self._begin_episode is not None:
            self._begin_episode(self.episode)
        entropy = np.random.SeedSequence([self.seed, self.index, self.episode]).generate_state(1)[0]
        # 31 bits: some simulators keep their seed in a signed 32-bit integer.
        return self.env.reset(seed=int(entropy) & 0x7FFFFFFF, options=options)

    def step(self, action: Any) -> StepResult:
        if self._ended_by_restore:
            obs, info = self.reset()
            return obs, 0.0, False, False, info
        return self.env.step(action)  # type: ignore[return-value]

    def restore(self, positions: Mapping[int, StreamPosition]) -> Arrival:
        """Go to the stream position `positions[index]` and return what arrived there.

        If the episode ends at that position, the next `step` ignores its action and starts the following episode, as
        in NEXT_STEP autoreset. An environment that does not repeat itself may end before the last action; then that
        end is returned. The caller should compare the result with what was recorded.
        """
        episode, actions = positions[self.index]
        if episode < 0:
            raise ValueError(f"environment {self.index} cannot be restored to episode {episode}: it was never reset")
        self.episode = episode - 1
        obs, _ = self.reset()
        reward, terminated, truncated = 0.0, False, False
        for action in actions:
            obs, reward, terminated, truncated, _ = self.step(action)
            if terminated or truncated:
                break
        self._ended_by_restore = terminated or truncated
        return obs, reward, terminated, truncated
