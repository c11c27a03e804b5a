"""A run that dies and goes on is the run that never stopped: processes are killed for real and compared with a twin."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from nursery import poison_weight, resolve, run, run_child
from older import make_older
from running import (
    PIXELS,
    ROOT,
    assert_same_run,
    differences,
    newest,
    plan_of,
    restored,
    timeless,
    tiny_config,
    tiny_flags,
)
from test_cli import everything_below
from tiny import unchecked

import dreamer
from dreamer.agent import Agent
from dreamer.cli.main import main
from dreamer.config import changeable, changes, leaves, override, to_json
from dreamer.runs import checkpoint
from dreamer.runs.folder import locked, open_run
from dreamer.system.files import write_atomically
from dreamer.tracking import read
from dreamer.training import accelerate, launch, loop
from dreamer.training.state import RunState
from envs.rendering import missing_gl_message, select_backend
from envs.toy import Counting

COPY = {"task": "toy:copy"}
PLAIN = {"env.time_limit": 7, "loop.epsilon": 0.2, "loop.epsilon_hold": 3}
"""160 steps in two environments, episodes of eight rows, some actions random."""
WRAPPING = {
    "steps": 1760,
    "env.num_envs": 16,
    "env.time_limit": 7,
    "replay.capacity": 1000,
    "loop.replay_ratio": 0.1,
    "loop.log_every": 160,
    "loop.eval_every": 800,
    "loop.checkpoint_every": 160,
}
"""110 rows of each of sixteen environments, which keep 62 in a ring of at most 90, so that it is overwritten."""

FAST = {
    # What is interrupted, at which call, before or after it.
    "collecting": (PLAIN, "dreamer.experience.collect:Collector.advance", 53, "before"),
    "writing back": (WRAPPING, "dreamer.experience.replay:Replay.write_states", 20, "after"),
}
STOP = (PLAIN, "dreamer.agent:Agent.update", 7, "after")
CORES = {
    "ssm": "toy:copy",
    "rnn": "toy:copy_discrete",
    "gru": "toy:copy",
    "mdn_rnn": "toy:copy_discrete",
    "s5": "toy:copy",
    "transformer": "toy:copy",
}
SLOW = {
    "learning": (PLAIN, "dreamer.agent:Agent.update", 15, "after"),
    "storing": (WRAPPING, "dreamer.experience.ring:Ring.append", 103, "after"),
    "last evaluation": (PLAIN, "dreamer.training.evaluate:Evaluator.run", 4, "before"),
    "before the first checkpoint": (PLAIN, "dreamer.runs.checkpoint:save", 1, "before"),
    "second checkpoint": (PLAIN, "dreamer.runs.checkpoint:save", 2, "before"),
    "checkpoint": (WRAPPING, "os:replace", 4 + 1 + 9, "before"),
    "saved, not committed": (WRAPPING, "dreamer.experience.replay:Replay.commit", 9, "before"),
    "saved and committed": (WRAPPING, "dreamer.experience.replay:Replay.commit", 9, "after"),
    "control suite": (
        PLAIN | {"task": "dmc:cartpole_swingup"},
        "dreamer.experience.collect:Collector.advance",
        53,
        "before",
    ),
    "in processes": (PLAIN | {"env.parallel": "on"}, "dreamer.experience.collect:Collector.advance", 53, "after"),
    **{
        f"{core} on {task}": (
            PLAIN | {"agent.dynamics.core": core, "task": task},
            "dreamer.experience.collect:Collector.advance",
            53,
            "before",
        )
        for core, task in CORES.items()
    },
}
DRAWN = {
    "from pixels": (PLAIN | PIXELS, "dreamer.experience.collect:Collector.advance", 53, "before"),
    "from pixels, in processes": (
        PLAIN | PIXELS | {"env.parallel": "on"},
        "dreamer.experience.replay:Replay.write_states",
        11,
        "after",
    ),
}


@pytest.fixture(autouse=True, scope="module")
def without_type_checks():
    """The calls of these runs are checked in test_train.py."""
    with unchecked():
        yield


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """As many as the interrupted runs have: convolutions by another number of threads round differently."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """Gives the folder of an interrupted run; the scenarios of a group are run together."""
    folders = {}

    def interrupt(name):
        if name not in folders:
            kills = next((group for group in (SLOW, DRAWN) if name in group), FAST)
            scenarios = {key: (*scenario, signal.SIGKILL) for key, scenario in kills.items()}
            if kills is FAST:
                scenarios["asked to stop"] = (*STOP, signal.SIGTERM)
            folder = tmp_path_factory.mktemp("interrupted")
            folders.update({key: folder / key for key in scenarios})
            codes = {}
            for key, (changes, path, call, when, number) in scenarios.items():
                words = ["train", *tiny_flags(**COPY | changes), "--run-dir", str(folders[key])]
                injection = [f"after {path}" if when == "after" else path, call, "signal", number]
                codes[key] = run_child(words, [injection], output=str(folders[key])).code
            assert codes.pop("asked to stop", 75) == 75
            assert set(codes.values()) == {-signal.SIGKILL}, codes
        return folders[name]

    return interrupt


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    """Runs that never stopped, made when asked for."""
    folder = tmp_path_factory.mktemp("twins")
    made = {}

    def twin(changes):
        changes = {name: value for name, value in changes.items() if name != "env.parallel"}
        key = json.dumps(changes)
        if key not in made:
            made[key] = folder / str(len(made))
            dreamer.train(tiny_config(**COPY | changes), run_dir=made[key])
        return made[key]

    return twin


@pytest.mark.parametrize("name", [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_a_killed_run_goes_on_as_if_nothing_had_happened(interrupted, twins, name):
    """Pitfall 59: noise after a resume is what it would have been."""
    changes, path = (FAST | SLOW)[name][0], interrupted(name)
    assert dreamer.resume(path).status == "finished"
    assert_same_run(path, twins(changes))


@pytest.mark.slow
@pytest.mark.parametrize("name", DRAWN)
def test_frames_are_the_same_in_another_process(interrupted, twins, name, capsys):
    """Killed, a run from pixels goes on as one that was not: what it sees again is what it stored, bit for bit."""
    if select_backend() is None:
        pytest.skip(missing_gl_message())
    path = interrupted(name)
    assert dreamer.resume(path).status == "finished"
    assert "did not replay" not in capsys.readouterr().err
    assert_same_run(path, twins(DRAWN[name][0]))


def test_a_run_asked_to_stop_saves_says_how_to_go_on_and_does(interrupted, twins):
    path = interrupted("asked to stop")
    said, hint = Path(f"{path}.err").read_text(), Path(f"{path}.out").read_text()
    assert "SIGTERM received: saving a checkpoint, then stopping" in said and "Traceback" not in said
    assert hint.strip().endswith(f"dreamer train --resume {shlex.quote(str(path))}")
    state = newest(path)
    assert 0 < state["step"] < 160 and state["updates"] == 7
    assert len(read(path / "metrics.jsonl")) < len(timeless(twins(PLAIN)))
    dreamer.resume(path)
    assert_same_run(path, twins(PLAIN))


def test_a_signal_to_the_whole_process_group_ends_no_environment(tmp_path):
    """A cluster's scheduler signals every process of a job: workers leave it to the run to say when they end."""
    path = tmp_path / "run"
    flags = tiny_flags(**COPY | {"env.parallel": "on", "steps": 10**6})
    command = [sys.executable, "-m", "dreamer", "train", *flags, "--run-dir", str(path)]
    child = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stderr=subprocess.PIPE, text=True)
    try:
        until = time.monotonic() + 120
        while len(list(path.glob("checkpoints/*.ckpt"))) < 2 and time.monotonic() < until and child.poll() is None:
            time.sleep(0.05)
        os.killpg(child.pid, signal.SIGTERM)
        _, said = child.communicate(timeout=60)
    finally:
        child.kill()
    assert child.returncode == 75 and "SIGTERM received" in said and "failed" not in said, said
    assert not (path / "faults").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("core", "environments"), [("rssm", "async"), ("mdn_rnn", "sync")])
