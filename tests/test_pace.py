"""The choice between one process and several: by what a step takes, once, and kept."""

from __future__ import annotations

import functools
import json
import time

import pytest
from running import tiny_config, tiny_flags

import dreamer
import envs
from dreamer.cli.main import main
from dreamer.training import launch
from envs.toy import Counting


class Slow(Counting):
    def __init__(self):
        super().__init__(length=3)

    def step(self, action):
        time.sleep(0.02)
        return super().step(action)


class Broken(Counting):
    def step(self, action):
        raise RuntimeError("out of order")


def prepared(index, env):
    return envs.prepare(env(), seed=0, index=index)


def paced(env, num_envs=4, processes=2):
    return envs.measure_pace(functools.partial(prepared, env=env), num_envs, processes)


def test_a_slow_environment_wins_by_processes_and_a_fast_one_does_not():
    slow, fast = paced(Slow), paced(Counting)
    assert slow.step >= 0.02 and slow.in_turn == 4 * slow.step
    assert slow.in_parallel == pytest.approx(2 * slow.step + 2 * 1e-4 + 4 * 4e-5)
    assert slow.parallel and str(slow).startswith(
        "environments are stepped in 2 processes: a step of all 4 takes about "
    )
    assert 0 < fast.step < 0.01 and not fast.parallel
    assert str(fast).startswith("environments are stepped in this process: a step of all 4 takes about ")


@pytest.mark.parametrize(("num_envs", "processes"), [(4, 1), (1, 8)], ids=["one core", "one environment"])
def test_where_there_is_nothing_to_choose_nothing_is_timed(num_envs, processes):
    def make_env(index):
        raise AssertionError("an environment was made")

    pace = envs.measure_pace(make_env, num_envs, processes)
    assert (pace.processes, pace.parallel) == (1, False)
    assert str(pace) == "environments are stepped in this process"


def test_it_must_win_clearly():
    assert not envs.Pace(num_envs=3, processes=2, step=1e-4).parallel, "0.3 ms against 0.52"
    assert not envs.Pace(num_envs=2, processes=2, step=1.2e-3).parallel, "2.4 ms against 1.48"
    assert envs.Pace(num_envs=2, processes=2, step=1.4e-3).parallel, "2.8 ms against 1.68"
    assert not envs.Pace(num_envs=100, processes=2, step=1e-4).parallel, "10 ms against 9.2"
    assert not envs.Pace(num_envs=9, processes=8, step=0.0).parallel


def test_one_that_breaks_is_left_where_the_run_sees_it():
    assert not paced(Broken).parallel and paced(Broken).step == 0


@pytest.fixture
def two_cores(monkeypatch):
    monkeypatch.setattr(envs, "cores", lambda: 2)
    monkeypatch.setattr("torch.get_num_threads", lambda: 2)


@pytest.mark.parametrize("threads", [2, 1])
def test_auto_chooses_for_a_run_that_has_threads(two_cores, monkeypatch, capsys, threads):
    monkeypatch.setattr("torch.get_num_threads", lambda: threads)
    config = tiny_config("mine", **{"env.parallel": "auto", "tracking.console": True})
    chosen = launch.choose_parallel(config, launch.make_factory(config, Slow))
    assert chosen["on"] == (threads == 2) and chosen["processes"] == threads
    said = capsys.readouterr().err
    assert said.count("\n") == (threads == 2) and said.startswith("environments are stepped in 2" * (threads == 2))


def test_on_and_off_time_nothing(monkeypatch):
    monkeypatch.setattr(envs, "measure_pace", None)
    for choice in ("on", "off"):
        config = tiny_config(**{"env.parallel": choice})
        assert launch.choose_parallel(config, launch.make_factory(config)) == {"on": choice == "on"}


def test_a_resumed_run_stays_what_it_was(run_dir, monkeypatch):
    timed = []

    def measure_pace(make_env, num_envs, processes, timeout):
        timed.append(num_envs)
        return envs.Pace(num_envs, 2, step=1.0)

    made = []
    make_vector = envs.make_vector

    def spied(make_env, indices, parallel=False, timeout=0.0):
        if indices == [0, 1]:
            made.append(parallel)
        return make_vector(make_env, indices, False, timeout)

    monkeypatch.setattr(envs, "measure_pace", measure_pace)
    monkeypatch.setattr("envs.factory.make_vector", spied)
    config = {"env.parallel": "auto", "loop.eval_every": 20, "task": "toy:copy"}
    dreamer.train(tiny_config(steps=20, **config), run_dir=run_dir)
    info = json.loads((run_dir / "run.json").read_text())
    assert info["parallel"] == {
        "on": True,
        "processes": 2,
        "seconds": {"step": 1, "in_turn": 2, "in_parallel": 1.00028},
    }
    dreamer.resume(run_dir, config=tiny_config(steps=40, **config))
    assert timed == [2] and made == [True, True]
    assert json.loads((run_dir / "run.json").read_text())["parallel"] == info["parallel"]


@pytest.mark.parametrize("word", ["yes", "True"])
def test_another_word_is_refused_in_one_line(word, capsys):
    flags = tiny_flags(**{"env.parallel": word})
    assert main(["train", *flags]) == 2
    assert "--env.parallel" in capsys.readouterr().err
