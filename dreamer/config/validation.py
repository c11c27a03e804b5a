"""Types and ranges of a configuration; every violation is one line that names the option."""

from __future__ import annotations

from typing import Any

from dreamer.config.settings import Config
from dreamer.errors import UserError
from envs.ranges import checked, flag


def validated(config: Config) -> Config:
    """Return the same configuration; raises `UserError` for a value of a wrong type or out of its range."""
    config = checked(config, flag)
    streams = config.env.num_envs
    starts = streams * max(config.replay.capacity // streams - config.loop.batch_length, 0)
    if starts < config.loop.learning_starts:
        raise UserError(
            f"--replay.capacity {config.replay.capacity} leaves room for {starts} sequences, "
            f"but learning begins at --loop.learning-starts {config.loop.learning_starts}"
        )
    return config


def leaves(tree: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Return dotted path and value of every setting in nested dicts."""
    if not isinstance(tree, dict):
        return [(prefix, tree)]
    return [leaf for key, value in tree.items() for leaf in leaves(value, f"{prefix}.{key}" if prefix else key)]