def test_chaos(core, environments):
    """A short version of `scripts/chaos`: a run killed at random lines and moments is its twin."""
    words = ["--kills", "6", "--steps", "1400", "--cores", core, "--environments", environments]
    command = [sys.executable, str(ROOT / "tests" / "chaos.py"), *words]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"{core}, {environments} environments: killed 6 times in " in done.stdout and "    wrap" in done.stdout


class Disk:
    """Remembers what a power loss would leave: of a file what was last synced, under the name that its folder had."""

    def __init__(self):
        self.names: dict[int, dict[str, int]] = {}
        self.contents: dict[int, bytes] = {}

    def fsync(self, descriptor, fsync=os.fsync):
        fsync(descriptor)
        inode, path = os.fstat(descriptor).st_ino, Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if path.is_dir():
            entries = list(os.scandir(path))
            self.names[inode] = {entry.name: entry.inode() for entry in entries}
            for folder in filter(os.DirEntry.is_dir, entries):
                self.names.setdefault(folder.inode(), {})
        else:
            self.contents[inode] = path.read_bytes()

    def restore(self, inode, path):
        """Write what is left of the file or folder of this inode to `path`."""
        if inode not in self.names:
            path.write_bytes(self.contents.get(inode, b""))
            return
        path.mkdir()
        for name, entry in self.names[inode].items():
            self.restore(entry, path / name)


