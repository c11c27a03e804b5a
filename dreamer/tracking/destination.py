"""W&B server, entity and project: what the user's own places name, and what only a run folder does."""

from __future__ import annotations

import configparser
import os
import shlex
from collections.abc import Collection
from pathlib import Path

from dreamer.tracking.config import TrackingConfig

SETTINGS = ("entity", "project")
"""Settings of a run that say where in an account its data go."""


MOST = 100_000
"""Characters of a settings file that are read."""


def own_settings() -> dict[str, str]:
    """`base_url`, `entity` and `project` as the user's environment names them, or else the user's W&B settings file."""
    named = _settings_in(own_settings_file())
    variables = {name: os.environ.get(f"WANDB_{name.upper()}", "") for name in ("base_url", *SETTINGS)}
    return named | {name: value for name, value in variables.items() if value}


def own_settings_file() -> Path:
    """W&B's settings file of the user."""
    folder = os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb"
    return Path(folder).expanduser() / "settings"


def settings_here() -> dict[str, str]:
    """The same as a settings file in the current folder names them, which W&B would obey and somebody else may own."""
    return _settings_in(Path(".wandb/settings")) | _settings_in(Path("wandb/settings"))


def foreign(tracking: TrackingConfig, named: Collection[str] = ()) -> dict[str, str]:
    """W&B entity and project that nobody but the run folder names: `wandb-entity` or `wandb-project` -> value.

    `named` are words of the user's, such as `wandb-entity=my-team`.
    """
    own, usual = own_settings(), TrackingConfig()
    found = {}
    for setting in SETTINGS:
        value = getattr(tracking, f"wandb_{setting}")
        known = ("", getattr(usual, f"wandb_{setting}"), own.get(setting))
        if value not in known and f"wandb-{setting}={value}" not in named:
            found[f"wandb-{setting}"] = value
    return found


def flags(found: dict[str, str], prefix: str = "--tracking.") -> str:
    """The options by which the user names these settings."""
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
