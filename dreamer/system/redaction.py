"""Secrets in text: what must never reach a log, a configuration, run.json or a report."""

from __future__ import annotations

import os
import re
import sys

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
    """The text without the values of secret environment variables, and without what looks like a token."""
    for name, value in os.environ.items():
        if len(value) >= SHORTEST and SECRET_NAME.search(name):
            text = text.replace(value, HIDDEN)
    return SHAPES.sub(HIDDEN, text)


def tell(message: str) -> None:
    """Print a line for the person at the keyboard, without secrets that it may quote."""
    print(redact(message), file=sys.stderr)


def redact_command(command: str) -> str:
    """A command line without secrets: as `redact`, and without the values of options that are named like one."""
    return ASSIGNED.sub(rf"\1{HIDDEN}", redact(command))