BLACKOUTS = {
    # The call before which the power goes.
    "first checkpoint named": ("dreamer.system.files:sync_folder", 7),
    "first records": ("dreamer.experience.collect:Collector.advance", 15),
    "checkpoint to be named": ("os:replace", 7),
    "old checkpoint to be deleted": ("pathlib:Path.unlink", 1),
    "collecting": ("dreamer.experience.collect:Collector.advance", 75),
}


@pytest.fixture(scope="module")
def blackouts(tmp_path_factory):
    """What is left of a run after each of `BLACKOUTS`; the run itself goes on all the while."""
    folder, disk = tmp_path_factory.mktemp("blackouts"), Disk()
    parent = folder / "runs"
    parent.mkdir()

    def lose_power(left, target, call):
        (owner, name), calls = resolve(target), 0
        original = getattr(owner, name)

        def watched(*arguments, **keywords):
            nonlocal calls
            calls += 1
            if calls == call:
                disk.restore(parent.stat().st_ino, folder / left)
            return original(*arguments, **keywords)

        patch.setattr(owner, name, watched)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", disk.fsync)
        for left, (target, call) in BLACKOUTS.items():
            lose_power(left, target, call)
        dreamer.train(tiny_config(**COPY | PLAIN), run_dir=parent / "run")
    return folder


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc tells the paths of what is synced")
@pytest.mark.parametrize("name", BLACKOUTS)
def test_what_was_synced_is_enough_to_go_on(blackouts, twins, name):
    path = blackouts / name / "run"
    assert dreamer.resume(path).status == "finished"
    assert_same_run(path, twins(PLAIN))


# Going on, or not


@pytest.fixture(scope="module")
def finished(twins):
    """A finished run of 160 steps; copy it before changing it."""
    return twins(PLAIN)


