"""Vector environments that are batched themselves: any `gymnasium.vector.VectorEnv`, stepped as one.

Training steps one batch of all environments. Everything else (evaluation, videos, held-out episodes) uses `OneOfBatch`,
a batch of one, which is an environment like all others. A batch restarts as a whole, so it cannot repeat the open
episode of one environment: after a resume or a failure, all of its environments start new episodes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, iterate

from envs.errors import UserError
from envs.guarded import LARGEST_REWARD, Catching
from envs.interface import Arrival, Observation, StreamPosition
from envs.settings import DEFAULTS, EnvSettings
from envs.spaces import Leaf, action_codec, observation_leaves

BuildBatch = Callable[[int], VectorEnv]
"""Constructor of a vector environment of a given size."""


class OneOfBatch(gymnasium.Env):
    """The only environment of a vector environment of size one."""

    def __init__(self, build: BuildBatch) -> None:
        self.batch = checked_batch(build(1), 1)
        self.observation_space, self.action_space = self.batch.single_observation_space, self.batch.single_action_space
        self.metadata, self.render_mode = dict(self.batch.metadata), self.batch.render_mode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        obs, _ = self.batch.reset(seed=seed, options=options)
        return self._first(obs), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, rewards, terminated, truncated, _ = self.batch.step(np.asarray(action)[None])
        return self._first(obs), float(rewards[0]), bool(terminated[0]), bool(truncated[0]), {}

    def render(self) -> Any:
        frames: Any = self.batch.render()
        return frames if frames is None else frames[0]

    def close(self) -> None:
        self.batch.close()

    def _first(self, obs: Any) -> Any:
        return next(iter(iterate(self.batch.observation_space, _arrays(obs))))


class BatchedEnvs(VectorEnv):
    """A vector environment with the observations, actions and episodes that an agent is trained in.

    `build` is called with the number of `indices`; `single` is one such environment in its wrappers, whose spaces the
    batch gets, and which is closed. A reset is seeded from (seed, first index, episode). A failure of one environment,
    or no answer within `timeout` seconds (0 waits forever), is one of all: `envs.guarded` defines failures.
    Raises UserError for settings that need each environment to be stepped on its own.
    """

    def __init__(
        self,
        build: BuildBatch,
        single: gymnasium.Env,
        indices: Sequence[int],
        seed: int,
        settings: EnvSettings = DEFAULTS,
        timeout: float = 0.0,
    ) -> None:
        self.num_envs, self.indices, self.seed = len(indices), list(indices), seed
        require_batchable(settings)
        self.batch = checked_batch(build(self.num_envs), self.num_envs)
        self.single_observation_space, self.single_action_space = single.observation_space, single.action_space
        single.close()
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        leaves, kept = observation_leaves(self.batch.single_observation_space, settings), self._spaces()
        self._leaves = {key: leaves[key] for key in kept}
        self._decode = _action_decoder(self.batch.single_action_space)
        self.metadata = {**self.batch.metadata, "autoreset_mode": AutoresetMode.NEXT_STEP}
        self._episode, self._failure, self._catching = -1, "", Catching(self, timeout)

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Observation, dict[str, Any]]:
        """Start the next episode of every environment; they are seeded here, so `seed` and `options` must be None."""
        if seed is not None or options is not None:
            raise ValueError("prepared environments seed themselves and take no options")
        obs = self._start(self._episode + 1)
        return obs, self._info()

    def step(self, actions: Any) -> tuple[Observation, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Step every environment, or start its next episode where one has ended; results are copies."""
        no = np.zeros(self.num_envs, bool)
        with self._catching:
            obs, rewards, terminated, truncated, _ = self.batch.step(self._decode(np.asarray(actions)))
            found, reward = self._converted(obs), np.array(rewards, np.float64)
            self._check(found, reward)
            return found, reward, np.array(terminated, bool), np.array(truncated, bool), {}
        return self._zeros(), np.zeros(self.num_envs), no, no.copy(), self._info()

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Result of `restart` or `restore`, which `envs.vector` calls, for every environment."""
        answers: tuple[Any, ...] = self._restart(*args) if name == "restart" else self._restore(*args)
        return answers

    def close_extras(self, **kwargs: Any) -> None:
        """Close the environments."""
        self.batch.close()

    def _restart(self, episodes: Mapping[int, int]) -> tuple[tuple[Observation, str], ...]:
        """First observation of a new episode, and a new failure or "", of each environment in `episodes`."""
        obs = self._start(max(episodes.values()))
        return tuple(
            ({key: value[place] for key, value in obs.items()}, self._failure) if index in episodes else ({}, "")
            for place, index in enumerate(self.indices)
        )

    def _restore(self, positions: Mapping[int, StreamPosition]) -> tuple[Arrival, ...]:
        """New episodes; the reward of one that had begun is NaN, so that it is not taken for the one asked for."""
        obs = self._start(max(episode for episode, _ in positions.values()))
        begun = [len(positions[index][1]) > 0 for index in self.indices]
        return tuple(
            ({key: value[place] for key, value in obs.items()}, math.nan if begun[place] else 0.0, False, False)
            for place in range(self.num_envs)
        )

    def _start(self, episode: int) -> Observation:
        self._episode, self._failure = episode, ""
        entropy = np.random.SeedSequence([self.seed, self.indices[0], episode]).generate_state(1)[0]
        with self._catching:
            obs, _ = self.batch.reset(seed=int(entropy) & 0x7FFFFFFF)
            found = self._converted(obs)
            self._check(found, np.zeros(self.num_envs))
            return found
        return self._zeros()

    def _info(self) -> dict[str, Any]:
        if not self._failure:
            return {}
        return {"failure": np.array([self._failure] * self.num_envs, object), "_failure": np.ones(self.num_envs, bool)}

    def _converted(self, obs: Any) -> Observation:
        return {key: _leaf_of_all(leaf, obs, self.num_envs) for key, leaf in self._leaves.items()}

    def _check(self, obs: Observation, rewards: np.ndarray) -> None:
        for key, value in obs.items():
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                place = int(np.argwhere(~np.isfinite(value))[0][0])
                raise ValueError(f"observation '{key}' of environment {self.indices[place]} is not finite as float32")
        if not (np.abs(rewards) <= LARGEST_REWARD).all():
            place = int(np.argmin(np.abs(rewards) <= LARGEST_REWARD))
            raise ValueError(f"the reward of environment {self.indices[place]} is {rewards[place]}")

    def _spaces(self) -> dict[str, Any]:
        return dict(self.single_observation_space.spaces)  # type: ignore[attr-defined]

    def _zeros(self) -> Observation:
        return {key: np.zeros((self.num_envs, *space.shape), space.dtype) for key, space in self._spaces().items()}


def checked_batch(batch: Any, size: int) -> VectorEnv:
    """The vector environment; raises UserError unless it has this size and NEXT_STEP autoreset."""
    if not isinstance(batch, VectorEnv):
        kind = type(batch).__name__
        raise UserError(f"a constructor with num_envs must return a gymnasium.vector.VectorEnv, got {kind}")
    if batch.num_envs != size:
        raise UserError(f"the constructor was asked for {size} environment(s) and returned {batch.num_envs}")
    mode = batch.metadata.get("autoreset_mode")
    if mode != AutoresetMode.NEXT_STEP:
        found = getattr(mode, "name", mode)
        raise UserError(
            f"a vector environment must name AutoresetMode.NEXT_STEP in its metadata, and this one has {found}; "
            "otherwise the last observation of an episode does not arrive as a row"
        )
    return batch


def require_batchable(settings: EnvSettings) -> None:
    """Raise UserError for settings that need each environment to be stepped on its own."""
    for name in ("repeat", "time_limit", "cap", "obs", "flicker", "obs_noise"):
        value, default = getattr(settings, name), getattr(DEFAULTS, name)
        if value != default:
            shown = {"cap": "train_time_limit"}.get(name, name)
            raise UserError(
                f"environments that are stepped as one batch cannot have {shown} {value}, only {default}; "
                "let the vector environment do it (tasks by name take its arguments by --env.kwargs)"
            )


def _action_decoder(space: Any) -> Callable[[np.ndarray], np.ndarray]:
    if isinstance(space, spaces.Discrete):
        return lambda actions: (actions + space.start).astype(space.dtype)
    return action_codec(space)[1]


def _leaf_of_all(leaf: Leaf, obs: Any, size: int) -> np.ndarray:
    """Values of one entry of the observations of all environments, converted."""
    for key in leaf.path:
        obs = obs[key]
    values, shape = np.asarray(obs), (size, *leaf.native.shape)
    if values.shape != shape:
        raise ValueError(f"observation '{'/'.join(leaf.path)}' has shape {values.shape}, and not {shape}")
    if leaf.is_plain:
        with np.errstate(over="ignore"):
            return np.array(values, np.float32).reshape(size, -1)
    alone = leaf._replace(path=())
    return np.stack([alone.extract(value) for value in values])


def _arrays(obs: Any) -> Any:
    """Observations whose arrays are those of numpy."""
    if isinstance(obs, Mapping):
        return {key: _arrays(value) for key, value in obs.items()}
    return np.asarray(obs)
