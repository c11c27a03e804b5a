"""docs/changing_a_loss.md does what it says: its script adds a term, and its steps work in a copy."""

import re

import pytest
from guide import blocks, changed_copy, python
from running import tiny_config, tiny_flags

import dreamer
from dreamer.tracking import read
from dreamer.world_model.world_model import WorldModel

DOCUMENT = "docs/changing_a_loss.md"
TARGETS = ["dreamer/world_model/world_model.py"] * 4 + ["tests/test_gradient_routing.py"] * 2 + ["tests/test_config.py"]
SCALES = {"rep": 0.1, "replay_critic": 0.3, "prior_reward": 0.5}


def losses(path):
    """Loss terms in the newest record of a run that has any."""
    record = [record for record in read(path / "metrics.jsonl") if "loss/total" in record][-1]
    return {name.removeprefix("loss/"): value for name, value in record.items() if name.startswith("loss/")}


def weighted(terms):
    """Sum of the terms times their scales."""
    return sum(SCALES.get(name, 1.0) * value for name, value in terms.items() if name != "total")


def test_a_script_adds_a_term_of_scale_one(tmp_path, monkeypatch):
    monkeypatch.setattr(WorldModel, "losses", WorldModel.losses)  # put back afterwards
    [script] = blocks(DOCUMENT, "python")
    tiny = script.replace('dreamer.compose("quick", task="dmc:cartpole_balance")', "tiny_config(steps=40)")
    assert tiny != script
    monkeypatch.chdir(tmp_path)
    exec(compile(tiny, DOCUMENT, "exec"), {"__name__": "__main__", "tiny_config": tiny_config})
    terms = losses(tmp_path / "runs" / "feature_norm")
    assert terms["feature_norm"] > 0
    assert terms["total"] == pytest.approx(weighted(terms), rel=1e-5)


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    return changed_copy(tmp_path_factory.mktemp("loss"), DOCUMENT, TARGETS, {})


def test_the_tests_pass_with_a_new_term(copy):
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_gradient_routing.py", "tests/test_config.py"]
    result = python(copy, *words, "-k", "exactly_its_groups or current_published")
    assert result.returncode == 0, result.stdout[-3000:]
    assert int(re.search(r"(\d+) passed", result.stdout)[1]) >= 5


def test_a_new_term_is_trained_by_its_flag_and_earlier_runs_are_read_without_it(copy):
    """The weighted sum has the new term with its scale; a run of the unchanged code goes on as if nothing was added."""
    dreamer.train(tiny_config(steps=80), run_dir=copy / "earlier")
    resume = ["train", "--resume", "earlier", "--steps", "120"]
    train = ["train", *tiny_flags(steps=80), "--agent.world-model.scales.prior-reward", "0.5", "--run-dir", "changed"]
    commands = [["evaluate", "earlier", "--episodes", "1"], resume, train, ["report", "earlier"]]
    result = python(copy, "-c", f"from dreamer.cli.main import main; print([main(words) for words in {commands}])")
    assert result.stdout.splitlines()[-1] == "[0, 0, 0, 0]", result.stderr[-3000:]
    assert "no agent.world_model.scales.prior_reward: using 0.0" in result.stderr
    assert "is not defined" not in result.stderr
    assert "prior_reward" not in losses(copy / "earlier")
    terms = losses(copy / "changed")
    assert terms["prior_reward"] > 0
    assert terms["total"] == pytest.approx(weighted(terms), rel=1e-5)
