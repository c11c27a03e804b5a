"""docs/adding_a_core.md does what it says: a copy of the repository with its steps applied has a sixth core."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from running import ROOT, tiny_flags

DOCUMENT = (ROOT / "docs" / "adding_a_core.md").read_text()
TARGETS = ["dreamer/dynamics/__init__.py"] * 6 + ["dreamer/presets.py", "tests/test_cores.py"]


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", DOCUMENT, re.DOTALL)


def apply(path: Path, hunk: str) -> None:
    """Replace the old side of a hunk, which must occur once, by its new side."""
    lines = hunk.splitlines()
    old = "\n".join(line[1:] for line in lines if line[0] in " -")
    new = "\n".join(line[1:] for line in lines if line[0] in " +")
    text = path.read_text()
    assert text.count(old) == 1, f"{old!r} occurs {text.count(old)} times in {path.name}"
    path.write_text(text.replace(old, new))


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    root = tmp_path_factory.mktemp("sixth")
    for name in ("dreamer", "envs", "tests"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", root)
    [source] = blocks("python")
    (root / "dreamer" / "dynamics" / "lru.py").write_text(source)
    hunks = blocks("diff")
    assert len(hunks) == len(TARGETS)
    for target, hunk in zip(TARGETS, hunks, strict=True):
        apply(root / target, hunk)
    return root


def python(copy, *words):
    environment = {"PYTHONPATH": str(copy), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "HOME": str(copy)}
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
def test_the_new_core_keeps_the_contract(copy):
    result = python(
        copy, "-m", "pytest", "-q", "tests/test_cores.py", "-k", "lru", "-m", "not compiled", "-p", "no:cacheprovider"
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-2000:]
    assert int(re.search(r"(\d+) passed", result.stdout)[1]) >= 30


@pytest.mark.slow
def test_the_new_core_trains_with_matched_parameters(copy):
    flags = tiny_flags(steps=80)
    result = python(copy, "-m", "dreamer", "train", *flags, "--core", "lru", "--run-dir", "run")
    assert result.returncode == 0, result.stderr[-3000:]
    assert (copy / "run" / "curve.png").exists()
    assert '"core": "lru"' in (copy / "run" / "config.json").read_text()
