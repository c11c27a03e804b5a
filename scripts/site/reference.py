"""Reference of the documentation site: commands, settings and modules; a hook that mkdocs.yml names.

Commands and settings are made from the parser of each command, modules by mkdocstrings from their docstrings.
"""

from __future__ import annotations

import argparse
import contextlib
import html
import re
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

import tyro
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from dreamer.cli.main import COMMANDS, main
from dreamer.presets import PRESETS

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = """\
# Settings

The settings of a run are flags of `dreamer train`, and of `dreamer ablate` and `dreamer bench`. From Python they are
arguments of `dreamer.compose` by dotted path: `dreamer.compose("quick", **{"loop.batch_size": 16})`. The values in
brackets are those of the preset `quick`; the [other presets](#presets) change them.
"""


def on_config(config: MkDocsConfig) -> None:
    """Append the reference to the navigation."""
    pages = [{"Commands": "reference/commands.md"}, {"Settings": "reference/settings.md"}, {"Metrics": "metrics.md"}]
    modules = [{package: f"reference/{package}.md"} for package in packages()]
    config.nav = [*(config.nav or []), {"Reference": [*pages, {"Modules": modules}]}]


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the pages of the reference."""
    parsers = command_parsers()
    settings = parsers["train"]._action_groups[2:]  # without positional arguments and options of the command itself
    shared = {group.title for group in settings}
    commands = "\n".join(command(name, parser, shared) for name, parser in parsers.items())
    pages = {
        "reference/commands.md": f"# Commands\n\n{commands}",
        "reference/settings.md": "\n".join([SETTINGS, *map(section, settings), presets()]),
    }
    for package, modules in packages().items():
        pages[f"reference/{package}.md"] = "\n\n".join([f"# {package}", *(f"::: {module}" for module in modules)])
    for uri, text in pages.items():
        files.append(File.generated(config, uri, content=text))


def packages() -> dict[str, list[str]]:
    """Return the modules of every package."""
    found: dict[str, list[str]] = {}
    for path in sorted([*ROOT.glob("dreamer/**/*.py"), *ROOT.glob("envs/**/*.py")]):
        *names, last = path.relative_to(ROOT).with_suffix("").parts
        if last != "__main__":
            found.setdefault(".".join(names), []).append(".".join(names if last == "__init__" else [*names, last]))
    return found


def command_parsers() -> dict[str, argparse.ArgumentParser]:
    """Return the parser of every command, in place of the help that it would print."""
    parsers: dict[str, argparse.ArgumentParser] = {}

    def keep(kind: Any, *, args: Any, **options: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            parsers[name] = tyro.extras.get_parser(kind, **options)
        raise SystemExit

    with mock.patch("tyro.cli", keep):
        for name in COMMANDS:
            with contextlib.suppress(SystemExit):
                main([name, "--help-all"])
    return parsers


def command(name: str, parser: argparse.ArgumentParser, shared: set[str | None]) -> str:
    """Return the section of a command; settings of a run are a link."""
    own = "".join(options(group) for group in parser._action_groups if group.title not in shared)
    more = "Also all [settings](settings.md).\n" if any(g.title in shared for g in parser._action_groups) else ""
    return f"## dreamer {name}\n\n{escaped(parser.description)}\n\n{own}{more}"


def section(group: Any) -> str:
    """Return the section of a group of settings."""
    return f"## {group.title.removesuffix(' options')}\n\n{escaped(group.description)}\n\n{options(group)}"


def options(group: Any) -> str:
    """Return the options of a group as a definition list."""
    return "".join(
        f"`{' '.join([', '.join(action.option_strings) or action.dest, values(action.metavar)]).strip()}`\n"
        f":   {escaped(action.help)}\n\n"
        for action in group._group_actions
        if "--help" not in action.option_strings
    )


def values(metavar: str | None) -> str:
    """Return the values that an option takes."""
    return (metavar or "").replace("{None}|", "").strip("{}").replace(",", " | ")


def presets() -> str:
    """Return the section of the presets."""
    lists = [
        f"`{name}`\n:   `{' '.join(flag(*change) for change in changes.items())}`\n"
        for name, changes in PRESETS.items()
    ]
    return "\n".join(["## Presets\n", *lists])


def flag(path: str, value: Any) -> str:
    """Return the flag that gives a setting a value."""
    section, dot, last = path.replace("_", "-").rpartition(".")
    if isinstance(value, bool):
        return f"--{section}{dot}{'' if value else 'no-'}{last}"
    return f"--{section}{dot}{last} {value}"


def escaped(words: str | None) -> str:
    """Return a help text as Markdown on one line."""
    parts = re.split(r"(`[^`]*`)", " ".join((words or "").replace("%%", "%").split()))
    return "".join(part if part.startswith("`") else re.sub(r"([*_[])", r"\\\1", html.escape(part)) for part in parts)
