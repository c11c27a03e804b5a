"""Text on its way out: secrets never reach a log, run.json, a report or a terminal, and no text steers a terminal.

All that `dreamer` prints goes through `show` (standard output) or `warn` (standard error).
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from typing import Any

HIDDEN = "[secret]"
NAME = r"(?:api[-_]?key|access[-_]?key|private[-_]?key|token|secret|passw(?:or)?d|credentials?)"
SECRET_NAME = re.compile(NAME, re.IGNORECASE)
SHAPES = re.compile(
    r"\b(?:gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|hf_[A-Za-z0-9]{20,}|sk-[\w-]{20,}|AKIA[0-9A-Z]{16}"
    r"|xox[abprs]-[\w-]{10,}|wandb_v\d_\w{20,}|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]*)"
    r"|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"
)
"""Tokens that their services made recognisable, and name and password in an address."""
ASSIGNED = re.compile(
    rf"(?i)(--[\w.-]*{NAME}[\w.-]*(?:=|\s+)(?!--)|\b\w*{NAME}\w*=)(?!\[secret\])('[^']*'|\"[^\"]*\"|[^\s'\"]+)"
)
"""`--some-token VALUE`, `API_KEY=VALUE` and the like."""
SHORTEST = 8
"""Values of environment variables that are shorter would be found everywhere."""


def redact(text: str) -> str:
    """The text with the values of secret environment variables, and tokens of known formats, replaced by `HIDDEN`."""
    secrets = [value for name, value in os.environ.items() if len(value) >= SHORTEST and SECRET_NAME.search(name)]
    for value in sorted(secrets, key=len, reverse=True):  # a secret may begin with another one
        text = text.replace(value, HIDDEN)
    return SHAPES.sub(HIDDEN, text)


def visible(text: str) -> str:
    r"""The text on one line; line breaks, escape sequences, bidirectional controls and their like become escapes.

    The escapes are those of JSON (`\n`, `\u001b`), so that a line of JSON stays one.
    """
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def show(*lines: str) -> None:
    """Print lines on standard output, each of them `visible` and without secrets."""
    _print(lines, sys.stdout)


def warn(*lines: str) -> None:
    """Print lines for the person at the keyboard, on standard error, each of them `visible` and without secrets."""
    _print(lines, sys.stderr)


def _print(lines: Iterable[str], stream: Any) -> None:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    text = "\n".join(visible(redact(line)) for line in lines)
    print(text.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)


def _escape(character: str) -> str:
    code = ord(character)
    short = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return short.get(character) or (f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")


def redact_command(command: str) -> str:
    """A command line without secrets: as `redact`, and without the values of options that are named like one."""
    return ASSIGNED.sub(rf"\1{HIDDEN}", redact(command))
