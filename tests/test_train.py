"""The training loop: what it records, when it learns, and that nothing but the seed decides what comes out."""

from __future__ import annotations

import json
import math
import re
import time

import numpy as np
import pytest
import torch
from running import assert_same_run, differences, newest, restored, timeless, tiny_config, tiny_flags
from tiny import unchecked

import dreamer
from dreamer.cli.main import main
from dreamer.config import from_json
from dreamer.experience.ratio import ReplayRatio
from dreamer.system.meters import Clock, Meter, peak_rss_mb
from dreamer.tracking import read
from dreamer.training.plan import few_updates

EPISODE = 10  # steps of a toy:counting episode, which has one row more


def train(path, **changes):
    with unchecked():  # the reference run checks every call
        return dreamer.train(tiny_config(**changes), run_dir=path)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """A run of 160 steps in two environments."""
    return dreamer.train(tiny_config(), run_dir=tmp_path_factory.mktemp("reference") / "run")


def stored_actions(path):
    """The actions in a run's replay, without those of first rows."""
    run = restored(path)
    rows = list(run.replay.ring.rows[: run.replay.ring.head].T)
    run.close()
    return np.concatenate([each["prev_action"][~each["is_first"]] for each in rows])


# What a run leaves


def test_a_record_every_log_interval_and_every_evaluation(reference):
    records = read(reference.path / "metrics.jsonl")
    training = [record for record in records if "replay/rows" in record]
    evaluations = [record for record in records if "eval/return_mean" in record]
    assert [record["step"] for record in training] == list(range(20, 161, 20))
    assert [record["step"] for record in evaluations] == [80, 160]
    assert len(records) == len(training) + len(evaluations)


