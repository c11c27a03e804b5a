"""Several environments in one process: where one of them fails, the others are where they would have been."""

from __future__ import annotations

import functools
import os
import random
import signal
import time

import numpy as np
import pytest

import envs
from envs.guarded import Guarded
from envs.parallel import ParallelEnvs
from envs.toy import Counting

NUM_ENVS = 5
LENGTHS = (4, 9, 2, 5, 9)


class Unlucky(Counting):
    """Breaks in its second step of episode 0, as `error` does."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def step(self, action):
        if (self._episode, self._step) == (0, 1):
            self.error()
        return super().step(action)


class Forgetful(Counting):
    """Shows another number every time it is made."""

    def _observation(self, action):
        return {**super()._observation(action), "row": np.array([random.random()], np.float32)}


class Sleepy(Counting):
    def step(self, action):
        time.sleep(0.4)
        return super().step(action)


class Late(Counting):
    """Kills its process in its fourth step of episode 0."""

    def step(self, action):
        if (self._episode, self._step) == (0, 3):
            die()
        return super().step(action)


class Doomed(Counting):
    """Kills every process in which it comes to its third step of episode 0, except for the first."""

    def __init__(self, mark):
        super().__init__()
        self.mark = mark

    def step(self, action):
        if (self._episode, self._step) == (0, 2):
            if os.path.exists(self.mark):
                die()
            open(self.mark, "w").close()
        return super().step(action)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def hang():
    time.sleep(100)


def noisy(env, index):
    """Observations with noise come back only if their random numbers do."""
    return envs.prepare(env, seed=1, index=index, time_limit=LENGTHS[index], obs_noise=0.1)


def healthy(index):
    return noisy(Counting(), index)


def unlucky(index, place, error):
    return noisy(Unlucky(error), index) if index == place else healthy(index)


def forgetful(index, place):
    if index == 1:
        return unlucky(index, 1, die)
    return noisy(Forgetful(), index) if index == place else healthy(index)


def sleepy(index):
    return envs.prepare(Sleepy(), seed=0, index=index)


def doomed(index, mark):
    if index == 0:
        return noisy(Doomed(mark), 0)
    return noisy(Late(), index) if index == 1 else healthy(index)


def made(make_env, processes=1, timeout=0.0, num_envs=NUM_ENVS):
    makers = [functools.partial(Guarded, functools.partial(make_env, index)) for index in range(num_envs)]
    return ParallelEnvs(makers, context="forkserver", processes=processes, timeout=timeout)


def actions_of(step, num_envs=NUM_ENVS):
    return np.random.default_rng(step).uniform(-1, 1, (num_envs, 2)).astype(np.float32)


def assert_same(row, expected, places):
    for key, value in expected[0].items():
        assert np.array_equal(row[0][key][places], value[places]), key
    for column, other in zip(row[1:4], expected[1:4], strict=True):
        assert np.array_equal(column[places], other[places])


def test_environments_are_dealt_over_at_most_as_many_processes_as_there_are_cores(monkeypatch):
    for cores, processes in ((2, 2), (3, 3), (1, 1), (8, 5)):
        monkeypatch.setattr("envs.vector.cores", lambda cores=cores: cores)
        vector = envs.make_vector(healthy, range(NUM_ENVS), parallel=True)
        assert len(vector.processes) == len({process.pid for process in vector.processes}) == processes
        assert vector.get_attr("index") == tuple(range(NUM_ENVS))
        assert vector.reset()[0]["step"].shape == (NUM_ENVS, 1)
        vector.close()
        assert not any(process.is_alive() for process in vector.processes)


@pytest.mark.parametrize("error", [die, hang])
@pytest.mark.parametrize("place", [0, 2, 4], ids=["first", "middle", "last"])
def test_others_in_a_process_go_on_as_if_nothing_had_been(place, error):
    """In the step of the failure some have answered and some have not; later they end and begin episodes."""
    make_env = functools.partial(unlucky, place=place, error=error)
    vector, twin = made(make_env, timeout=2.0), envs.make_vector(healthy, range(NUM_ENVS))
    others = [i for i in range(NUM_ENVS) if i != place]
    first = vector.processes[0].pid
    assert_same((vector.reset()[0],), (twin.reset()[0],), others)
    for step in range(15):
        *row, info = vector.step(actions_of(step))
        assert_same(row, twin.step(actions_of(step)), others)
        if step == 1:
            says = "died with exit code -9" if error is die else "gave no answer within 2 seconds and was terminated"
            failures = envs.failures(info)
            assert list(failures) == [place] and f"the process of the environment {says}" in failures[place]
            assert not any(value[place].any() for value in row[0].values())
            ((where, (_, again)),) = envs.restart_vector(vector, {place: 1}).items()
            assert (where, again, vector.get_attr("episode")[place]) == (place, "", 1)
        else:
            assert not envs.failures(info)
    assert vector.processes[0].pid != first
    vector.close()


def test_an_end_that_was_pending_when_a_process_died_comes_next():
    """Environment 2 ends in the step in which environment 4 kills the process that both are in."""
    vector, twin = made(functools.partial(unlucky, place=4, error=die)), envs.make_vector(healthy, range(NUM_ENVS))
    vector.reset(), twin.reset()
    rows = [(vector.step(actions_of(step)), twin.step(actions_of(step))) for step in range(2)]
    assert list(envs.failures(rows[1][0][4])) == [4] and rows[1][0][3].tolist() == [False, False, True, False, False]
    envs.restart_vector(vector, {4: 1})
    row, expected = vector.step(actions_of(2)), twin.step(actions_of(2))
    assert vector.get_attr("episode") == (0, 0, 1, 0, 1) and row[1].tolist() == [3, 3, 0, 3, 1]
    assert_same(row, expected, [0, 1, 2, 3])
    vector.close()


def test_what_fails_stays_failed_until_it_is_restarted():
    vector = made(functools.partial(unlucky, place=1, error=die))
    vector.reset()
    vector.step(actions_of(0))
    told = [envs.failures(vector.step(actions_of(step))[4]) for step in (1, 2, 3)]
    assert told[0] == told[1] == told[2] and list(told[0]) == [1]
    envs.restart_vector(vector, {1: 3})
    assert not envs.failures(vector.step(actions_of(4))[4])
    assert vector.get_attr("episode")[1] == 3
    vector.close()


@pytest.mark.parametrize("place", [0, 3], ids=["has answered", "has yet to answer"])
def test_one_that_does_not_come_back_to_what_it_showed_has_failed(place):
    vector, twin = made(functools.partial(forgetful, place=place)), envs.make_vector(healthy, range(NUM_ENVS))
    vector.reset(), twin.reset()
    vector.step(actions_of(0)), twin.step(actions_of(0))
    *row, info = vector.step(actions_of(1))
    failures = envs.failures(info)
    assert set(failures) == {1, place} and "it did not repeat its episode" in failures[place]
    assert_same(row, twin.step(actions_of(1)), [i for i in range(NUM_ENVS) if i not in failures])
    answers = envs.restart_vector(vector, {1: 1, place: 1})
    assert {i: text for i, (_, text) in answers.items()} == {1: "", place: ""}
    assert not envs.failures(vector.step(actions_of(2))[4])
    vector.close()


def test_one_that_kills_the_process_in_which_it_should_come_back_has_failed_too(tmp_path):
    vector, twin = made(functools.partial(doomed, mark=str(tmp_path / "mark"))), made(healthy)
    vector.reset(), twin.reset()
    for step in range(4):
        *row, info = vector.step(actions_of(step))
        expected = twin.step(actions_of(step))
    failures = envs.failures(info)
    assert set(failures) == {0, 1} and all("died with exit code -9" in text for text in failures.values())
    assert_same(row, expected, [2, 3, 4])
    envs.restart_vector(vector, {0: 1, 1: 1})
    *row, info = vector.step(actions_of(6))
    assert not envs.failures(info)
    assert_same(row, twin.step(actions_of(6)), [2, 3, 4])
    vector.close(), twin.close()


def test_the_timeout_is_that_of_a_step_of_one_environment():
    vector = made(sleepy, timeout=1.0, num_envs=4)
    vector.reset()
    began = time.monotonic()
    *_, info = vector.step(actions_of(0, 4))
    assert time.monotonic() - began > 1.6 and not envs.failures(info)
    vector.close()


def test_environments_that_differ_in_their_spaces_are_refused():
    with pytest.raises(envs.UserError, match="must have the same spaces"):
        made(lambda index: envs.prepare(Counting(actions=1 + index), seed=0, index=index))


def test_a_process_that_dies_while_it_builds_is_one_exception():
    def make_env(index):
        return die() if index == 1 else healthy(index)

    with pytest.raises(envs.WorkerError, match="the process of the environment died with exit code -9"):
        made(make_env, processes=2)


def test_answers_are_not_mixed_up_after_an_interruption():
    vector = made(sleepy, num_envs=2)
    vector.reset()
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    with pytest.raises(KeyboardInterrupt):
        vector.step(actions_of(0, 2))
    with pytest.raises(RuntimeError, match="an earlier call was interrupted"):
        vector.step(actions_of(0, 2))
    vector.close()


def test_a_signal_to_the_processes_of_a_job_leaves_environments_alone():
    vector = made(sleepy, num_envs=2)
    assert all(os.getpgid(process.pid) == process.pid != os.getpgid(0) for process in vector.processes)
    vector.close()
