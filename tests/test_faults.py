"""Faults, each injected for real: what the user sees, and that nothing is lost."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from faulty import Faulty, dies, exits, hangs, long, nan, raises
from nursery import run_children
from running import PIXELS, ROOT, assert_same_run, newest, restored, timeless, tiny_config, tiny_flags
from tiny import make_agent, unchecked

import dreamer
import envs
from dreamer.cli.main import main
from dreamer.errors import UserError
from dreamer.runs.folder import open_run
from dreamer.tracking import read
from dreamer.training.evaluate import Evaluator
from dreamer.training.launch import make_factory
from dreamer.training.plan import layout_of
from envs.rendering import select_backend
from envs.toy import Counting

COPY = {"task": "toy:copy", "env.time_limit": 7}


@pytest.fixture(autouse=True, scope="module")
def without_type_checks():
    """The calls of these runs are checked in test_train.py."""
    with unchecked():
        yield


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    """A run of 160 steps to which nothing happened."""
    return dreamer.train(tiny_config(**COPY), run_dir=tmp_path_factory.mktemp("twin") / "run").path


# Environments


ENVIRONMENTS = {
    "raises": (raises, False, "RuntimeError: the robot fell over"),
    "exits": (exits, False, "SystemExit: 3"),
    "hangs": (hangs, False, "TimeoutError: no answer within 0.2 seconds"),
    "NaN": (nan, False, "ValueError: observation 'row' has a value that is not finite"),
    "shape": (long, False, "ValueError: observation 'row' has shape (2,), but its space has (1,)"),
    "dies": (dies, True, "the process of the environment died with exit code -9"),
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n == "dies" else n for n in ENVIRONMENTS])
def test_a_faulty_environment_costs_its_episode_and_the_run_goes_on_exactly(run_dir, capsys, name):
    fault, parallel, message = ENVIRONMENTS[name]
    changes = {
        "env.parallel": "on" if parallel else "off",
        "env.timeout": 60.0 if parallel else 0.2,
        "steps": 100,
        "loop.eval_every": 200,
    }

    make_env = functools.partial(Faulty, fault)  # evaluation sees episode 0 alone, which is healthy

    def train(path, steps=100):
        config = tiny_config(**changes | {"steps": steps})
        if path.exists():
            return dreamer.resume(path, config=config, make_env=make_env)
        return dreamer.train(config, run_dir=path, make_env=make_env)

    assert train(run_dir / "whole").status == "finished"
    said = capsys.readouterr().err
    assert f"environment 0 failed: {message}" in said and f"environment 1 failed: {message}" in said
    assert message in (run_dir / "whole" / "faults" / "environments.log").read_text()
    records = [record for record in timeless(run_dir / "whole") if "loop/env_failures" in record]
    assert [record["loop/env_failures"] for record in records][-1] == 4  # episodes 1 and 6 of both environments

    run = restored(run_dir / "whole", make_env)
    for rows in run.replay.ring.rows[: run.replay.ring.head].T:
        episode, step = rows["obs/episode"][:, 0], rows["obs/step"][:, 0]
        assert np.isfinite(rows["obs/row"]).all()
        assert (rows["is_first"] == (step == 0)).all()
        assert set(episode) == set(range(int(episode[-1]) + 1)), "no episode is left out or repeated"
        for number in (1, 6):
            assert step[episode == number].tolist() == [0, 1, 2] and not rows["is_last"][episode == number].any()
        assert step[episode == 2].tolist() == [0, 1, 2, 3, 4, 5, 6]
    run.close()

    train(run_dir / "part", steps=40)
    assert train(run_dir / "part").status == "finished"
    assert [r for r in timeless(run_dir / "part") if "replay/rows" in r] == [
        r for r in timeless(run_dir / "whole") if "replay/rows" in r
    ]


class Endless(Counting):
    def __init__(self):
        super().__init__(length=10**9)


def test_an_evaluation_whose_environment_never_ends_is_cut_with_one_line(run_dir, capsys):
    config = tiny_config("endless", steps=20, **{"loop.eval_limit": 30})
    result = dreamer.train(config, run_dir=run_dir, make_env=Endless)
    assert result.evaluation["eval/length_mean"] == 30
    lines = [line for line in capsys.readouterr().err.splitlines() if "evaluation" in line]
    assert lines == 2 * ["2 of 2 evaluation episodes had not ended after 30 steps and were cut there"]


def test_an_evaluation_episode_that_fails_does_not_count(run_dir, capsys):
    class Once(Counting):
        made = 0

        def __init__(self):
            super().__init__()
            Once.made += 1
            self.bad = Once.made == 4  # one to look at, two for training, then this one

        def step(self, action):
            return raises(None) if self.bad else super().step(action)

    result = dreamer.train(tiny_config("once", steps=20), run_dir=run_dir, make_env=Once)
    assert result.evaluation["eval/return_mean"] == 55 and result.evaluation["eval/episodes"] == 1
    assert "1 of 2 evaluation episodes failed and do not count: RuntimeError" in capsys.readouterr().err


class Together(Counting):
    """While `left` is positive, counts it down and fails in its second step."""

    left = 0

    def step(self, action):
        answer = super().step(action)
        if Together.left and self._step == 2:
            Together.left -= 1
            return raises(answer)
        return answer


def evaluate_counting(failures):
    Together.left = failures
    make_env = envs.EnvFactory("together", 0, custom=Together)
    evaluator = Evaluator(make_env, 2, seed=0)
    try:
        return evaluator.run(make_agent(obs={"episode": (1,), "row": (1,), "step": (1,)}), "sample")
    finally:
        evaluator.close()


def test_an_evaluation_in_which_every_environment_failed_is_done_once_more(capsys):
    undisturbed = evaluate_counting(failures=0)
    assert capsys.readouterr().err == ""
    disturbed = evaluate_counting(failures=2)
    assert disturbed.returns.tolist() == undisturbed.returns.tolist() == [55.0, 55.0]
    assert disturbed.held_out == undisturbed.held_out
    line = "every evaluation environment failed: RuntimeError: the robot fell over; trying once more\n"
    assert capsys.readouterr().err == line
    with pytest.raises(UserError, match="every evaluation environment failed: RuntimeError"):
        evaluate_counting(failures=4)


# Drawing


DRAWN = PIXELS | {
    "steps": 120,
    "env.time_limit": 20,
    "loop.eval_every": 1000,
    "loop.eval_episodes": 1,
    "loop.replay_ratio": 0.1,
}
"""120 rows from two environments in episodes of 21, and an evaluation at the end."""
FIFTH_FRAME = ["envs.dmc:DMC.draw", 2 * 5 + 1]
DIED = "RuntimeError: its OpenGL context has died (EGL_BAD"
DEATHS = {
    # Where what dies, in which run, the failures of each environment, and what is said of them.
    "context": ([*FIFTH_FRAME, "destroy context"], {}, (1, 0), DIED),
    "display": ([*FIFTH_FRAME, "terminate display"], {}, (1, 1), DIED),
    "taken": ([*FIFTH_FRAME, "release context"], {"env.num_envs": 1}, (0,), ""),
    "process": (
        ["dreamer.experience.collect:Collector.advance", 5, "kill worker"],
        {"env.parallel": "on"},
        (1, 0),
        "the process of the environment died with exit code -9",
    ),
}


@pytest.fixture(scope="module")
def blinded(tmp_path_factory):
    """Runs from pixels while what draws them dies."""
    if select_backend() != "egl":
        pytest.skip("contexts are destroyed through EGL, which does not draw on this machine")
    folder = tmp_path_factory.mktemp("blinded")
    orders = []
    for name, (injection, changes, *_) in DEATHS.items():
        orders.append((["train", *tiny_flags(**DRAWN | changes), "--run-dir", str(folder / name)], [injection]))
    ended = run_children(*orders, folder=folder)
    return {name: (folder / name, child) for name, child in zip(DEATHS, ended, strict=True)}


@pytest.mark.slow
@pytest.mark.parametrize("name", DEATHS)
def test_when_what_draws_dies_an_episode_is_lost_and_no_frame_is_wrong(blinded, name):
    failures, message = DEATHS[name][2:]
    path, ended = blinded[name]
    assert ended.code == 0 and "Traceback" not in ended.errors, ended
    lines = [line for line in ended.errors.splitlines() if "failed" in line or "gnored" in line]
    assert len(lines) == sum(failures), ended.errors
    assert all(f"environment {index} failed: {message}" in line for index, line in enumerate(lines))
    assert [r["loop/env_failures"] for r in timeless(path) if "loop/env_failures" in r][-1] == sum(failures)

    config = open_run(path).config
    dtype = layout_of(dreamer.load(path)).dtype
    stored = np.memmap(path / "replay" / "rows.bin", dtype, "r").reshape(-1, len(failures))
    for index, failed in enumerate(failures):
        rows = stored[: newest(path)["replay"]["head"], index]
        second = np.flatnonzero(rows["is_first"])[1]
        assert second in ((5, 6) if failed else (21,)), "a display may go on with the context that is current"
        env = make_factory(config)(index)
        for row in rows:
            obs = env.reset()[0] if row["is_first"] else env.step(row["prev_action"])[0]
            assert np.array_equal(obs["image"], row["obs/image"])
        env.close()


# Signals


@pytest.mark.slow
def test_asked_to_stop_in_an_evaluation_a_run_evaluates_when_it_goes_on(tmp_path, twin):
    path = tmp_path / "run"
    # after one of the two evaluations
    stop = ["dreamer.training.evaluate:Evaluator._report", 1, "signal", signal.SIGTERM]
    (ended,) = run_children(([*["train"], *tiny_flags(**COPY), "--run-dir", str(path)], [stop]), folder=tmp_path)
    assert ended.code == 75 and "SIGTERM received" in ended.errors, ended
    assert newest(path)["step"] == 80 and newest(path)["evaluation_due"]
    assert not any("eval/return_mean" in record for record in timeless(path))
    dreamer.resume(path)
    assert_same_run(path, twin)


# Numbers


POISONED_ROW = ["dreamer.experience.replay:Replay.sample", 3, "poison rows", 10, 11]
POISONED_WEIGHT = ["dreamer.agent:Agent.update", 5, "poison weight"]
ALL_ROWS = ["dreamer.experience.replay:Replay.sample", -3, "poison rows", 0, 4096]
ALWAYS = ["dreamer.agent:Agent.update", -5, "poison weight"]


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory):
    """Runs whose numbers are spoiled: a row of replay, a weight, all rows for ever, a weight again and again."""
    folder = tmp_path_factory.mktemp("poisoned")
    cases = {"row": POISONED_ROW, "weight": POISONED_WEIGHT, "rows": ALL_ROWS, "weights": ALWAYS}
    orders = [
        (["train", *tiny_flags(**COPY, **{"guard.skips": 3}), "--run-dir", str(folder / name)], [injection])
        for name, injection in cases.items()
    ]
    ended = run_children(*orders, folder=folder)
    return {name: (folder / name, child) for name, child in zip(cases, ended, strict=True)}


def finite(path):
    state = newest(path)["agent"]
    return all(value.isfinite().all() for part in ("modules", "optimizer") for value in state[part].values())


def test_a_loss_that_is_not_finite_costs_one_update(poisoned, capsys):
    path, ended = poisoned["row"]
    assert ended.code == 0 and "Traceback" not in ended.errors, ended
    assert "is skipped: the loss or a gradient is not finite; see `dreamer debug-batch " in ended.errors
    assert finite(path) and newest(path)["guard"]["skipped"] > 0
    records = [record for record in timeless(path) if "optim/skipped" in record]
    assert any(0 < record["optim/skipped"] < 1 for record in records)
    assert all(np.isfinite(list(record.values())).all() for record in records)

    kept = sorted((path / "faults").glob("batch_*.pt"))
    assert 1 <= len(kept) <= 3
    assert main(["debug-batch", str(kept[0])]) == 0
    said = capsys.readouterr().out
    assert "input       reward is not finite at (sequence, row) (" in said
    assert "losses      not finite:" in said and "gradients   not finite: world_model." in said
    assert "parameters" not in said


def test_states_of_a_skipped_update_are_not_stored(poisoned):
    run = restored(poisoned["row"][0])
    ring = run.replay.ring
    for env in range(ring.num_envs):
        places = np.arange(ring.head)
        states = ring.newest(places, np.full_like(places, env))
        assert np.isnan(ring.rows["reward"][10, env]) and np.isfinite(states).all()
    run.close()


def test_a_broken_weight_sends_the_run_back_to_its_checkpoint(poisoned):
    path, ended = poisoned["weight"]
    assert ended.code == 0 and "Traceback" not in ended.errors, ended
    assert "not finite: going back to the checkpoint of step 40 (1 of 2)" in ended.errors
    assert finite(path) and newest(path)["step"] == 160
    steps = [record["step"] for record in read(path / "metrics.jsonl") if "replay/rows" in record]
    assert steps == list(range(20, 161, 20)), "records of what was given up are gone"


def test_after_going_back_other_random_numbers_are_drawn(poisoned, twin):
    assert timeless(poisoned["weight"][0])[-1] != timeless(twin)[-1]


@pytest.mark.parametrize("name", ["rows", "weights"])
def test_what_stays_broken_stops_the_run_with_a_report(poisoned, name, capsys):
    path, ended = poisoned[name]
    assert ended.code == 2 and "Traceback" not in ended.errors, ended
    last = ended.errors.splitlines()[-1]
    assert last.startswith("dreamer: ") and "also after going back 2 times to the checkpoint of step" in last
    assert finite(path), "what is saved is sound"
    batch = last.partition("dreamer debug-batch ")[2].partition(";")[0]
    if batch:
        assert main(["debug-batch", batch]) == 0
        assert "not finite" in capsys.readouterr().out


@pytest.mark.parametrize("damage", [b"", b"not a batch"])
def test_debug_batch_refuses_other_files(twin, tmp_path, capsys, damage):
    path = shutil.copytree(twin, tmp_path / "run")
    (path / "faults").mkdir()
    (path / "faults" / "batch_000000001.pt").write_bytes(damage)
    assert main(["debug-batch", str(path / "faults" / "batch_000000001.pt")]) == 2
    message = capsys.readouterr().err
    assert "is not a batch that this run has kept" in message and message.count("\n") == 1


# Disks


@contextlib.contextmanager
def disk(folder, size):
    """A file system of its own; skips the test where this user may not mount one."""
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip("this user may not mount a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


WRITES = {
    "configuration": ("dreamer.system.files:write_atomically", 1),
    "first checkpoint": ("dreamer.runs.checkpoint:save", 1),
    "replay": ("dreamer.experience.ring:map_file", 2),
    "record": ("dreamer.tracking.jsonl:JsonlWriter.write", 4),
    "evaluation": ("dreamer.training.loop:Trainer.evaluate", 1),
    "checkpoint": ("dreamer.runs.checkpoint:save", 4),
    "last checkpoint": ("dreamer.runs.checkpoint:save", 6),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITES)
def test_a_disk_that_is_full_at_any_write_costs_nothing_but_time(tmp_path, twin, name):
    function, call = WRITES[name]
    with disk(tmp_path / "disk", "24m") as full:
        path = full / "run"
        order = (["train", *tiny_flags(**COPY), "--run-dir", str(path)], [[function, call, "fill", str(full)]])
        (ended,) = run_children(order, folder=tmp_path)
        assert ended.code == 2 and "Traceback" not in ended.errors, ended
        assert ended.errors.startswith("dreamer: cannot ") and ended.errors.count("\n") == 1, ended
        (full / "filler").unlink()
        begun = (path / "run.json").exists()
        assert main(["train", "--resume", str(path)] if begun else order[0]) == 0
        assert_same_run(path, twin)


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_is_told_in_one_line(tmp_path, twin, capsys):
    with disk(tmp_path / "disk", "24m") as folder:
        path = shutil.copytree(twin, folder / "run")
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        for words in (
            ["--resume", str(path), "--steps", "200"],
            ["--run-dir", str(folder / "new"), *tiny_flags(**COPY)],
        ):
            assert main(["train", *words]) == 2
            message = capsys.readouterr().err
            assert message.startswith("dreamer: cannot ") and "Read-only file system" in message, message
            assert message.count("\n") == 1


def test_a_run_that_will_not_fit_on_its_disk_is_refused_before_it_begins(tmp_path, capsys):
    with disk(tmp_path / "disk", "24m") as small:
        flags = tiny_flags(**COPY | {"steps": 10**6, "replay.capacity": 10**6})
        assert main(["train", *flags, "--run-dir", str(small / "run")]) == 2
        message = capsys.readouterr().err
        assert "would not fit: 0.0 GB are free on the disk of" in message and "lower --replay.capacity" in message
        assert not list(small.iterdir()) and message.count("\n") == 1


def test_a_model_that_will_not_fit_into_memory_is_refused_before_it_begins(run_dir, capsys):
    flags = tiny_flags(**COPY | {"agent.dynamics.rssm.deter": 65_536, "agent.dynamics.rssm.hidden": 65_536})
    assert main(["train", *flags, "--run-dir", str(run_dir)]) == 2
    message = capsys.readouterr().err
    assert "million parameters need at least" in message and "choose a smaller --size" in message
    assert message.count("\n") == 1 and not run_dir.exists()


@pytest.mark.slow
def test_the_limit_of_the_process_counts(tmp_path):
    flags = tiny_flags(**COPY | {"agent.dynamics.rssm.deter": 40_000, "agent.dynamics.rssm.hidden": 1000})
    command = (
        f"ulimit -v 12000000; exec {sys.executable} -m dreamer train --run-dir {tmp_path / 'run'} {' '.join(flags)}"
    )
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and "need at least" in done.stderr and done.stderr.count("\n") == 1, done.stderr


# Processes


@pytest.mark.slow
def test_of_two_processes_that_want_one_folder_one_gets_it(tmp_path, twin):
    path = tmp_path / "run"
    command = [sys.executable, "-m", "dreamer", "train", *tiny_flags(**COPY), "--run-dir", str(path)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    both = [subprocess.Popen(command, env=env, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) for _ in range(2)]
    answers = [process.communicate(timeout=300)[1].decode() for process in both]
    assert sorted(process.returncode for process in both) == [0, 2], answers
    (refused,) = [text for process, text in zip(both, answers, strict=True) if process.returncode]
    assert refused.count("\n") == 1 and ("already exists" in refused or "in use by another process" in refused)
    assert_same_run(path, twin)


def test_what_a_process_left_that_died_while_making_its_folder_is_no_obstacle(run_dir):
    run_dir.mkdir()
    for name in ("config.json", "run.json.tmp", ".lock"):
        (run_dir / name).write_text("half")
    assert dreamer.train(tiny_config(**COPY, steps=4), run_dir=run_dir).status == "finished"


# Clocks


JUMPING_CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
#include <sys/time.h>
static long calls;
int clock_gettime(clockid_t id, struct timespec *t) {
    int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int code = real(id, t);
    if (id == CLOCK_REALTIME) t->tv_sec -= 3600 * ++calls;
    return code;
}
int gettimeofday(struct timeval *t, void *zone) {
    int (*real)(struct timeval *, void *) = dlsym(RTLD_NEXT, "gettimeofday");
    int code = real(t, zone);
    t->tv_sec -= 3600 * ++calls;
    return code;
}
time_t time(time_t *out) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    if (out) *out = t.tv_sec;
    return t.tv_sec;
}
"""


@pytest.mark.slow
def test_a_clock_that_jumps_backwards_changes_nothing(tmp_path, twin):
    if shutil.which("cc") is None:
        pytest.skip("no C compiler to build a clock that jumps")
    source, library = tmp_path / "clock.c", tmp_path / "clock.so"
    source.write_text(JUMPING_CLOCK)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    command = [sys.executable, "-m", "dreamer", "train", *tiny_flags(**COPY), "--run-dir", str(tmp_path / "run")]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "LD_PRELOAD": str(library)}
    look = "import time; a = time.time(); assert time.time() < a"
    subprocess.run([sys.executable, "-c", look], env=env, check=True)
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert_same_run(tmp_path / "run", twin)
    elapsed = [r["time/elapsed"] for r in read(tmp_path / "run" / "metrics.jsonl") if "time/elapsed" in r]
    assert elapsed == sorted(elapsed) and 0 < elapsed[-1] < 300
    assert all(
        r["time/env_steps_per_second"] >= 0 for r in read(tmp_path / "run" / "metrics.jsonl") if "time/elapsed" in r
    )
