"""`dreamer diagnose`: every finding on a run that was made unhealthy on purpose, and none on runs that learned well."""

from __future__ import annotations

import json
import math
import re
import shutil

import pytest
from record_unhealthy import RECORDED, UNHEALTHY
from running import ROOT, tiny_config
from tiny import unchecked

import dreamer
from dreamer.cli.main import main
from dreamer.config import to_json
from dreamer.experiments.diagnosis.checks import CHECKS
from dreamer.experiments.diagnosis.history import RunHistory
from dreamer.tracking import JsonlWriter, read

RESULTS = ROOT / "docs" / "results"


def recorded(path, config, metrics):
    """A run folder of which only the metrics were kept."""
    path.mkdir()
    (path / "config.json").write_text(to_json(config))
    (path / "run.json").write_text('{"device": "cpu"}')
    shutil.copy(metrics, path / "metrics.jsonl")
    return path


def trained(path, task="toy:copy", **changes):
    with unchecked():
        return dreamer.train(tiny_config(task, **changes), run_dir=path).path


def findings(path, capsys):
    """The name of each unhealthy check, with what it says and what it advises; `dreamer diagnose` is run twice."""
    code = main(["diagnose", str(path), "--json"])
    checks = json.loads(capsys.readouterr().out)["checks"]
    assert len(checks) == len(CHECKS)
    found = {check["check"]: check for check in checks if check["unhealthy"]}
    assert code == main(["diagnose", str(path)]) == bool(found)
    text = capsys.readouterr().out
    assert ("nothing unhealthy found" in text) == (not found)
    assert text.count("\nunhealthy  ") == text.count("\ntry        ") == len(found)
    assert all(check["says"] in text and check["advice"] in text for check in checks)
    return found


# Healthy runs


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_nothing_is_found_in_a_run_that_learned_well(tmp_path, capsys, seed):
    path = recorded(tmp_path / "run", dreamer.compose("quick", seed=seed), RESULTS / "quick" / f"seed{seed}.jsonl")
    assert not findings(path, capsys)
    main(["diagnose", str(path)])
    text = capsys.readouterr().out
    for checked in ("numbers", "entropy", "KL", "held-out model error", "return scale", "replay ratio"):
        assert f"\nhealthy    {checked}: " in text


def test_a_policy_that_is_nearly_deterministic_at_the_end_is_not_collapsed(tmp_path, capsys):
    config = dreamer.compose("quick", task="gym:Pendulum-v1", steps=20_000)
    assert not findings(recorded(tmp_path / "run", config, RECORDED / "pendulum.jsonl"), capsys)


# Unhealthy runs


def test_a_collapsed_entropy(tmp_path, capsys):
    """CartPole-v1 at d7aa79d: 402 after 10,000 steps, and 311 after 20,000 with a policy that tries nothing else."""
    config = dreamer.compose("quick", task="gym:CartPole-v1", steps=20_000)
    found = findings(recorded(tmp_path / "run", config, RECORDED / "cartpole.jsonl"), capsys)
    assert found.keys() == {"entropy"}
    assert "behavior/entropy is 0.0207 (floor 0) since step 8,000" in found["entropy"]["says"]
    assert "best 401.9, last 310.5" in found["entropy"]["says"]
    assert found["entropy"]["advice"].startswith("--agent.behavior.entropy 0.003 (now 0.0003)")


@pytest.fixture(scope="module")
def barely_trained(tmp_path_factory):
    """Forty updates: the critic still says nothing, and no KL can exceed 50 free nats."""
    path = tmp_path_factory.mktemp("sick") / "run"
    return trained(path, "toy:counting", **{"agent.dynamics.rssm.free_nats": 50.0, "loop.replay_ratio": 2.0})


def test_a_kl_stuck_at_the_free_nats(barely_trained, capsys):
    found = findings(barely_trained, capsys)["KL"]
    assert re.search(r"loss/dyn is 50 of 50 free nats since step 20, .* the KL itself is 0\.\d+", found["says"])
    advised = re.fullmatch(r"--agent\.dynamics\.rssm\.free-nats (\S+) \(now 50\)", found["advice"])
    assert 0 < float(advised[1]) < 1


def test_values_below_the_monte_carlo_returns(barely_trained, capsys):
    found = findings(barely_trained, capsys)["value"]
    bias, returns = map(float, re.search(r"value_bias is (\S+), discounted returns are (\S+);", found["says"]).groups())
    assert "too low" in found["says"] and bias < -0.5 * returns < 0
    assert found["advice"].startswith("--loop.replay-ratio 4 (now 2)")


def test_a_stuck_return_scale(barely_trained, capsys):
    found = findings(barely_trained, capsys)["return scale"]
    assert "stuck at its floor of 1" in found["says"] and "while episodes return 55" in found["says"]
    assert found["advice"] == "--agent.behavior.entropy 3e-05 (now 0.0003)"


def test_a_return_scale_without_any_reward(barely_trained):
    silent = [record | {name: 0.0 for name in record if "return" in name} for record in read_records(barely_trained)]
    silent = [record | {"behavior/return_scale": 1.0} for record in silent]
    for epsilon, advice in ((0.0, "--loop.epsilon 0.02 (now 0"), (0.02, "--agent.behavior.entropy 0.003")):
        verdict = verdicts(tiny_config(**{"loop.epsilon": epsilon}), silent)["return scale"]
        assert "no episode has had a reward" in verdict.says and advice in verdict.advice


