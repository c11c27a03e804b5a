"""The wrappers every environment is trained through; `prepare` stacks them in the one right order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit

from envs.errors import UserError
from envs.partial import partially_observed
from envs.pixels import Pixels, Size
from envs.spaces import action_codec, observation_leaves

Observations = Literal["state", "pixels", "both"]
Step = tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]
Plan = tuple[int, Sequence[Any] | np.ndarray]
"""What leads to a moment of a stream: the episode, and the actions taken since its reset."""


def prepare(
    env: gymnasium.Env,
    *,
    seed: int,
    index: int,
    repeat: int = 1,
    time_limit: int | None = None,
    hide: Sequence[str] = (),
    blank: Sequence[str] = (),
    flicker: float = 0.0,
    obs_noise: float = 0.0,
    obs: Observations = "state",
    image_size: Size = (64, 64),
) -> gymnasium.Env:
    """Wrap any supported environment so that an agent can be trained in it.

    Observations become a Dict of float32 vectors and uint8 images (keys sorted): the environment's own ("state"), the
    frame that it draws as `image` ("pixels"), or "both". All images have the height and width `image_size`. Actions
    become Box(-1, 1, [n]) or Discrete(n), and are repeated `repeat` times; an episode is truncated after `time_limit`
    environment steps (counted before the repeat; None leaves the environment's own limit); episodes are seeded from
    (seed, index, episode).
    The agent may see less than there is: without the observations that `hide` names, zeros for those that `blank`
    names, nothing but zeros in a row with probability `flicker`, and all numbers with normal noise of standard
    deviation `obs_noise`; see `envs.partial`.
    Raises UserError for spaces that are not supported, names that there are not and values out of range.
    """
    if not isinstance(env, gymnasium.Env):
        raise UserError(f"an environment must be a gymnasium.Env, got {type(env).__module__}.{type(env).__qualname__}")
    if time_limit is not None:
        if time_limit < 1:
            raise UserError(f"time_limit must be at least 1 environment step, got {time_limit}")
        env = TimeLimit(env, max_episode_steps=time_limit)
    env = NamedObservations(NormalizedActions(ActionRepeat(env, repeat)), image_size)
    if obs != "state":
        env = Pixels(env, image_size, keep=obs == "both")
    env = partially_observed(env, hide=hide, blank=blank, flicker=flicker, obs_noise=obs_noise)
    return SeededEpisodes(env, seed=seed, index=index)


class ActionRepeat(gymnasium.Wrapper):
    """Take each action `repeat` times, summing the rewards and stopping where the episode ends."""

    def __init__(self, env: gymnasium.Env, repeat: int) -> None:
        super().__init__(env)
        if repeat < 1:
            raise UserError(f"action repeat must be at least 1, got {repeat}")
        self.repeat = repeat
        if "render_fps" in env.metadata:
            self.metadata = {**env.metadata, "render_fps": env.metadata["render_fps"] / repeat}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        total = 0.0
        for _ in range(self.repeat):
            obs, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            if terminated or truncated:
                break
        return obs, total, bool(terminated), bool(truncated), info


class NormalizedActions(gymnasium.ActionWrapper):
    """Actions in [-1, 1] (clipped) mapped onto native bounds where both are finite; choices counted from 0."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self.action_space, self._decode = action_codec(env.action_space)

    def action(self, action: Any) -> Any:
        return self._decode(action)


class NamedObservations(gymnasium.ObservationWrapper):
    """Observations as a flat dict of float32 vectors and uint8 images in alphabetical order of the keys."""

    def __init__(self, env: gymnasium.Env, image_size: Size) -> None:
        super().__init__(env)
        leaves = observation_leaves(env.observation_space, image_size)
        self.observation_space = spaces.Dict({key: leaf.space for key, leaf in leaves.items()})
        self._leaves = [(key, leaf.path, leaf.read) for key, leaf in leaves.items()]

    def observation(self, observation: Any) -> dict[str, np.ndarray]:
        named = {}
        for key, path, read in self._leaves:
            value = observation
            for name in path:
                value = value[name]
            named[key] = read(value)
        return named


class SeededEpisodes(gymnasium.Wrapper):
    """Seed every episode from (seed, index, episode), so that any moment of a stream can be re-created.

    `episode` is the number of the current episode, -1 before the first reset. `reset(seed=s)` starts the stream of
    seed `s` from its episode 0. An environment that has a method `begin_episode(episode)` is told the number before
    each reset.
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
        """None: Gymnasium's record of how to build an environment again cannot describe these wrappers."""
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

    def step(self, action: Any) -> Step:
        if self._ended_by_restore:
            obs, info = self.reset()
            return obs, 0.0, False, False, info
        return self.env.step(action)  # type: ignore[return-value]

    def restore(self, plans: Mapping[int, Plan]) -> tuple[dict[str, np.ndarray], float, bool, bool]:
        """Go to the moment that `plans[index]` describes and return its observation, reward, terminated, truncated.

        When that moment ends its episode, the next `step` starts the following episode, whatever its action, as
        NEXT_STEP autoreset would. An environment that does not repeat itself may end before the actions do: then
        that end is returned, so compare the answer with what was recorded.
        """
        episode, actions = plans[self.index]
        if episode < 0:
            raise ValueError(f"environment {self.index} cannot be restored to episode {episode}: nothing was reset yet")
        self.episode = episode - 1
        obs, _ = self.reset()
        reward, terminated, truncated = 0.0, False, False
        for action in actions:
            obs, reward, terminated, truncated, _ = self.step(action)
            if terminated or truncated:
                break
        self._ended_by_restore = terminated or truncated
        return obs, reward, terminated, truncated