@pytest.fixture
def copied(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def test_a_finished_run_is_extended_as_if_it_had_been_longer(copied, twins, capsys):
    assert main(["train", "--resume", str(copied), "--steps", "240"]) == 0
    assert "return" in capsys.readouterr().out
    assert open_run(copied).config.steps == 240
    assert_same_run(copied, twins(PLAIN | {"steps": 240}))


def test_a_run_of_an_older_version_is_joined_and_continues_exactly(copied, twins):
    make_older(copied, plan_of(copied).layout)
    assert main(["train", "--resume", str(copied), "--steps", "240"]) == 0
    assert_same_run(copied, twins(PLAIN | {"steps": 240}))
    assert sorted(file.name for file in (copied / "replay").iterdir()) == ["rows.bin", "states.bin"]


def test_a_finished_run_says_so_and_how_to_extend_it(copied, capsys):
    before = {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()}
    assert main(["train", "--resume", str(copied)]) == 0
    said = capsys.readouterr()
    assert said.err == f"{copied} is finished at step 160; extend it with --steps N, N > 160\n"
    assert "final evaluation over 2 episodes" in said.out
    assert {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("moment", ["dreamer.training.run:show_curve", "dreamer.tracking.tracker:Tracker.close"])
def test_a_run_killed_after_its_last_checkpoint_completes_what_is_missing(tmp_path, monkeypatch, moment):
    def die(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(*resolve(moment), die)
        with pytest.raises(KeyboardInterrupt):
            dreamer.train(tiny_config("toy:copy", **PLAIN | {"steps": 24}), run_dir=tmp_path / "run")
    records = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    closed = []
    monkeypatch.setattr(*resolve("dreamer.tracking.tracker:Tracker.close"), lambda self, status: closed.append(status))
    for _ in range(2):
        result = dreamer.resume(tmp_path / "run")
        assert (result.status, result.step) == ("finished", 24) and result.evaluation["eval/episodes"] == 2
    assert (tmp_path / "run" / "curve.png").stat().st_size > 10_000 and closed == ["finished"]
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == records


def test_a_resumed_run_cannot_become_another_one(copied, capsys):
    assert main(["train", "--resume", str(copied), "--seed", "3", "--loop.replay-ratio", "2", "--steps", "200"]) == 2
    refused = "--seed (it is 0, not 3), --loop.replay-ratio (it is 1.0, not 2.0), which changes what is learned"
    assert f"a resumed run cannot change {refused}; start a new run" in capsys.readouterr().err


@pytest.mark.usefixtures("cheap_open_loop")
def test_what_may_change_on_resume_changes_nothing_that_is_learned(twins, tmp_path, monkeypatch):
    path = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(loop.Trainer, "done", property(lambda self: self.progress.step >= 480))
        dreamer.train(tiny_config(**COPY | WRAPPING), run_dir=path)
    old, others = (
        open_run(path).config,
        {"env.timeout": 70.0, "loop.video": "never", "env.imports": ("json",), "loop.keep_best": False},
    )
    free = [name for name, effect in changeable().items() if effect == "nothing" and name != "tracking"]
    counts = {name: 2 + value for name, value in leaves(asdict(old)) if name in free and type(value) is int}
    new = override(
        old, counts | others | {"env.parallel": "auto", "loop.checkpoint_every": 640, "loop.imagine_every": 880}
    )
    assert changes(old, new).keys() == set(free) - {"loop.video"}
    assert dreamer.resume(path, config=new).status == "finished"
    assert open_run(path).config == new and len(list((path / "checkpoints").glob("*.ckpt"))) == 4
    twin = newest(twins(WRAPPING))
    assert not differences(newest(path)["agent"], twin["agent"])
    assert newest(path)["replay"]["head"] == twin["replay"]["head"]


def test_threads_and_compilation_may_change_with_one_line(copied, capsys):
    assert main(["train", "--resume", str(copied), "--steps", "164", "--threads", "3"]) == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "rounding" in line]
    assert line.startswith("threads 1 -> 3: from here on, rounding differs from that of a run that was never")
    assert main(["train", "--resume", str(copied), "--steps", "168"]) == 0
    assert "rounding" not in capsys.readouterr().err and torch.get_num_threads() == 1


def test_an_extended_run_compiles_if_it_did_before(copied, monkeypatch):
    """`auto` must not decide anew because more updates are planned."""
    config = override(open_run(copied).config, {"loop.compile": "auto", "steps": 164})
    (copied / "config.json").write_text(to_json(config))
    monkeypatch.setattr(accelerate, "WORTHWHILE_UPDATES", 21)
    assert config.planned_updates < 21 <= override(config, {"steps": 170}).planned_updates
    dreamer.resume(copied, config=override(config, {"steps": 170}))
    assert json.loads((copied / "run.json").read_text())["numerics"]["compiled"] is False


def test_a_run_whose_steps_cannot_be_compiled_says_so_in_run_json(copied, monkeypatch, capsys):
    def fail(*_):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(accelerate, "_compile", lambda *_: fail)
    config = override(open_run(copied).config, {"loop.compile": "on", "steps": 164})
    (copied / "config.json").write_text(to_json(config))
    info = json.loads((copied / "run.json").read_text())
    info["numerics"]["compiled"] = True
    (copied / "run.json").write_text(json.dumps(info))
    dreamer.resume(copied, config=override(config, {"steps": 170}))
    assert "torch.compile fails, so the plain code runs: no compiler" in capsys.readouterr().err
    assert json.loads((copied / "run.json").read_text())["numerics"]["compiled"] is False


# Evaluations that are due


@pytest.fixture
def cheap_open_loop(monkeypatch):
    """Open-loop evaluations that log one number and draw nothing."""

    def show(plan, agent, folder, step, tracker):
        tracker.log(step, {"imagination/rmse/x": 1.0})

    monkeypatch.setattr(loop, "show_open_loop", show)


@pytest.mark.usefixtures("cheap_open_loop")
@pytest.mark.parametrize(
    ("target", "call"),
    [("evaluate:Evaluator.run", 1), ("evaluate:Evaluator.run", 4), ("loop:summarize", 1), ("loop:summarize", 2)],
)
def test_asked_to_stop_in_an_evaluation_no_record_is_missing_or_written_twice(tmp_path, monkeypatch, target, call):
    changes = PLAIN | {"steps": 40, "loop.eval_every": 20, "loop.imagine_every": 20, "loop.checkpoint_every": 20}
    config = tiny_config("toy:copy", **changes)
    dreamer.train(config, run_dir=tmp_path / "twin")
    with monkeypatch.context() as patched:
        owner, name = resolve(f"dreamer.training.{target}")
        original, calls = getattr(owner, name), iter(range(1, 100))

        def stop(*arguments):
            if next(calls) == call:
                os.kill(os.getpid(), signal.SIGTERM)
            return original(*arguments)

        patched.setattr(owner, name, stop)
        assert dreamer.train(config, run_dir=tmp_path / "run").status == "interrupted"
    assert newest(tmp_path / "run")["imagination_due"]
    assert dreamer.resume(tmp_path / "run").status == "finished"
    assert [set(record) for record in timeless(tmp_path / "run")].count({"step", "updates", "imagination/rmse/x"}) == 2
    assert_same_run(tmp_path / "run", tmp_path / "twin")


def test_what_is_not_finite_in_the_last_save_sends_the_run_back(tmp_path, monkeypatch, capsys):
    """The last update breaks a weight, and no other checkpoint is made in between."""
    config = tiny_config("toy:copy", **PLAIN | {"loop.checkpoint_every": 10_000})
    last = dreamer.train(config, run_dir=tmp_path / "twin")
    count, update, calls = newest(last.path)["updates"], Agent.update, iter(range(1, 1000))

    def broken(agent, batch):
        results = update(agent, batch)
        if next(calls) == count:
            poison_weight(agent)
        return results

    monkeypatch.setattr(Agent, "update", broken)
    result = dreamer.train(config, run_dir=tmp_path / "run")
    assert "a parameter is not finite: going back to the checkpoint of step 0 (1 of 2)" in capsys.readouterr().err
    assert (result.status, result.step) == ("finished", 160) and np.isfinite(list(result.evaluation.values())).all()
    assert newest(result.path)["updates"] == count


# Schedules


DECAYING = {
    "steps": 160,
    "agent.optimizer.warmup": 0,
    "agent.optimizer.decay": 1.0,
    "agent.behavior.entropy_decay": 0.5,
    "loop.checkpoint_every": 1000,
}


def rates(path, name="optim/learning_rate"):
    return [record[name] for record in read(path / "metrics.jsonl") if name in record]


def test_an_extension_continues_every_schedule_from_its_value_to_the_new_end(tmp_path, monkeypatch, capsys):
    """A run is extended before its end, killed before it is saved again, and resumed without the flag."""
    path = tmp_path / "run"
    config = tiny_config("toy:copy", **PLAIN | DECAYING)
    with monkeypatch.context() as patched:
        patched.setattr(loop.Trainer, "done", property(lambda self: self.progress.step >= 100))
        dreamer.train(config, run_dir=path)  # stops at step 100 of 160
    before, at, full = rates(path), newest(path)["updates"], config.agent.optimizer.learning_rate
    now = 1 - at / config.planned_updates
    longer = override(config, {"steps": 320})
    capsys.readouterr()
    with monkeypatch.context() as patched:
        patched.setattr(loop.Trainer, "train", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            dreamer.resume(path, config=longer)
    said = capsys.readouterr().err
    assert f"of 40 planned updates: the learning rate falls from {now:.0%} of its initial value to 5% at update" in said
    assert "; the entropy bonus stays at 10% of its initial value" in said or "the entropy bonus falls from" in said
    dreamer.resume(path)
    after = rates(path)[len(before) :]
    assert max(after) <= before[-1] and all(np.diff(after) < 0) and after[-1] > 0.05 * full
    optimizer = restored(path).agent.optimizer
    slope = now / (longer.planned_updates - at)
    for updates in (at, at + 10):
        expected = now - slope * (updates - at)
        assert float(optimizer.decay(torch.tensor(float(updates)))) == pytest.approx(expected, rel=1e-5)


def test_a_number_of_updates_in_an_older_run_keeps_its_meaning(tmp_path, capsys):
    """Its checkpoint says nothing about decays, and its schedule may be changed once it is resumed."""
    config = tiny_config("toy:copy", **PLAIN | DECAYING | {"agent.optimizer.decay": 30})
    path = dreamer.train(config, run_dir=tmp_path / "a").path
    step, state, _ = checkpoint.load(path / "checkpoints")
    del state["decays"], state["imagination_due"]
    checkpoint.save(path / "checkpoints", step, state, 2)
    other, at = shutil.copytree(path, tmp_path / "b"), state["updates"]
    dreamer.resume(path, config=override(open_run(path).config, {"steps": 200}))
    assert "the learning rate falls from" in capsys.readouterr().err
    decay = restored(path).agent.optimizer.decay
    assert (decay.start, decay.value, decay.end) == (0, 1, 30)
    changed = override(open_run(other).config, {"steps": 200, "agent.optimizer.decay": 1.0})
    dreamer.resume(other, config=changed)
    decay = restored(other).agent.optimizer.decay
    assert (decay.start, decay.end) == (at, changed.planned_updates) and decay.value == pytest.approx(1 - at / 30)


def test_a_damaged_newest_checkpoint_costs_only_what_came_after_the_one_before(copied, capsys):
    newest_file = copied / "checkpoints" / "step_000000000160.ckpt"
    os.truncate(newest_file, newest_file.stat().st_size - 10)
    assert main(["train", "--resume", str(copied)]) == 0
    assert f"skipped damaged checkpoint {newest_file}: its checksum does not match" in capsys.readouterr().err
    assert [record["step"] for record in read(copied / "metrics.jsonl")] == [
        *range(20, 81, 20),
        80,
        *range(100, 161, 20),
        160,
    ]
    assert newest(copied)["step"] == 160


def test_falling_back_never_reads_rows_that_were_overwritten(tmp_path):
    """A run dies long after its newest checkpoint, which then turns out to be damaged."""
    changes = WRAPPING | {"env.time_limit": 0, "loop.eval_every": 10_000}  # episodes of toy:counting end by themselves
    path = dreamer.train(tiny_config(**changes), run_dir=tmp_path / "run").path
    plan = plan_of(path)

    dying = restored(path)
    while not dying.replay.must_commit:
        packed = dying.collector.act()
        dying.replay.append(dying.collector.arrived, packed)
        dying.collector.advance()
    dying.close()
    os.truncate(max((path / "checkpoints").iterdir()), 100)

    run = RunState(plan, open_run(path))
    run.load_state_dict(checkpoint.load(path / "checkpoints")[1])
    for _ in range(400):
        batch, positions = run.replay.sample()
        rows = batch.obs["row"][..., 0].numpy()
        assert (rows == positions.start[:, None] + np.arange(rows.shape[1])).all(), (rows, positions)
    run.close()


def test_a_half_written_checkpoint_is_ignored(copied):
    (copied / "checkpoints" / "step_000000000200.ckpt.tmp").write_bytes(b"half")
    dreamer.resume(copied, config=tiny_config("toy:copy", **PLAIN, steps=162))
    assert newest(copied)["step"] == 162


def test_a_run_killed_while_it_wrote_its_first_checkpoint_begins_again(tmp_path, monkeypatch):
    killed = KeyboardInterrupt()

    def die(path, *parts):
        if path.name == "step_000000000000.ckpt":
            path.with_name(path.name + ".tmp").write_bytes(b"half")
            raise killed
        write(path, *parts)

    write, config = write_atomically, tiny_config("toy:copy", **PLAIN | {"steps": 8})
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "write_atomically", die)
        with pytest.raises(KeyboardInterrupt):
            dreamer.train(config, run_dir=tmp_path / "run")
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step_000000000000.ckpt.tmp"]
    assert dreamer.resume(tmp_path / "run").status == "finished"


def test_another_process_cannot_train_in_the_same_folder(copied, capsys):
    with open(copied / ".lock", "a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        before = {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()}
        assert main(["train", "--resume", str(copied), "--steps", "200"]) == 2
        assert capsys.readouterr().err == f"dreamer: {copied} is in use by another process\n"
        assert {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()} == before


def test_what_the_device_was_is_kept(copied, capsys):
    if torch.cuda.is_available():
        pytest.skip("this machine has the device that the test pretends to miss")
    info = json.loads((copied / "run.json").read_text())
    assert info["device"] in ("cpu", "mps")
    (copied / "run.json").write_text(json.dumps(info | {"device": "cuda"}))
    assert main(["train", "--resume", str(copied), "--steps", "162"]) == 2
    assert "--device cuda is not available here; available: " in capsys.readouterr().err
    assert main(["train", "--resume", str(copied), "--steps", "162", "--device", "cpu"]) == 0
    assert json.loads((copied / "run.json").read_text())["device"] == "cpu"


class Unrepeatable(Counting):
    """Counts on from where the last environment of this process stopped."""

    started = 0

    def _observation(self, action):
        Unrepeatable.started += 1
        return {**super()._observation(action), "row": np.array([Unrepeatable.started], np.float32)}


def test_environments_that_do_not_repeat_themselves_cost_their_open_episodes_alone(tmp_path, capsys):
    config = tiny_config("toy:counting", steps=40)
    path = dreamer.train(config, run_dir=tmp_path / "run", make_env=Unrepeatable).path
    rows = newest(path)["replay"]["head"]
    result = dreamer.resume(path, config=tiny_config("toy:counting", steps=120), make_env=Unrepeatable)
    assert "environments [0, 1] did not replay their open episode identically" in capsys.readouterr().err
    assert result.status == "finished" and rows == 20 and newest(path)["replay"]["head"] == 60


# New runs from old weights


def modules(path):
    return newest(path)["agent"]["modules"]


@pytest.mark.parametrize("load", ["world_model", "all"])
def test_a_new_run_starts_from_the_weights_it_is_given(finished, tmp_path, load):
    flags = tiny_flags(task="toy:copy", seed=5, **PLAIN | {"steps": 4})  # too few for an update
    assert main(["train", *flags, "--run-dir", str(tmp_path / "run"), "--from", str(finished), "--load", load]) == 0
    source, new = modules(finished), modules(tmp_path / "run")
    plain = dreamer.train(tiny_config("toy:copy", seed=5, **PLAIN | {"steps": 4}), run_dir=tmp_path / "plain")
    fresh = modules(plain.path)
    assert source.keys() == new.keys() == fresh.keys()
    for name in source:
        wanted = source if load == "all" or name.startswith("world_model.") else fresh
        assert torch.equal(new[name], wanted[name]), name
    for part in ("world_model.core", "actor_critic.actor"):
        assert any(not torch.equal(source[name], fresh[name]) for name in source if name.startswith(part))
    assert newest(tmp_path / "run")["updates"] == 0


def test_what_a_run_began_from_is_kept_from_its_first_moment_on(finished, tmp_path, monkeypatch):
    def die(*arguments):
        raise KeyboardInterrupt

    config = tiny_config("toy:copy", seed=5, **PLAIN | {"steps": 4})
    with monkeypatch.context() as patched:
        patched.setattr(launch, "choose_parallel", die)
        with pytest.raises(KeyboardInterrupt):
            dreamer.train(config, run_dir=tmp_path / "a", start_from=finished)
        with pytest.raises(KeyboardInterrupt):
            dreamer.train(tiny_config("mine", steps=4), run_dir=tmp_path / "b", make_env=Counting)
    with pytest.raises(dreamer.UserError, match="began with the weights of another run; if you trust it, add --from"):
        dreamer.resume(tmp_path / "a")
    dreamer.resume(tmp_path / "a", start_from=finished)
    source, new = modules(finished), modules(tmp_path / "a")
    assert all(torch.equal(new[name], source[name]) for name in source)
    with pytest.raises(dreamer.UserError, match="was trained with make_env=Counting; use dreamer.resume"):
        dreamer.resume(tmp_path / "b")


def test_weights_that_do_not_fit_are_told_before_anything_is_made(finished, tmp_path, capsys):
    flags = tiny_flags(task="toy:counting", **PLAIN)
    assert main(["train", *flags, "--run-dir", str(tmp_path / "run"), "--from", str(finished)]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"dreamer: --from {finished}: the weights do not fit this task and size: world_model.")
    assert message.count("\n") == 1 and not (tmp_path / "run").exists()


# W&B


@pytest.mark.slow
def test_a_killed_run_keeps_its_wandb_id(tmp_path):
    path = tmp_path / "run"
    flags = tiny_flags(task="toy:copy", **PLAIN | {"steps": 4000, "tracking.wandb": "offline"})
    command = [sys.executable, "-m", "dreamer", "train", *flags, "--run-dir", str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and len(list((path / "wandb").glob("offline-run-*/*.wandb"))) < 1:
            time.sleep(0.1)
        while time.monotonic() < deadline and len(list((path / "checkpoints").glob("*.ckpt"))) < 2:
            time.sleep(0.1)
        child.kill()
    step = newest(path)["step"]
    kept = (path / "wandb_id").read_text().strip()
    assert child.returncode == -signal.SIGKILL and 0 < step < 4000
    done = run("train", "--resume", path, "--steps", str(step + 20))
    assert done.code == 0 and "Traceback" not in done.errors, done.errors
    assert (path / "wandb_id").read_text().strip() == kept
    runs = {folder.name.rpartition("-")[2] for folder in (path / "wandb").glob("offline-run-*")}
    assert runs == {kept}
    steps = [record["step"] for record in read(path / "metrics.jsonl")]
    assert steps == sorted(steps) and steps[-1] == step + 20
    evaluated = run("evaluate", path, "--episodes", "2", "--json")
    assert evaluated.code == 0 and len(json.loads(evaluated.output)["sample"]["returns"]) == 2


# Parts of old weights


def test_parts_of_an_agent_are_loaded_by_name_as_far_as_they_fit(finished, tmp_path, capsys):
    wider = PLAIN | {"steps": 4, "agent.world_model.reward.units": 12}
    config = tiny_config("toy:copy", seed=5, **wider)
    fresh = modules(dreamer.train(config, run_dir=tmp_path / "fresh").path)
    assert capsys.readouterr().err.count("left out") == 0
    flags = [*tiny_flags(task="toy:copy", seed=5, **wider), "--from", str(finished), "--load", "dynamics,reward,critic"]
    assert main(["train", *flags, "--run-dir", str(tmp_path / "run")]) == 0
    source, new = modules(finished), modules(tmp_path / "run")
    fit = [name for name in new if source[name].shape == new[name].shape]
    parts = ("world_model.core.", "world_model.reward.", "actor_critic.critic.", "actor_critic.slow_critic.")
    for name in new:
        wanted = source if name in fit and name.startswith(parts) else fresh
        assert torch.equal(new[name], wanted[name]), name
    misfits = [name for name in new if name not in fit]
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
    assert misfits and all(name.startswith("world_model.reward.") for name in misfits)
    assert all(f"{name} is {list(source[name].shape)} there" in line for name in misfits), line
    loaded = sum(name in fit and name.startswith(parts) for name in new)
    assert f": {loaded} of {sum(name.startswith(parts) for name in new)} tensors loaded; left out: " in line
    assert json.loads((tmp_path / "run" / "run.json").read_text())["start_from"]["load"] == "dynamics,reward,critic"


def test_a_part_of_which_nothing_fits_is_named(finished, tmp_path, capsys):
    gru = PLAIN | {"steps": 4, "agent.dynamics.core": "gru"}
    with pytest.raises(dreamer.UserError, match="--load dynamics: nothing to load: world_model.core."):
        dreamer.train(tiny_config("toy:copy", **gru), run_dir=tmp_path / "a", start_from=finished, load="dynamics")
    dreamer.train(tiny_config("toy:copy", **gru), run_dir=tmp_path / "a", start_from=finished, load="encoder,dynamics")
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "tensors loaded" in line]
    assert "; nothing of dynamics; " in line and "; not there: world_model.core." in line


@pytest.mark.parametrize(
    ("load", "message"),
    [
        ("actr", "--load actr: no part 'actr'; did you mean actor? There are all, world_model, encoder, dynamics, "),
        ("projector", "no part 'projector'"),
        ("encoder,", "no part ''"),
        ("encoder", "--load encoder: nothing to load: world_model.encoder."),
    ],
)
def test_a_partial_load_of_nothing_is_one_line(finished, tmp_path, capsys, load, message):
    flags = tiny_flags(task="toy:copy", **PLAIN | {"agent.world_model.encoder.units": 24})
    assert main(["train", *flags, "--run-dir", str(tmp_path / "run"), "--from", str(finished), "--load", load]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "run").exists()


# Disk space


def test_clean_deletes_the_replay_of_finished_runs_alone(finished, tmp_path, capsys):
    done, open_one, missing = (tmp_path / "runs" / name for name in ("done", "open", "no_run"))
    for path in (done, open_one):
        shutil.copytree(finished, path)
    missing.mkdir()
    config = open_run(open_one).config
    (open_one / "config.json").write_text(to_json(override(config, {"steps": 400})))
    before = everything_below(tmp_path)
    size = sum(file.stat().st_blocks * 512 for file in (done / "replay").iterdir())
    refusal = f"dreamer: {open_one} is not finished (step 160 of 400) and needs its replay to be resumed\n"
    for words, would in ((["--dry-run"], "would be "), ([], "")):
        assert main(["clean", str(tmp_path / "runs"), *words]) == 2
        output = capsys.readouterr()
        assert output.err == refusal
        amount = f"{size / 1e6:>10,.1f} MB"
        assert output.out.splitlines() == [f"{amount}  {done}", f"{amount}  {would}freed in 1 run"]
        if would:
            assert everything_below(tmp_path) == before
    gone = {path for path in before if path.parent == done / "replay"}
    assert gone and everything_below(tmp_path) == {path: data for path, data in before.items() if path not in gone}
    assert main(["clean", str(done)]) == 0 and main(["evaluate", str(done), "--episodes", "1"]) == 0
    capsys.readouterr()
    assert main(["train", "--resume", str(done), "--steps", "400"]) == 2
    assert "has no replay any more and cannot be extended; start a new run with --from" in capsys.readouterr().err
    with locked(done):
        assert main(["clean", str(done)]) == 2
    assert capsys.readouterr().err == f"dreamer: {done} is in use by another process\n"
