"""Types and ranges of a configuration; every violation is one line that names the option."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from pydantic import TypeAdapter, ValidationError

from dreamer.config.settings import Config
from dreamer.errors import UserError


def validated(config: Config) -> Config:
    """Return the same configuration; raises `UserError` for a value of a wrong type or out of its range."""
    config = parsed(dataclasses.asdict(config))
    streams = config.env.num_envs
    starts = streams * max(config.replay.capacity // streams - config.loop.batch_length, 0)
    if starts < config.loop.learning_starts:
        raise UserError(
            f"--replay.capacity {config.replay.capacity} leaves room for {starts} sequences, "
            f"but learning begins at --loop.learning-starts {config.loop.learning_starts}"
        )
    return config


def parsed(values: dict[str, Any]) -> Config:
    """Return the configuration with these nested values; raises `UserError` for the first that is impossible."""
    try:
        config = TypeAdapter(Config).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        message = first["msg"][0].lower() + first["msg"][1:]
        raise UserError(f"{flag('.'.join(map(str, first['loc'])))}: {message} (got {first['input']!r})") from None
    for path, value in leaves(dataclasses.asdict(config)):
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{flag(path)}: must be a finite number (got {value})")
    return config


def leaves(tree: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Return dotted path and value of every setting in nested dicts."""
    if not isinstance(tree, dict):
        return [(prefix, tree)]
    return [leaf for key, value in tree.items() for leaf in leaves(value, f"{prefix}.{key}" if prefix else key)]


def flag(path: str) -> str:
    """Return the option of a setting by its dotted path."""
    return "--" + path.replace("_", "-")
