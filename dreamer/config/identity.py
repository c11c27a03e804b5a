"""Settings that a run uses, and those of them that can change what it learns or how it is evaluated."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from typing import Any

from dreamer.config.composition import size_settings
from dreamer.config.resuming import changeable, leaves
from dreamer.config.settings import Config
from dreamer.dynamics import LATENTS, WIDTHS

NAMES = ("task", "preset", "seed")
"""Settings that do not tell configurations apart: other settings say what a preset is."""
EVALUATION = ("loop.eval_every", "loop.eval_episodes", "loop.eval_limit")
"""Settings that change how a run is evaluated, but not what it learns."""
BY_SIZE = "by size"
"""Value of a setting in `identity` that is the one of the model size."""


def used_settings(config: Config) -> dict[str, Any]:
    """Return every setting that the run uses, by dotted path: none of other cores, objectives or kinds of observations.

    `agent.dynamics.latent` is the family that the core has; it is absent for a core without one.
    """
    dynamics, objective = config.agent.dynamics, config.agent.world_model.representation.objective
    unused = [f"agent.dynamics.{core}" for core in WIDTHS if core != dynamics.core]
    if objective == "reconstruction":
        unused.append("agent.world_model.representation.r2")
    else:
        unused.append("agent.world_model.decoder")
    if not LATENTS[dynamics.core]:
        unused.append("agent.dynamics.latent")
    if not config.env.time_limit:
        unused.append("env.extend_limit")
    if config.task.startswith("dmc:"):
        unused += ["env.encoding"]
        if config.env.obs == "state":
            unused += ["env.image_size", "env.camera", "env.shadows", "agent.world_model.image"]
    prefixes = tuple(f"{path}." for path in unused)
    found = {path: value for path, value in leaves(dataclasses.asdict(config)) if not f"{path}.".startswith(prefixes)}
    if "agent.dynamics.latent" in found:
        found["agent.dynamics.latent"] = dynamics.family
    return found


def used_tree(config: Config) -> dict[str, Any]:
    """Return the used settings as nested dicts."""
    tree: dict[str, Any] = {}
    for path, value in used_settings(config).items():
        *parents, name = path.split(".")
        inner = tree
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[name] = value
    return tree


def group_name(config: Config, start_from: Any = None) -> str:
    """Return one name for all runs that differ in the seed alone; `start_from` is the source of their first weights."""
    known = json.dumps([identity(config), config.task, start_from], sort_keys=True, default=str)
    task = re.sub(r"[^A-Za-z0-9]+", "_", config.task).strip("_")
    digest = hashlib.sha256(known.encode(errors="replace")).hexdigest()[:8]
    return f"{task[:60]}_{config.agent.dynamics.core}_{config.size}_{digest}"


def identity(config: Config) -> dict[str, Any]:
    """Return the used settings that can change learning or evaluation, the task and the seed apart.

    Two runs of one task whose identities are equal are repetitions of each other. A setting whose value is that of the
    model size is `BY_SIZE`, so that configurations of two sizes differ in `size` alone.
    """
    resumable = {path: effect for path, effect in changeable().items() if effect != "schedule"}
    ignored = tuple(f"{path}." for path in (*NAMES, *resumable) if path not in EVALUATION)
    by_size = size_settings(config)
    return {
        path: BY_SIZE if by_size.get(path) == value else value
        for path, value in used_settings(config).items()
        if not f"{path}.".startswith(ignored)
    }
