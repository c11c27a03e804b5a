"""Provenance of a run: command line, git commit and package versions."""

from __future__ import annotations

import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from dreamer.system.redaction import redact_command

VERSIONED = ("torch", "numpy", "gymnasium", "mujoco", "dm-control", "wandb")


def command_line() -> str:
    """The command that started this process, as one would type it, without secrets."""
    return redact_command(shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]))


def commit() -> str:
    """Git commit of the code, with `-dirty` when tracked files differ from it; `unknown` outside a checkout."""
    root = Path(__file__).resolve().parent.parent

    def git(*args: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *args], capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def package_version(package: str) -> str:
    """Installed version of a distribution, or `not installed`."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
