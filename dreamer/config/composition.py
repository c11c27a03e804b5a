"""Configurations from a preset, a size and changes by dotted path, and their validation."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar, get_args

from dreamer.config.renamed import current_name
from dreamer.config.settings import Config, PresetName, SizeName
from dreamer.dynamics import CoreName
from dreamer.errors import UserError
from dreamer.presets import PRESETS, PURPOSES, SIZES
from envs.ranges import checked, flag

T = TypeVar("T")

assert set(PRESETS) == set(PURPOSES) == set(get_args(PresetName)) and set(SIZES) == set(get_args(SizeName))


def compose(preset: str = "quick", size: str | None = None, **changes: Any) -> Config:
    """Return the configuration of a preset, optionally at another size, with changes by dotted path.

    Example: `compose("quick", task="gym:Pendulum-v1", **{"loop.replay_ratio": 64})`. Raises `UserError` for names and
    values that do not exist.
    """
    _check_known("preset", preset, PRESETS)
    settings = PRESETS[preset] | {"preset": preset}
    if size is not None:
        _check_known("size", size, SIZES)
        settings = settings | {"size": size}
    config = _with_size(override(Config(), settings))
    return validated(override(config, changes))


def resized(config: Config, size: SizeName) -> Config:
    """Return the same configuration with networks of another size."""
    _check_known("size", size, SIZES)
    return _with_size(override(config, {"size": size}))


def override(config: T, changes: dict[str, Any]) -> T:
    """Return a copy with fields replaced by dotted path; raises `UserError` for a path that does not exist."""
    for path, value in changes.items():
        config = _replace(config, current_name(path).split("."), value, path)
    return config


def validated(config: Config) -> Config:
    """Return the same configuration; raises `UserError` for a value of a wrong type or out of its range."""
    config = checked(config, flag)
    streams = config.env.num_envs
    for name, number in (("env.num-envs", streams), ("loop.batch-size", config.loop.batch_size)):
        if number % config.devices:
            multiple = f"use a multiple of {config.devices}"
            raise UserError(f"--{name} {number} has no equal shares for --devices {config.devices}; {multiple}")
    starts = streams * max(config.replay.capacity // streams - config.loop.batch_length, 0)
    if starts < config.loop.learning_starts:
        raise UserError(
            f"--replay.capacity {config.replay.capacity} leaves room for {starts} sequences, "
            f"but learning begins at --loop.learning-starts {config.loop.learning_starts}"
        )
    window = getattr(config.agent.dynamics.settings, "window", 0)
    if window > config.loop.batch_length:
        name = f"--agent.dynamics.{config.agent.dynamics.core}.window"
        raise UserError(
            f"{name} {window} is longer than a training sequence, "
            f"--loop.batch-length {config.loop.batch_length}; make it at most as long"
        )
    return config


def size_settings(config: Config) -> dict[str, int]:
    """Return the settings that the model size of this configuration gives, by dotted path."""
    size = SIZES[config.size]
    units = dict.fromkeys(
        [
            "agent.world_model.encoder.units",
            "agent.world_model.decoder.units",
            "agent.world_model.reward.units",
            "agent.world_model.cont.units",
            "agent.behavior.actor.units",
            "agent.behavior.critic.units",
        ],
        size.units,
    ) | {"agent.world_model.image.depth": size.depth}
    widths = {name: getattr(size, name) for name in ("deter", "hidden", "classes")}
    cores = {
        f"agent.dynamics.{core}.{name}": value
        for core in get_args(CoreName)
        for name, value in widths.items()
        if hasattr(getattr(config.agent.dynamics, core), name)
    }
    return units | cores


def _with_size(config: Config) -> Config:
    return override(config, size_settings(config))


def _replace(config: Any, path: list[str], value: Any, full: str) -> Any:
    names = [f.name for f in dataclasses.fields(config)] if dataclasses.is_dataclass(config) else []
    if path[0] not in names:
        raise UserError(f"no setting {full!r}: {path[0]!r} is not one of {', '.join(names)}")
    inner = value if len(path) == 1 else _replace(getattr(config, path[0]), path[1:], value, full)
    return dataclasses.replace(config, **{path[0]: inner})


def _check_known(kind: str, name: str, table: dict[str, Any]) -> None:
    if name not in table:
        raise UserError(f"unknown {kind} {name!r}; choose from {', '.join(table)}")
