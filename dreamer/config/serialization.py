"""The configuration as JSON in a run folder, read back from this version and from older ones.

A run keeps its meaning when the code gains a setting: where the file has no value for it, the setting takes the value
that reproduces the code from before the setting existed. That is its default, or `metadata={"before": value}` of its
field where the default changes something. One line on standard error says so.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from typing import Any

import pydantic_core

from dreamer.config.renamed import RENAMED
from dreamer.config.settings import Config
from dreamer.errors import UserError
from dreamer.system.redaction import warn
from envs.ranges import flag, parsed

FROM_THE_START = ("task", "preset", "size", "seed", "steps", "device", "env", "loop", "replay", "agent", "tracking")
"""Entries that every version has written; a file without one of them is damaged, not old."""
SHOWN = 4
"""Settings that a message names; it counts the others."""
_said: set[str] = set()
"""Lines already printed by this process: a report reads many runs of the same version."""


def to_json(config: Config) -> str:
    """Return the full configuration as indented JSON."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(text: str | bytes) -> Config:
    """Return the configuration that `to_json` of this version or of an older one wrote, see `from_dict`."""
    try:
        written = pydantic_core.from_json(text)
    except ValueError as error:
        raise UserError(f"the configuration is not JSON: {error}") from None
    if not isinstance(written, dict):
        raise UserError("the configuration is not a JSON object")
    return from_dict(written)


def from_dict(written: dict[str, Any]) -> Config:
    """Return the configuration whose settings are `written` as nested dicts, which may be changed.

    Old names are mapped to the present ones, absent settings take their values from before they existed. Raises
    `UserError` for settings that are unknown here and for impossible values.
    """
    missing = [name for name in FROM_THE_START if name not in written]
    _rename(written)
    absent: dict[str, Any] = {}
    unknown: list[str] = []
    complete = _completed(written, Config(), "", absent, unknown)
    if unknown:
        raise UserError(f"the configuration was written by another version: unknown setting {_with_closest(unknown)}")
    if missing:
        raise UserError(f"the configuration has no {', '.join(missing)}, which every version writes")
    config = parsed(Config, complete, flag)
    if absent and (line := _filled(absent)) not in _said:
        _said.add(line)
        warn(line)
    return config


def _rename(written: dict[str, Any]) -> None:
    """Move the values at old paths to their new ones, in place; an old name beside its new one stays, as unknown."""
    for old, new in RENAMED.items():
        *parents, name = old.split(".")
        *new_parents, new_name = new.split(".")
        source, target = _inner(written, parents), _inner(written, new_parents)
        if source is not None and target is not None and name in source and new_name not in target:
            target[new_name] = source.pop(name)


def _inner(tree: Any, path: list[str]) -> dict[str, Any] | None:
    for name in path:
        tree = tree.get(name) if isinstance(tree, dict) else None
    return tree if isinstance(tree, dict) else None


def _completed(
    written: dict[str, Any], default: Any, prefix: str, absent: dict[str, Any], unknown: list[str]
) -> dict[str, Any]:
    """Return the settings as written, with `absent` ones filled in; names that `default` lacks go to `unknown`."""
    fields = {field.name: field for field in dataclasses.fields(default)}
    unknown += [f"{prefix}{name}" for name in written if name not in fields]
    complete = dict(written)
    for name, field in fields.items():
        path, value = f"{prefix}{name}", getattr(default, name)
        if not dataclasses.is_dataclass(value):
            if name not in written:
                complete[name] = absent[path] = field.metadata.get("before", value)
        elif isinstance(section := written.get(name, {}), dict):
            complete[name] = _completed(section, value, f"{path}.", absent, unknown)
    return complete


def _with_closest(unknown: list[str]) -> str:
    known: dict[str, Any] = {}
    _completed({}, Config(), "", known, [])
    section, _, name = unknown[0].rpartition(".")
    siblings = {path.rpartition(".")[2]: path for path in known if path.rpartition(".")[0] == section}
    closest = [siblings[match] for match in difflib.get_close_matches(name, siblings, n=2)]
    hint = f" (closest: {', '.join(closest)})" if closest else ""
    return f"{unknown[0]}{hint}{f' and {len(unknown) - 1} more' if len(unknown) > 1 else ''}"


def _filled(absent: dict[str, Any]) -> str:
    more = len(absent) - SHOWN
    names, values = list(absent)[:SHOWN], [json.dumps(value) for value in absent.values()][:SHOWN]
    if more > 0:
        names, values = [*names[:-1], f"{names[-1]} and {more} more"], [*values, "..."]
    existed = "it existed" if len(absent) == 1 else "they existed"
    return f"the run's configuration has no {', '.join(names)}: using {', '.join(values)}, as before {existed}"