def test_a_starved_replay_ratio(tmp_path, capsys):
    path = trained(tmp_path / "run", **{"loop.learning_starts": 110})
    found = findings(path, capsys)["replay ratio"]
    assert re.search(r"starved: 0\.\d+ of 1 rows .*; the first update came after step 1\d\d of 160", found["says"])
    assert found["advice"] == "--loop.learning-starts 11 (now 110)"


def test_too_few_updates_to_learn_much(barely_trained, capsys):
    found = findings(barely_trained, capsys)["updates"]
    made = read_records(barely_trained)[-1]["loop/updates"]
    assert found["says"].startswith(f"this run has made {made:.0f} updates in 160 steps, too few to learn much")
    assert re.fullmatch(r"--steps \d+ or more \(now 160\)", found["advice"])
    config = dreamer.compose("dmc_fast", task="dmc:walker_walk", steps=1500)
    for record in ({"step": 1500}, {"step": 1500, "loop/updates": math.nan}):
        assert "has made 0 updates in 1,500 steps" in verdicts(config, [record])["updates"].says


def test_updates_that_do_not_keep_up():
    records = [{"step": 100 * i, "loop/updates": 5 * i} for i in range(1, 9)]
    verdict = verdicts(tiny_config(steps=800), records)["replay ratio"]
    assert verdict.unhealthy and verdict.says.endswith(
        "0.4 of 1 rows are trained on for each row collected; updates lag behind"
    )
    assert verdict.advice == "--loop.replay-ratio 0.4 (now 1)"


def test_a_model_that_gets_worse(tmp_path, capsys):
    """A learning rate of 3, reached slowly: the model is good for a while."""
    config = UNHEALTHY["unstable"]
    found = findings(recorded(tmp_path / "run", config, RECORDED / "unstable.jsonl"), capsys)["held-out model error"]
    assert "eval/model_error is 0.549 and was 0.339" in found["says"] and "learning is unstable" in found["says"]
    assert found["advice"] == "--agent.optimizer.learning-rate 1 (now 3)"
    overfit = [record | {"loss/reconstruction": 0.1} for record in read(RECORDED / "unstable.jsonl")]
    verdict = verdicts(config, overfit)["held-out model error"]
    assert verdict.says.endswith("it overfits") and verdict.advice.startswith("--loop.replay-ratio 8 (now 16)")


def test_a_critic_that_overestimates(tmp_path, capsys):
    path = recorded(tmp_path / "run", UNHEALTHY["overvalued"], RECORDED / "overvalued.jsonl")
    found = findings(path, capsys)["value"]
    assert "too high against Monte-Carlo returns: eval/value_bias is 0.681" in found["says"]
    assert found["advice"].startswith("--agent.behavior.slow-critic-tau 0.01 (now 0.02)")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_none(tmp_path, capsys, value):
    path = recorded(tmp_path / "run", dreamer.compose("quick"), RESULTS / "quick" / "seed0.jsonl")
    writer = JsonlWriter(path / "metrics.jsonl")
    writer.write(40_001, 0, {"loss/actor": value, "optim/grad_norm": value})
    writer.close()
    found = findings(path, capsys)
    assert found["numbers"]["says"] == f"loss/actor is {value} at step 40,001, and more"


# What holds for all of them


def test_every_flag_that_is_advised_exists(barely_trained, capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help-all"])
    known = capsys.readouterr().out
    source = (ROOT / "dreamer/experiments/diagnosis/checks.py").read_text()
    flags = {
        flag.replace("{dynamics.core}", core)
        for flag in re.findall(r"--[a-z][\w.{}-]+", source)
        for core in ("rssm", "ssm")
    }
    assert len(flags) > 8 and not [flag for flag in flags if not re.search(rf"{re.escape(flag)}\b", known)]


def test_an_extension_at_the_lowest_learning_rate_is_found():
    """Of an older run, whose decay is a number of updates."""
    config = dreamer.compose("quick", steps=80_000, **{"agent.optimizer.decay": 6_200})
    rate = config.agent.optimizer.learning_rate
    records = [{"step": 1000 * n, "optim/learning_rate": rate * max(1 - n / 50, 0.05)} for n in range(1, 81)]
    found = verdicts(config, records)["learning rate"]
    assert found.unhealthy and "at its lowest, 3.5e-05, since step 48,000 of 80,000" in found.says
    assert "--agent.optimizer.decay 1 in a new run (now 6200)" in found.advice
    assert not verdicts(config, records[:50])["learning rate"].unhealthy


def test_a_run_without_records_is_unknown_and_not_unhealthy(tmp_path, capsys):
    (tmp_path / "empty.jsonl").write_bytes(b"")
    path = recorded(tmp_path / "run", dreamer.compose("quick"), tmp_path / "empty.jsonl")
    assert not findings(path, capsys)
    main(["diagnose", str(path)])
    assert capsys.readouterr().out.count("\nunknown    ") == len(CHECKS) - 1


def read_records(path):
    return read(path / "metrics.jsonl")


def verdicts(config, records):
    return {name: check(RunHistory(config, records)) for name, check in CHECKS.items()}
