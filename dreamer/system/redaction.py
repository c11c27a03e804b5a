"""Removal of secrets and control characters from output.

Everything that `dreamer` prints goes through `show` (standard output) or `warn` (standard error). Logs, run.json and
reports use `redact` and `redact_command`.
"""

from __future__ import annotations

import os
import re
import sys

from envs.process import LOST

HIDDEN = "[secret]"
NAME = r"(?:api[-_]?key|access[-_]?key|private[-_]?key|token|secret|passw(?:or)?d|credentials?)"
SECRET_NAME = re.compile(NAME, re.IGNORECASE)
SHAPES = re.compile(
    r"\b(?:gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|hf_[A-Za-z0-9]{20,}|sk-[\w-]{20,}|AKIA[0-9A-Z]{16}"
    r"|xox[abprs]-[\w-]{10,}|wandb_v\d_\w{20,}|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]*)"
    r"|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"
)
"""Tokens with the known formats of their services, and user name and password in a URL."""
ASSIGNED = re.compile(
    rf"(?i)(--[\w.-]*{NAME}[\w.-]*(?:=|\s+)(?!--)|\b\w*{NAME}\w*=)(?!\[secret\])('[^']*'|\"[^\"]*\"|[^\s'\"]+)"
)
"""`--some-token VALUE`, `API_KEY=VALUE` and the like."""
IN_SOURCE = re.compile(
    rf"(?i)(\b\w*{NAME}\w*[\"']?\s*[=:]\s*)(\"[^\"\n]*\"|'[^'\n]*'|(?=[^\s\"'()\[\],]*\d)[^\s\"'()\[\],]{{8,}})"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----(?:.*\n)*?.*-----END [A-Z ]*PRIVATE KEY-----"
)
"""Secrets in source code: a quoted value of such a name, an unquoted one with a digit, and private keys."""
_only_own: list[bool] = []
SHORTEST = 8
"""Least length of an environment variable's value to be redacted. Shorter values occur in ordinary text."""


def redact(text: str) -> str:
    """The text with the values of secret environment variables, and tokens of known formats, replaced by `HIDDEN`."""
    secrets = [value for name, value in os.environ.items() if len(value) >= SHORTEST and SECRET_NAME.search(name)]
    for value in sorted(secrets, key=len, reverse=True):  # a secret may begin with another one
        text = text.replace(value, HIDDEN)
    return SHAPES.sub(HIDDEN, text)


def redact_source(text: str) -> str:
    """The same for source code, configuration files and their differences; other code stays as it is."""
    return IN_SOURCE.sub(lambda found: f"{found[1] or ''}{HIDDEN}", redact(text))


def visible(text: str) -> str:
    r"""The text in one line, with every character that is not printable replaced by an escape.

    Such characters are line breaks, escape sequences and bidirectional controls. The escapes are those of JSON (`\n`,
    `\u001b`), so that a line of JSON stays valid.
    """
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def print_own_lines_only() -> None:
    """Print from now on only `warn(own=True)`: another process prints what all processes of a run have to say."""
    _only_own[:] = [True]


def show(*lines: str) -> None:
    """Print lines on standard output, each of them `visible` and without secrets."""
    if not _only_own:
        _print(lines, "stdout")


def warn(*lines: str, own: bool = False) -> None:
    """Print lines on standard error, each of them `visible` and without secrets.

    `own` lines are about this process alone, where several train one agent.
    """
    if own or not _only_own:
        _print(lines, "stderr")


def _print(lines: tuple[str, ...], name: str) -> None:
    """Print lines; a stream that cannot be written is noted in `LOST`, and one that is closed is left alone."""
    stream = getattr(sys, name)
    if stream is None:
        return
    encoding = getattr(stream, "encoding", None) or "utf-8"
    text = "\n".join(visible(redact(line)) for line in lines)
    whole = redact("\n".join(lines))
    if whole != "\n".join(map(redact, lines)):  # a secret of several lines, such as a private key
        text = visible(whole)
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)
    except (OSError, ValueError) as error:
        LOST.setdefault(name, error)


def _escape(character: str) -> str:
    code = ord(character)
    short = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return short.get(character) or (f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")


def redact_command(command: str) -> str:
    """A command line without secrets: as `redact`, and without values of options whose names suggest a secret."""
    return ASSIGNED.sub(rf"\1{HIDDEN}", redact(command))
