"""W&B server, entity and project: the user's own settings, and those that only a folder names."""

from __future__ import annotations

import configparser
import dataclasses
import os
import shlex
from collections.abc import Collection
from pathlib import Path
from typing import Annotated

from annotated_types import MaxLen, Predicate

from dreamer.errors import UserError
from dreamer.system.files import read_json
from dreamer.tracking.config import TrackingConfig

Printable = Annotated[str, MaxLen(1000), Predicate(str.isprintable)]
SETTINGS = ("entity", "project")
"""Settings of a run that choose where in a W&B account its data are stored."""
PROJECT = "dreamer"
"""W&B project of runs for which neither their settings nor W&B's own name one."""
PLACE = "wandb_run.json"
"""File of a run folder that names the project, and perhaps the entity, of its W&B run."""
DIFF = "diff.patch"
"""File of the uncommitted changes of the code, in a run folder and in a W&B run, where W&B looks for this name."""
MOST = 100_000
"""Largest number of characters that are read of a settings file."""


def own_settings() -> dict[str, str]:
    """`base_url`, `entity` and `project` from environment variables, or else from the user's W&B settings file."""
    named = _settings_in(own_settings_file())
    variables = {name: os.environ.get(f"WANDB_{name.upper()}", "") for name in ("base_url", *SETTINGS)}
    return named | {name: value for name, value in variables.items() if value}


def own_settings_file() -> Path:
    """W&B's settings file of the user."""
    folder = os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb"
    return Path(folder).expanduser() / "settings"


def settings_here() -> dict[str, str]:
    """`base_url`, `entity` and `project` from W&B settings files in the current folder, which are not trusted."""
    return _settings_in(Path(".wandb/settings")) | _settings_in(Path("wandb/settings"))


def own_group_and_tags() -> tuple[str, tuple[str, ...]]:
    """Group and tags of W&B's variables, for runs whose own are made up: those of an ablation."""
    tags = os.environ.get("WANDB_TAGS", "").split(",")
    return os.environ.get("WANDB_RUN_GROUP", ""), tuple(tag for tag in tags if tag)


def as_kept(tracking: TrackingConfig, run_dir: Path, named: Collection[str] = ()) -> TrackingConfig:
    """The settings with project and entity of the W&B run that the folder's data went to, if it is known.

    Settings such as `wandb-entity` that are `named` stay as they are.
    """
    if tracking.wandb == "off" or not (run_dir / PLACE).is_file():
        return tracking
    try:
        kept = read_json(run_dir / PLACE, dict[str, Printable])
    except UserError as error:
        raise UserError(f"{error}; delete it to log to the configured W&B project") from None
    found = {f"wandb_{name}": kept[name] for name in SETTINGS if kept.get(name) and f"wandb-{name}" not in named}
    return dataclasses.replace(tracking, **found)  # type: ignore[arg-type]


def foreign(tracking: TrackingConfig, named: Collection[str] = ()) -> dict[str, str]:
    """W&B entity and project that only the run folder names, as `wandb-entity` or `wandb-project` -> value.

    `named` are the settings that the user has confirmed, such as `wandb-entity=my-team`.
    """
    own, found = own_settings(), {}
    for setting in SETTINGS:
        value = getattr(tracking, f"wandb_{setting}")
        known = ("", own.get(setting), *([PROJECT] if setting == "project" else []))
        if value not in known and f"wandb-{setting}={value}" not in named:
            found[f"wandb-{setting}"] = value
    return found


def flags(found: dict[str, str], prefix: str = "--tracking.") -> str:
    """Command-line options that confirm the settings `found`, with a leading space; "" for none."""
    return "".join(f" {prefix}{name} {shlex.quote(value)}" for name, value in found.items())


def _settings_in(path: Path) -> dict[str, str]:
    parser = configparser.ConfigParser()
    try:
        if not path.is_file():  # a pipe would block
            return {}
        with open(path, encoding="utf-8") as file:
            parser.read_string(file.read(MOST))
        found = dict(parser.items("default"))
    except (OSError, ValueError, configparser.Error):  # W&B ignores such a file, too
        return {}
    return {name: value for name, value in found.items() if name in ("base_url", *SETTINGS) and value}
