"""The wrappers of every environment that an agent is trained in; `prepare` applies them in the right order."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit

from envs.dmc import DMC
from envs.episodes import SeededEpisodes
from envs.errors import UserError
from envs.interface import Observation
from envs.partial import partially_observed
from envs.pixels import Pixels
from envs.settings import DEFAULTS, EnvSettings
from envs.spaces import action_codec, observation_leaves, unsupported


def prepare(
    env: gymnasium.Env, settings: EnvSettings = DEFAULTS, *, seed: int, index: int, **changes: Any
) -> gymnasium.Env:
    """Wrap any supported environment so that an agent can be trained in it.

    Observations become a Dict of float32 vectors, one-hot vectors and uint8 images with sorted keys, and actions
    Box(-1, 1, [n]) or Discrete(n). Episodes are seeded from (seed, index, episode). `changes` are settings by name.
    Raises UserError for spaces that are not supported, for names of observations and settings that do not exist, for
    values out of range, and for `camera` and `shadows`, which only dmc tasks have.
    """
    settings = settings.changed(changes)
    if settings.kwargs:
        raise UserError("kwargs are for tasks by name; an environment of your own takes its arguments from your code")
    if not isinstance(env, gymnasium.Env):
        raise UserError(f"an environment must be a gymnasium.Env, got {type(env).__module__}.{type(env).__qualname__}")
    refuse_drawing_settings(settings, "your own environment")
    return wrapped(env, settings, seed=seed, index=index)


def wrapped(env: gymnasium.Env, settings: EnvSettings, *, seed: int, index: int) -> gymnasium.Env:
    """An environment in all the wrappers that its settings require, in the right order."""
    env = Interface(env)
    if settings.extend_limit and settings.time_limit:
        _extend(env, settings.time_limit)
    limit = min(filter(None, (settings.time_limit, settings.cap)), default=0)
    env = TimeLimit(env, max_episode_steps=limit) if limit else env
    env = named = NamedObservations(NormalizedActions(ActionRepeat(env, settings.repeat)), settings)
    if settings.obs != "state":
        env = Pixels(env, settings.image_size, keep=settings.obs == "both")
    hidden = tuple(name for name in settings.hide if name not in named.left_out)
    return SeededEpisodes(partially_observed(env, replace(settings, hide=hidden)), seed=seed, index=index)


def refuse_drawing_settings(settings: EnvSettings, what: str) -> None:
    """Raise UserError if a setting is used that only dmc tasks have, for `what`, which is not one of them."""
    if settings.camera is not None or not settings.shadows:
        raise UserError(f"camera and shadows are settings of dmc tasks only, not of {what}")


def _extend(env: Any, limit: int) -> None:
    """Raise shorter limits of wrappers and of dmc tasks; raises UserError for one in the environment's own code."""
    while isinstance(env, gymnasium.Wrapper):
        if 0 < (vars(env).get("_max_episode_steps") or 0) < limit:  # as in Gymnasium's TimeLimit
            env._max_episode_steps = limit  # type: ignore[attr-defined]
        env = env.env
    if isinstance(env, DMC):
        env.extend(limit)
    for name in ("max_steps", "max_episode_steps"):
        own = vars(env).get(name)
        if isinstance(own, int) and 0 < own < limit:
            raise UserError(
                f"time_limit {limit} is longer than the environment's own {name} {own}; raise that (tasks by name: "
                f"--env.kwargs {name}={limit}), or lower time_limit (0 keeps the environment's limit)"
            )


class Interface(gymnasium.Wrapper):
    """Check what an environment has and returns: two spaces, and results of the form of Gymnasium's.

    Raises UserError for missing spaces, and ValueError for a result of another form.
    """

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        for name in ("observation_space", "action_space"):
            space = getattr(env, name, None)
            if not isinstance(space, spaces.Space):
                raise UserError(f"the environment's {name} must be a space of gymnasium.spaces, got {space!r}")

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        result: Any = self.env.reset(seed=seed, options=options)
        if not isinstance(result, tuple) or len(result) != 2:
            raise ValueError(f"reset() must return (observation, info), got {_form(result)}")
        return result

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        result: Any = self.env.step(action)
        if not isinstance(result, tuple) or len(result) != 5:
            raise ValueError(
                f"step() must return (observation, reward, terminated, truncated, info), got {_form(result)}"
            )
        obs, reward, terminated, truncated, info = result
        return obs, _reward(reward), _flag("terminated", terminated), _flag("truncated", truncated), info


def _form(result: Any) -> str:
    return f"a tuple of {len(result)}" if isinstance(result, tuple) else type(result).__name__


def _reward(reward: Any) -> float:
    if not hasattr(reward, "__float__") or np.ndim(reward):
        shape = f" of shape {np.shape(reward)}" if np.ndim(reward) else ""
        raise ValueError(f"the reward must be a number, got {type(reward).__name__}{shape}")
    try:
        return float(reward)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"the reward must be a number: {error}") from None


def _flag(name: str, value: Any) -> bool:
    if value is None or not hasattr(value, "__bool__") or np.ndim(value):
        raise ValueError(f"{name} must be True or False, got {value!r}")
    return bool(value)


class ActionRepeat(gymnasium.Wrapper):
    """Take each action `repeat` times, add up the rewards and stop at the end of the episode."""

    def __init__(self, env: gymnasium.Env, repeat: int) -> None:
        super().__init__(env)
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
        return obs, total, terminated, truncated, info


class NormalizedActions(gymnasium.ActionWrapper):
    """Map actions, clipped to [-1, 1], to native bounds where both are finite; discrete actions count from 0."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self.action_space, self._decode = action_codec(env.action_space)

    def action(self, action: Any) -> Any:
        return self._decode(action)


class NamedObservations(gymnasium.ObservationWrapper):
    """Return observations as a flat dict of vectors, one-hot vectors and images in alphabetical order of the keys."""

    def __init__(self, env: gymnasium.Env, settings: EnvSettings) -> None:
        super().__init__(env)
        self.left_out = unsupported(env.observation_space) & set(settings.hide)
        # Frames alone need none of the environment's own observations, which may be of any kind.
        self._leaves = {} if settings.obs == "pixels" else observation_leaves(env.observation_space, settings)
        self.observation_space = spaces.Dict({key: leaf.space for key, leaf in self._leaves.items()})

    def observation(self, observation: Any) -> Observation:
        return {key: leaf.extract(observation) for key, leaf in self._leaves.items()}
