"""Options that are settings of a run: their defaults, and their old names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dreamer.cli.parsing import option_of
from dreamer.config import RENAMED, Config, compose, current_name


def defaults(argv: Sequence[str], preset: str, **changes: Any) -> Config:
    """Return the configuration whose values are the defaults of these options: that of `--preset` and `--size`.

    `preset` is the preset where none is named; `changes` are by dotted path.
    """
    return compose(option_of(argv, "--preset") or preset, option_of(argv, "--size"), **changes)


def with_current_names(argv: Sequence[str], renamed: Mapping[str, str] = RENAMED) -> list[str]:
    """Return the arguments with old names of options replaced: `--name`, `--name=VALUE` and `--section.no-name`."""
    return [_with_current_name(word, renamed) if word.startswith("--") else word for word in argv]


def _with_current_name(word: str, renamed: Mapping[str, str]) -> str:
    option, equals, value = word.removeprefix("--").partition("=")
    section, dot, last = option.replace("-", "_").rpartition(".")
    for no in ("", "no_"):
        path = section + dot + last.removeprefix(no)
        new = current_name(path, renamed)
        if new != path and last.startswith(no):
            new_section, new_dot, new_last = new.rpartition(".")
            return "--" + (new_section + new_dot + no + new_last).replace("_", "-") + equals + value
    return word
