"""Settings that a resumed run may change. Every class of settings names its own in `on_resume`."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from dreamer.config.settings import Config
from dreamer.errors import UserError
from envs.ranges import flag

Effect = Literal["nothing", "rounding", "schedule"]
"""Effect of a change on what is learned: none; other rounding, so that the run is no longer bit-identical to one that
was never interrupted; or another course of the decaying settings."""


def changeable(section: Any = None, prefix: str = "") -> dict[str, Effect]:
    """Return the effect of each setting that a resumed run may change, by dotted path.

    A section stands for all of its settings.
    """
    section = Config() if section is None else section
    found = {f"{prefix}{name}": effect for name, effect in getattr(section, "on_resume", {}).items()}
    for field in dataclasses.fields(section):
        if dataclasses.is_dataclass(inner := getattr(section, field.name)):
            found |= changeable(inner, f"{prefix}{field.name}.")
    return found


def leaves(tree: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Return dotted path and value of every setting in nested dicts."""
    if not isinstance(tree, dict):
        return [(prefix, tree)]
    return [leaf for key, value in tree.items() for leaf in leaves(value, f"{prefix}.{key}" if prefix else key)]


def changes(old: Config, new: Config) -> dict[str, Effect]:
    """Return the settings in which a resumed run differs, and the effect of each.

    Raises `UserError` that names every setting that it may not change, with both values.
    """
    allowed, refused, found = changeable(), [], {}
    before = dict(leaves(dataclasses.asdict(old)))
    for path, value in leaves(dataclasses.asdict(new)):
        if value == before[path]:
            continue
        effect = next((allowed[name] for name in allowed if f"{path}.".startswith(f"{name}.")), None)
        if effect is None:
            refused.append(f"{flag(path)} (it is {before[path]}, not {value})")
        else:
            found[path] = effect
    if refused:
        raise UserError(
            f"a resumed run cannot change {', '.join(refused)}, which changes what is learned; "
            "start a new run; --from gives it the weights of this one"
        )
    return found
