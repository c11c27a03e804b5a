"""Provenance of a run: command line, git commit and package versions."""

from __future__ import annotations

import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from dreamer.system.files import MB
from dreamer.system.redaction import redact_command, redact_source

CODE = Path(__file__).resolve().parent.parent.parent
"""Folder that holds the packages."""
CUT = b"# cut here: there are more changes than 1 MB\n"
VERSIONED = ("torch", "numpy", "gymnasium", "mujoco", "dm-control", "wandb")


def command_line() -> str:
    """The command that started this process, as one would type it, without secrets."""
    return redact_command(shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]))


def commit() -> str:
    """Git commit of the code, with `-dirty` when tracked files differ from it; `unknown` outside a checkout."""
    try:
        dirty = _git("status", "--porcelain", "--untracked-files=no")
        return _git("rev-parse", "HEAD").strip() + ("-dirty" if dirty else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def diff() -> str:
    """Changes of the code since its commit, without secrets and at most `MB` bytes; empty outside a checkout.

    Files that git does not track are not among them. Changes that are cut say so in their last line.
    """
    try:
        changes = _git("diff", "HEAD", "--no-color", "--no-ext-diff", "--no-textconv", "--", ".")
    except (OSError, subprocess.SubprocessError):
        return ""
    data = redact_source(changes).encode(errors="replace")
    if len(data) > MB:
        data = data[: data.rfind(b"\n", 0, MB - len(CUT)) + 1] + CUT
    return data.decode(errors="replace")


def _git(*args: str) -> str:
    """Output of git in the folder of the code."""
    command = ["git", "-C", str(CODE), *args]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", timeout=10, check=True)
    return done.stdout


def package_version(package: str) -> str:
    """Installed version of a distribution, or `not installed`."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
