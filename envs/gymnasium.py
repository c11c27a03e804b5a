"""Environments registered with Gymnasium, by id."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec, find_highest_version, load_env_creator

from envs.errors import UserError, import_failure
from envs.spaces import action_codec, observation_leaves

MUJOCO = "gymnasium.envs.mujoco"
DRAWN_BY_PYGAME = ("gymnasium.envs.classic_control", "gymnasium.envs.toy_text", "gymnasium.envs.box2d")


def gym_ids() -> list[str]:
    """Every registered id, including those that cannot be built here."""
    return sorted(gymnasium.registry)


def is_registered(name: str) -> bool:
    """True if `[module:]id` is registered after the module, if any, has been imported.

    Raises UserError where the module cannot be imported.
    """
    module, _, env_id = name.rpartition(":")
    try:
        if module:
            importlib.import_module(module)
    except ImportError as error:
        raise _cannot_build(name, error) from error
    return env_id in gymnasium.registry


def make_gym(name: str) -> gymnasium.Env:
    """Build a registered `[module:]id`, in the render mode `rgb_array` where it has one.

    Raises UserError where a package that the environment needs is missing.
    """
    spec = gymnasium.registry[name.rpartition(":")[2]]
    try:
        return gymnasium.make(spec, disable_env_checker=True, **_drawing(spec))
    except (ImportError, gymnasium.error.DependencyNotInstalled) as error:
        raise _cannot_build(name, error) from error


def drawn_by_mujoco(name: str) -> bool:
    """True if `[module:]id` is one of Gymnasium's own MuJoCo environments, whose frames need OpenGL."""
    spec = gymnasium.registry.get(name.rpartition(":")[2])
    return spec is not None and str(spec.entry_point).startswith(MUJOCO)


def buildable_gym_ids() -> list[str]:
    """Newest version of every registered environment that can be built here and has supported spaces."""
    return [env_id for env_id, spec in sorted(gymnasium.registry.items()) if _newest(spec) and _buildable(spec)]


def _cannot_build(name: str, error: Exception) -> UserError:
    return UserError(f"task 'gym:{name}' cannot be built: {import_failure(error)}")


def _drawing(spec: EnvSpec) -> dict[str, Any]:
    """Argument that makes `render()` return frames; none where the environment cannot."""
    creator: Any = load_env_creator(spec.entry_point) if isinstance(spec.entry_point, str) else spec.entry_point
    modes = getattr(creator, "metadata", {}).get("render_modes", ())
    needs_pygame = str(spec.entry_point).startswith(DRAWN_BY_PYGAME)
    if "rgb_array" not in modes or "render_mode" in spec.kwargs or (needs_pygame and find_spec("pygame") is None):
        return {}
    return {"render_mode": "rgb_array"}


def _newest(spec: EnvSpec) -> bool:
    return spec.version is None or spec.version == find_highest_version(spec.namespace, spec.name)


def _buildable(spec: EnvSpec) -> bool:
    try:
        if isinstance(spec.entry_point, str) and spec.entry_point.startswith(MUJOCO):
            # All their spaces are supported, and building one can leave a MUJOCO_LOG.TXT in the working directory.
            load_env_creator(spec.entry_point)
            return True
        env = gymnasium.make(spec, disable_env_checker=True)
        observation_leaves(env.observation_space), action_codec(env.action_space)
        env.close()
    except Exception:  # constructors of other packages may raise anything
        return False
    return True
