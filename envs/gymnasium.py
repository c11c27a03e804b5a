"""Environments registered with Gymnasium, by id."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec, VectorizeMode, find_highest_version, load_env_creator
from gymnasium.vector import VectorEnv

from envs.errors import UserError
from envs.rendering import before_building
from envs.spaces import action_codec, observation_leaves

MUJOCO = "gymnasium.envs.mujoco"
DRAWN_BY_PYGAME = ("gymnasium.envs.classic_control", "gymnasium.envs.toy_text", "gymnasium.envs.box2d")


def gym_ids() -> list[str]:
    """Every registered id, including those that cannot be built here."""
    return sorted(gymnasium.registry)


def gym_vector_ids() -> list[str]:
    """Every registered id with a batched version."""
    return sorted(env_id for env_id, spec in gymnasium.registry.items() if spec.vector_entry_point is not None)


def is_registered(name: str) -> bool:
    """True if `[module:]id` is registered after the module, if any, has been imported.

    The import may fail in any way.
    """
    module, _, env_id = name.rpartition(":")
    if module:
        importlib.import_module(module)
    return env_id in gymnasium.registry


def make_gym(name: str, arguments: Mapping[str, Any], drawn: bool) -> gymnasium.Env:
    """Build a registered `[module:]id`, in the render mode `rgb_array` where it has one.

    `arguments` are those of its constructor, which may fail in any way. `drawn` is true where frames are observed;
    then a rendering backend is selected first, unless pygame draws them.
    """
    spec = gymnasium.registry[name.rpartition(":")[2]]
    known = str(spec.entry_point).startswith(DRAWN_BY_PYGAME if drawn else "gymnasium.")
    if not known:
        before_building(drawn)
    creator: Any = load_env_creator(spec.entry_point) if isinstance(spec.entry_point, str) else spec.entry_point
    if not known:
        before_building(drawn)  # its module may have imported MuJoCo
    return gymnasium.make(spec, disable_env_checker=True, **{**_drawing(spec, creator), **arguments})


def make_gym_vector(name: str, arguments: Mapping[str, Any], num_envs: int) -> VectorEnv:
    """Build the batched version of a registered `[module:]id`; one of one environment draws frames if it can.

    Raises UserError for an id without one. Its constructor may fail in any way.
    """
    spec = gymnasium.registry[name.rpartition(":")[2]]
    if spec.vector_entry_point is None:
        raise UserError(f"{spec.id} has no batched version (a vector_entry_point); use gym:{name}")
    entry, mode = spec.vector_entry_point, VectorizeMode.VECTOR_ENTRY_POINT
    drawing = _drawing(spec, load_env_creator(entry) if isinstance(entry, str) else entry) if num_envs == 1 else {}
    return gymnasium.make_vec(spec, num_envs=num_envs, vectorization_mode=mode, **{**drawing, **arguments})


def buildable_gym_ids() -> list[str]:
    """Newest version of every registered environment that can be built here and has supported spaces."""
    return [env_id for env_id, spec in sorted(gymnasium.registry.items()) if _newest(spec) and _buildable(spec)]


def _drawing(spec: EnvSpec, creator: Any) -> dict[str, Any]:
    """Argument that makes `render()` return frames; none where the environment cannot."""
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
