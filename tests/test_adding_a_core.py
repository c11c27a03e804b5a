"""docs/adding_a_core.md does what it says: a copy of the repository with its steps applied has a sixth core."""

import json
import re

import pytest
from guide import blocks, changed_copy, python
from running import tiny_config, tiny_flags
from tiny import unchecked

import dreamer

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


@pytest.mark.slow
def test_runs_made_before_the_new_core_are_evaluated_resumed_and_reported(copy):
    """They lack the settings of the new core, which a line says; nothing else changes for them."""
    with unchecked():
        dreamer.train(tiny_config(steps=80), run_dir=copy / "runs" / "earlier")
    evaluate = ["evaluate", "runs/earlier", "--episodes", "1"]
    resume = ["train", "--resume", "runs/earlier", "--steps", "120"]
    commands = [evaluate, resume, ["report", "runs/earlier"], ["report", "runs"]]
    result = python(copy, "-c", f"from dreamer.cli.main import main; print([main(words) for words in {commands}])")
    assert result.stdout.splitlines()[-1] == "[0, 0, 0, 0]", result.stderr[-3000:]
    assert "no agent.dynamics.lru." in result.stderr and "as before they existed" in result.stderr
    report = json.loads((copy / "runs" / "report.json").read_text())
    assert [run["path"] for run in report["runs"]] == ["earlier"] and not report["left_out"]
    assert list(report["arms"]) == ["rssm"] and report["varied"] == []
