"""The repository keeps its word: what is installed is pinned, and what is tracked is small and of no one machine."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent


@functools.cache
def tracked_files() -> list[Path]:
    """Files that git tracks or would add."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def pins() -> dict[str, str]:
    """Name and version of every line of constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    split = [line.split("==") for line in lines if line.strip() and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in split}


RAY = {"ray", "msgpack"}
"""Pins of the extra `ray`, which is too large for the environment of the tests; its other needs are those of others."""


def required() -> dict[str, str]:
    """Name and installed version of all that the project and its other extras need on this platform."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [lines for name, lines in project["optional-dependencies"].items() if name != "ray"]
    named = [Requirement(line) for line in [*project["dependencies"], *(line for extra in extras for line in extra)]]
    queue = [need for need in named if need.marker is None or need.marker.evaluate()]
    versions: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    while queue:
        requirement = queue.pop()
        found = distribution(requirement.name)
        name = canonicalize_name(requirement.name)
        versions[name] = found.version.partition("+")[0]
        for extra in {"", *requirement.extras} - {extra for known, extra in seen if known == name}:
            seen.add((name, extra))
            needs = [Requirement(line) for line in found.requires or []]
            queue += [need for need in needs if need.marker is None or need.marker.evaluate({"extra": extra})]
    return versions


def test_all_that_is_installed_is_pinned() -> None:
    pinned = pins()
    assert {name: version for name, version in required().items() if pinned.get(name) != version} == {}


def test_nothing_else_is_pinned() -> None:
    """The libraries of CUDA builds are pinned on machines without one, and what Python 3.13 and later lack."""
    others = (
        pins().keys() - required().keys() - RAY - ({"dm-control", "labmaze"} if sys.version_info >= (3, 13) else set())
    )
    assert {name for name in others if not re.match(r"nvidia-|cuda-|triton$", name)} == set()


def test_no_large_file_is_tracked() -> None:
    assert [str(path.relative_to(ROOT)) for path in tracked_files() if path.stat().st_size > 1_000_000] == []


def test_no_file_names_a_folder_of_one_machine() -> None:
    here = [re.escape(str(ROOT))] if len(ROOT.parts) > 2 else []
    folders = "|".join([*here, "/root", r"/home/\w+", r"/Users/\w+", r"[A-Z]:\\Users"])
    personal = re.compile(rf"(?<![\w.])(?:{folders})(?=[/\\])".encode())
    found = []
    for path in tracked_files():
        content = path.read_bytes()
        if b"\0" not in content:
            found += [f"{path.relative_to(ROOT)}: {match[0].decode()}" for match in personal.finditer(content)]
    assert found == []


def test_what_runs_on_a_commit_or_a_push_is_what_the_repository_has() -> None:
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    assert re.findall(r"run: (bash \S+)", workflow) == ["bash .ci/run"] and (ROOT / ".ci" / "run").exists()
    python = re.search(r'python-version: "(\d+\.\d+)"', workflow)
    assert python is not None and python[1] in {"3.11", "3.12", "3.13", "3.14"}
    hooks = re.findall(r"entry: (.+)", (ROOT / ".pre-commit-config.yaml").read_text())
    assert [hook.split()[:4] for hook in hooks] == [
        [".venv/bin/python", "-m", "ruff", command] for command in ("check", "format")
    ]


def test_the_citation_names_the_version_and_the_license_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = (ROOT / "CITATION.cff").read_text()
    assert re.findall(r"^(version|license): (.+)$", citation, re.MULTILINE) == [
        ("version", project["version"]),
        ("license", project["license"]),
    ]
    assert f"## {project['version']}" in (ROOT / "CHANGELOG.md").read_text()


def test_slow_tests_that_are_named_exist() -> None:
    for entry in (ROOT / "tests" / "slow.txt").read_text().split():
        file, _, name = entry.partition("::")
        text = (ROOT / "tests" / file).read_text()
        assert not name or re.search(rf"^def {name}\(", text, re.MULTILINE), f"slow.txt names {entry}"
