"""docs/adding_a_core.md does what it says: a copy of the repository with its steps applied has a sixth core."""

import re

import pytest
from guide import blocks, changed_copy, python
from running import tiny_flags

DOCUMENT = "docs/adding_a_core.md"
TARGETS = ["dreamer/dynamics/__init__.py"] * 6 + ["dreamer/presets.py", "tests/test_cores.py"]


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    [source] = blocks(DOCUMENT, "python")
    return changed_copy(tmp_path_factory.mktemp("sixth"), DOCUMENT, TARGETS, {"dreamer/dynamics/lru.py": source})


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
