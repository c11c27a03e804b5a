"""Guides under docs/ as programs: their code blocks, and a copy of the repository to which their diffs are applied."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from running import ROOT


def blocks(document: str, language: str) -> list[str]:
    """The code blocks of one language in a document of the repository."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)


def changed_copy(root: Path, document: str, targets: list[str], files: Mapping[str, str]) -> Path:
    """A copy of the repository in `root` with the diffs of a guide applied, one to each target, and `files` added."""
    for name in ("dreamer", "envs", "tests"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", root)
    for name, text in files.items():
        (root / name).write_text(text)
    for target, hunk in zip(targets, blocks(document, "diff"), strict=True):
        apply(root / target, hunk)
    return root


def apply(path: Path, hunk: str) -> None:
    """Replace the old side of a hunk, which must occur once, by its new side."""
    lines = hunk.splitlines()
    old = "\n".join(line[1:] for line in lines if line[:1] in ("", " ", "-"))
    new = "\n".join(line[1:] for line in lines if line[:1] in ("", " ", "+"))
    text = path.read_text()
    assert text.count(old) == 1, f"{old!r} occurs {text.count(old)} times in {path.name}"
    path.write_text(text.replace(old, new))


def python(copy: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run Python in a copy of the repository, with its code."""
    environment = {"PYTHONPATH": str(copy), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "HOME": str(copy)}
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=600)