def test_counters_count_what_was_done(reference):
    training = [record for record in timeless(reference.path) if "replay/rows" in record]
    for record in training:
        rows = record["step"] // 2  # of each of the two environments
        assert record["replay/rows"] == record["step"]
        assert record["loop/episodes"] == 2 * ((rows + 1) // (EPISODE + 1))
        # Eight windows of 1 + 4 rows can be drawn once each stream has 8 rows; one update for 8 rows from then on.
        assert record["updates"] == record["loop/updates"] == (0 if rows < 8 else 1 + (2 * (rows - 8)) // 8)
        assert record["replay/ratio"] == record["updates"] * 8 / record["step"]


@pytest.mark.parametrize("epsilon", [0.0, 1.0])
def test_epsilon_decides_how_many_actions_are_random(tmp_path, epsilon):
    """The policy's normal distribution leaves [-1, 1] about every fourth time, random actions never do."""
    train(tmp_path / "run", **{"loop.epsilon": epsilon, "loop.epsilon_hold": 3, "loop.eval_every": 1000})
    outside = (np.abs(stored_actions(tmp_path / "run")) > 1).mean()
    assert outside == 0 if epsilon else outside > 0.1


def test_training_episodes_are_reported_with_their_return(reference):
    finished = [record for record in timeless(reference.path) if "train/return" in record]
    assert finished and all(record["train/return"] == 55 and record["train/length"] == 10 for record in finished)


def test_a_record_holds_losses_and_diagnostics(reference):
    last = [record for record in read(reference.path / "metrics.jsonl") if "replay/rows" in record][-1]
    expected = {"loss/total", "loss/dyn", "loss/actor", "loss/replay_critic", "optim/grad_norm", "behavior/entropy"}
    assert expected <= last.keys() and all(math.isfinite(value) for value in last.values())
    assert {"time/env_steps_per_second", "time/updates_per_second", "time/peak_rss_mb"} <= last.keys()
    assert sum(last[f"time/fraction_{part}"] for part in Clock.PARTS) <= 1


def test_the_result_is_the_last_evaluation(reference):
    assert reference.status == "finished"
    assert reference.evaluation["eval/return_mean"] == 55 and reference.evaluation["eval/episodes"] == 2
    assert reference.evaluation.items() <= timeless(reference.path)[-1].items()


def test_the_run_folder_says_how_it_came_about(reference):
    info = json.loads((reference.path / "run.json").read_text())
    assert info["device"] in ("cpu", "cuda", "mps") and info["seed"] == 0
    assert info["command"] and info["created"] and info["commit"] and info["versions"]["torch"] == torch.__version__
    assert from_json((reference.path / "config.json").read_text()) == tiny_config()
    assert (reference.path / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert not (reference.path / "videos").exists()
    assert [path.name for path in sorted((reference.path / "checkpoints").iterdir())] == [
        "best",
        "step_000000000120.ckpt",
        "step_000000000160.ckpt",
    ]


# What decides the numbers


def test_one_seed_gives_the_same_run_twice(reference, run_dir):
    assert_same_run(train(run_dir).path, reference.path)


def test_another_seed_gives_another_run(reference, run_dir):
    other = train(run_dir, seed=1)
    assert timeless(other.path) != timeless(reference.path)
    assert differences(newest(other.path)["agent"], newest(reference.path)["agent"])


def test_evaluating_logging_and_saving_do_not_touch_training(reference, run_dir):
    changes = {"loop.eval_every": 30, "loop.eval_episodes": 3, "loop.checkpoint_every": 6, "loop.log_every": 10}
    other = train(run_dir, **changes)
    assert not differences(newest(other.path)["agent"], newest(reference.path)["agent"])
    assert not differences(newest(other.path)["rng"], newest(reference.path)["rng"])


def test_action_repeat_counts_in_steps_but_not_in_the_ratio(run_dir):
    """Pitfalls 46 and 48."""
    result = train(run_dir, **{"env.repeat": 2, "steps": 160})
    training = [record for record in timeless(result.path) if "replay/rows" in record]
    assert [record["step"] for record in training] == list(range(20, 161, 20))
    for record in training:
        rows = record["step"] // 4  # per environment: two environments, two steps a row
        assert record["replay/rows"] == 2 * rows
        # Ten environment steps are five agent steps and six rows.
        assert record["loop/episodes"] == 2 * ((rows + 1) // 6)
        assert record["loop/updates"] == (0 if rows < 8 else 1 + (2 * (rows - 8)) // 8)
        assert record["replay/ratio"] == record["loop/updates"] * 8 / (2 * rows)
    finished = [record for record in training if "train/return" in record]
    assert finished and all(record["train/return"] == 55 and record["train/length"] == 5 for record in finished)


def test_training_episodes_can_be_shorter_than_evaluation_episodes(run_dir):
    """Short training episodes begin more often; what is reported as evaluation stays the task itself."""
    result = train(run_dir, **{"env.train_time_limit": 3, "loop.log_every": 2})
    lengths = {record["train/length"] for record in timeless(result.path) if "train/length" in record}
    assert 3 in lengths and 10 in lengths, "environment 0 is cut after 3 steps, environment 1 goes on to the end"
    assert result.evaluation["eval/length_mean"] == 10


# The replay ratio


@pytest.mark.parametrize("num_envs", [1, 2, 16])
@pytest.mark.parametrize("ratio", [32.0, 100.0, 512.0, 1024.0, 3000.0])
def test_updates_follow_the_replay_ratio(ratio, num_envs):
    """Pitfall 46: per row of every environment, not per step of all of them."""
    due = ReplayRatio(ratio, 1024)
    assert due(num_envs) == 1
    updates = 0
    for rows in range(num_envs, 5000, num_envs):
        updates += due(num_envs)
        assert abs(updates - rows * ratio / 1024) <= 1


@pytest.mark.parametrize("warmup", [1, 1000, 100_000])
def test_the_first_call_asks_for_one_update_however_many_rows_came_before(warmup):
    """Pitfall 47: rows collected before learning starts are no debt."""
    due = ReplayRatio(1024.0, 1024)
    assert due(warmup) == 1
    assert [due(1) for _ in range(5)] == [1] * 5


def test_the_ratio_remembers_fractions_across_a_restart():
    due, again = ReplayRatio(100.0, 1024), ReplayRatio(100.0, 1024)
    [due(1) for _ in range(15)]
    again.load_state_dict(due.state_dict())
    assert [again(1) for _ in range(40)] == [due(1) for _ in range(40)]
    fresh = ReplayRatio(100.0, 1024)
    fresh.load_state_dict(ReplayRatio(100.0, 1024).state_dict())
    assert fresh(500) == 1


# Meters


def test_a_meter_takes_means_of_numbers_and_tensors():
    meter = Meter()
    meter.add({"a": 1.0, "b": torch.tensor(2.0, requires_grad=True)})
    meter.add({"a": 3.0, "b": torch.tensor(5.0)})
    meter.add({"a": 5.0})
    assert meter.take() == {"a": 3.0, "b": 3.5}
    assert meter.take() == {}


def test_a_meter_survives_a_checkpoint_exactly():
    numbers = [0.1, 0.2, 0.3, 1e-9, 7.7]
    whole, first, second = Meter(), Meter(), Meter()
    for i, number in enumerate(numbers):
        values = {"x": torch.tensor(number), "y": number}
        whole.add(values)
        if i == 2:
            second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        (first if i < 2 else second).add(values)
    assert second.take() == whole.take()


def test_a_meter_keeps_small_terms_of_long_sums():
    meter = Meter()
    for _ in range(3000):
        meter.add({"x": torch.tensor(16777216.0)})
        meter.add({"x": torch.tensor(1.0)})
    assert meter.take()["x"] == 16777217 / 2


def test_a_clock_gives_shares_and_rates_of_the_time_since_the_last_record():
    clock = Clock()
    clock.start(100, 10)
    with clock("update"):
        time.sleep(0.05)
    with clock("evaluation"):
        time.sleep(0.05)
    values = clock.take(step=200, updates=15)
    assert 0.2 < values["time/fraction_update"] < 0.8 and 0.2 < values["time/fraction_evaluation"] < 0.8
    assert values["time/fraction_acting"] == 0
    # Evaluation does not count as training: 100 steps in some 0.05 s.
    assert 100 < values["time/env_steps_per_second"] <= 100 / 0.05
    assert values["time/updates_per_second"] == pytest.approx(values["time/env_steps_per_second"] / 20)
    again = clock.take(step=200, updates=15)
    assert again["time/fraction_update"] == 0 and again["time/env_steps_per_second"] == 0


def test_waiting_for_a_gpu_is_counted_apart(tmp_path, monkeypatch):
    """With a device that makes the host wait 50 ms before each step, and a CPU's results, which are there at once."""
    monkeypatch.setattr("dreamer.training.loop.synchronize", lambda device: time.sleep(0.05))
    result = dreamer.train(tiny_config(steps=12, **{"loop.log_every": 12, "env.num_envs": 2}), run_dir=tmp_path / "run")
    last = [record for record in read(result.path / "metrics.jsonl") if "replay/rows" in record][-1]
    waited = last["time/fraction_waiting"] * last["time/elapsed"]
    assert 0.3 <= waited < 0.6, "six steps"


def test_a_clock_counts_a_part_that_fails():
    clock = Clock()
    with pytest.raises(RuntimeError), clock("saving"):
        time.sleep(0.01)
        raise RuntimeError
    assert clock.take(1, 1)["time/fraction_saving"] > 0


def test_memory_is_counted_in_megabytes():
    assert 50 < peak_rss_mb() < 100_000


@pytest.mark.parametrize(("steps", "made"), [(1000, 0), (1500, 95), (3000, None)])
def test_a_run_too_short_to_learn_is_told_how_long_it_should_be(steps, made):
    config = dreamer.compose("dmc_fast", steps=steps)
    line = few_updates(config)
    assert (made is None) == (line == "") and (made is None or f"will make about {made} updates in {steps:,}" in line)
    if line:
        assert line.endswith("the first comes after about step 1,256; raise --steps to 2600 or more")
        assert f"has made 7 updates in {steps:,} steps" in few_updates(config, 7, steps)
    assert not few_updates(dreamer.compose("dmc_fast", steps=steps), 500, steps)


def test_a_run_says_what_it_is_and_warns_at_start_and_end_that_it_learns_little(run_dir, capsys):
    flags = tiny_flags(steps=160, **{"tracking.console": True})
    assert main(["train", *flags, "--run-dir", str(run_dir)]) == 0
    output = capsys.readouterr()
    head = dict(re.split(r"  +", line, maxsplit=1) for line in output.out.splitlines()[:6])
    parameters = sum(json.loads((run_dir / "run.json").read_text())["parameters"].values())
    assert head == {
        "task": "toy:counting, 2 environments, action repeat 1",
        "agent": f"rssm, {parameters:,} parameters, preset debug, size 100k, seed 0",
        "device": head["device"],
        "steps": "160, new weights",
        "run folder": str(run_dir),
        "replay": head["replay"],
    }
    assert re.fullmatch(r"cpu, \d+ threads?", head["device"]) and head["replay"].endswith(" GB")
    begin, end = (line for line in output.err.splitlines() if line.startswith("warning: "))
    made = json.loads((run_dir / "metrics.jsonl").read_text().splitlines()[-1])["updates"]
    expected = int(re.search(r"will make about (\d+) updates in 160 steps", begin)[1])
    assert f"this run has made {made} updates in 160 steps" in end and abs(made - expected) <= 2
    assert main(["train", "--resume", str(run_dir), "--steps", "200"]) == 0
    assert f"steps       200, resumed at step 160, with {made} updates made\n" in capsys.readouterr().out
