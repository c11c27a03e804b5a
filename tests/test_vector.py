"""Vector environments: the stream of arrival rows, and going back to any moment of it."""

from __future__ import annotations

import functools
import os
import signal
import sys
import time

import numpy as np
import pytest
from gymnasium import spaces

import envs
from envs.toy import Counting
from envs.watchdog import WATCHDOG

LENGTH = 4
MODES = pytest.mark.parametrize("parallel", [False, True], ids=["sync", "async"])


def counting(index, length=LENGTH, discrete=False):
    return envs.prepare(Counting(length=length, discrete=discrete), seed=0, index=index)


def made(index, task, **settings):
    return envs.make(task, index=index, **settings)


class Breaking(Counting):
    """Calls `error` at step 2 of the environment with index 1."""

    def __init__(self, index, error):
        super().__init__()
        self.index, self.error = index, error

    def step(self, action):
        if self.index == 1 and self._step == 1:
            self.error()
        return super().step(action)


class Unpicklable(Exception):
    def __init__(self, first, second):
        super().__init__(f"{first} {second}")
        self.function = lambda: None


def raise_unpicklable():
    raise Unpicklable("spring", "broke")


def raise_user_error():
    raise envs.UserError("turn it on first")


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def fall_asleep():
    time.sleep(60)


def breaking(index, error):
    return envs.prepare(Breaking(index, error), seed=0, index=index)


def refusing(index):
    if index == 1:
        raise RuntimeError("no room for another one")
    return counting(index)


def plans_of(history, episodes, indices):
    """What `restore_vector` needs: per environment, its episode and the actions since that episode's reset."""
    return {index: (episodes[i], np.array(history[i])) for i, index in enumerate(indices)}


def run(vector, steps, seed=0):
    """Step with random actions; returns the rows, and episode and actions so far of each environment after each row."""
    generator = np.random.default_rng(seed)
    discrete = isinstance(vector.single_action_space, spaces.Discrete)
    obs, _ = vector.reset()
    nothing = np.zeros(vector.num_envs)
    rows, history, episodes = [(obs, nothing, nothing > 0, nothing > 0)], [[] for _ in nothing], [0] * len(nothing)
    moments = [([list(h) for h in history], list(episodes))]
    for _ in range(steps):
        shape = (vector.num_envs, *vector.single_action_space.shape)
        actions = generator.integers(0, 2, shape) if discrete else generator.uniform(-1, 1, shape).astype(np.float32)
        over = rows[-1][2] | rows[-1][3]
        rows.append(vector.step(actions)[:4])
        for i in range(vector.num_envs):
            history[i] = [] if over[i] else [*history[i], actions[i]]
            episodes[i] += int(over[i])
        moments.append(([list(h) for h in history], list(episodes)))
    return rows, moments


def assert_same(row, other):
    for key in row[0]:
        assert np.array_equal(row[0][key], other[0][key]), key
    for ours, theirs in zip(row[1:4], other[1:4], strict=True):
        assert np.array_equal(ours, theirs)


@MODES
def test_steps_are_arrival_rows(parallel):
    vector = envs.make_vector(counting, [0, 1, 2], parallel)
    rows, moments = run(vector, 3 * (LENGTH + 1))
    vector.close()
    for t, ((obs, reward, terminated, truncated), (history, _)) in enumerate(zip(rows, moments, strict=True)):
        episode, step = divmod(t, LENGTH + 1)
        last = step == LENGTH
        assert obs["row"].tolist() == [[t]] * 3
        assert obs["step"].tolist() == [[step]] * 3
        assert obs["episode"].tolist() == [[episode]] * 3
        assert reward.tolist() == [float(step)] * 3
        assert terminated.tolist() == [last and episode % 2 == 0] * 3
        assert truncated.tolist() == [last and episode % 2 == 1] * 3
        expected = [taken[-1] if taken else np.zeros(2) for taken in history]
        assert np.array_equal(obs["action"], expected)


@pytest.mark.parametrize("task", ["dmc:cartpole_balance", "gym:CartPole-v1", "toy:copy_discrete"])
def test_processes_change_no_number(task):
    make = functools.partial(made, task=task, seed=3, time_limit=9, repeat=2)
    streams = []
    for parallel in (False, True):
        vector = envs.make_vector(make, [0, 5], parallel)
        streams.append(run(vector, 14)[0])
        vector.close()
    for row, other in zip(*streams, strict=True):
        assert_same(row, other)
    assert streams[0][5][3].tolist() == [True, True] or task == "gym:CartPole-v1"


@MODES
def test_observations_may_be_kept(parallel):
    vector = envs.make_vector(counting, [0, 1], parallel)
    rows, _ = run(vector, 3)
    vector.close()
    assert [row[0]["step"][0, 0] for row in rows] == [0, 1, 2, 3]


@MODES
@pytest.mark.parametrize("fresh", [True, False], ids=["new vector", "used vector"])
@pytest.mark.parametrize("task", ["dmc:pendulum_swingup", "toy:counting_discrete", "toy:copy"])
def test_restored_is_never_interrupted(task, fresh, parallel):
    """At an episode's start (row 6), in its middle (row 2, row 8) and with an autoreset pending (row 5)."""
    make = functools.partial(made, task=task, seed=7, time_limit=5)
    indices = [3, 0]
    vector = envs.make_vector(make, indices)
    rows, moments = run(vector, 14)
    vector.close()
    vector = envs.make_vector(make, indices, parallel)
    assert (rows[5][2] | rows[5][3]).all()
    for moment in (2, 5, 6, 8):
        if not fresh:
            run(vector, 5 + moment % 2, seed=moment)  # sometimes ends with an autoreset pending
        history, episodes = moments[moment]
        row = envs.restore_vector(vector, plans_of(history, episodes, indices))
        assert_same(row, rows[moment])
        assert list(vector.get_attr("episode")) == episodes
        for following in range(moment + 1, 15):
            future, _ = moments[following]
            actions = np.array([h[-1] if h else np.zeros_like(vector.single_action_space.sample()) for h in future])
            assert_same(vector.step(actions), rows[following])
    vector.close()


@MODES
def test_environments_are_restored_apart(parallel):
    """One in the middle of an episode, one at its end, one at its start."""
    plans = {0: (2, np.zeros((2, 2))), 1: (0, np.zeros((LENGTH, 2))), 2: (1, [])}
    vector = envs.make_vector(counting, [0, 1, 2], parallel)
    obs, reward, terminated, truncated = envs.restore_vector(vector, plans)
    assert obs["row"][:, 0].tolist() == [12, 4, 5]
    assert reward.tolist() == [2.0, 4.0, 0.0]
    assert (terminated.tolist(), truncated.tolist()) == ([False, True, False], [False] * 3)
    obs, reward, *_ = vector.step(np.ones((3, 2), np.float32))
    assert obs["row"][:, 0].tolist() == [13, 5, 6]
    assert obs["action"][:, 0].tolist() == [1, 0, 1]
    assert reward.tolist() == [3.0, 0.0, 1.0]
    obs, _ = vector.reset()
    assert obs["episode"][:, 0].tolist() == [3, 2, 2]
    vector.close()


def test_a_reset_after_a_restored_end_starts_one_episode_only():
    vector = envs.make_vector(counting, [0])
    envs.restore_vector(vector, {0: (0, np.zeros((LENGTH, 2)))})
    assert vector.reset()[0]["episode"].tolist() == [[1]]
    assert vector.step(np.zeros((1, 2)))[0]["row"].tolist() == [[LENGTH + 2]]
    vector.close()


def test_an_environment_that_ends_early_tells_by_its_answer():
    vector = envs.make_vector(counting, [0])
    obs, _, terminated, _ = envs.restore_vector(vector, {0: (0, np.zeros((LENGTH + 3, 2)))})
    assert (obs["step"].tolist(), terminated.tolist()) == ([[LENGTH]], [True])
    vector.close()


FAILURES = {
    "raises": (raise_unpicklable, False, "Unpicklable: spring broke"),
    "exits": (sys.exit, False, "SystemExit"),
    "hangs": (fall_asleep, False, "TimeoutError: no answer within 1 seconds"),
    "raises apart": (raise_unpicklable, True, "Unpicklable: spring broke"),
    "dies apart": (die, True, "the process of the environment died with exit code -9; it was killed"),
    "hangs apart": (
        fall_asleep,
        True,
        "the process of the environment gave no answer within 5 seconds and was terminated",
    ),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_costs_one_environment_its_episode_and_the_others_nothing(name, capfd):
    error, parallel, message = FAILURES[name]
    vector = envs.make_vector(
        functools.partial(breaking, error=error), [0, 1, 2], parallel, timeout=5.0 if parallel else 1.0
    )
    healthy = envs.make_vector(functools.partial(counting, length=10), [0, 1, 2])
    actions = np.full((3, 2), 0.5, np.float32)
    for one in (vector, healthy):
        one.reset()
        one.step(actions)
    *row, info = vector.step(actions)
    expected = healthy.step(actions)
    failed = envs.failures(info)
    assert list(failed) == [1] and failed[1].startswith(message), failed
    ((place, (first, again)),) = envs.restart_vector(vector, {1: 7}).items()
    assert (place, again, first["episode"], first["step"]) == (1, "", 7, 0)
    for again in (False, True):  # the one made anew breaks at its second step, too
        for i in (0, 2):
            assert all(np.array_equal(row[0][key][i], expected[0][key][i]) for key in row[0])
            assert row[1][i] == expected[1][i]
        *row, info = vector.step(actions)
        expected = healthy.step(actions)
        assert list(envs.failures(info)) == [1] * again
        if not again:
            assert (row[0]["episode"][1], row[0]["step"][1], row[1][1]) == (7, 1, 1)
    vector.close()
    assert parallel is False or not any(process.is_alive() for process in vector.processes)
    assert capfd.readouterr().err == ""


class Slow(Counting):
    """Takes a fifth of a second for a step."""

    def step(self, action):
        time.sleep(0.2)
        return super().step(action)


def slow(index):
    return envs.prepare(Slow(), seed=0, index=index)


@MODES
def test_going_back_to_a_moment_may_take_as_long_as_going_there(parallel):
    vector = envs.make_vector(slow, [0], parallel, timeout=1.0)
    obs, *_ = envs.restore_vector(vector, {0: (3, np.zeros((8, 2), np.float32))})
    assert (obs["episode"][0], obs["step"][0]) == (3, 8)
    vector.close()


def test_what_the_user_can_put_right_is_told_as_it_is(capfd):
    vector = envs.make_vector(functools.partial(breaking, error=raise_user_error), [0, 1, 2], parallel=True)
    vector.reset()
    vector.step(np.zeros((3, 2), np.float32))
    with pytest.raises(envs.UserError, match="^turn it on first$"):
        vector.step(np.zeros((3, 2), np.float32))
    assert vector.closed and not any(process.is_alive() for process in vector.processes)
    vector.close()
    assert capfd.readouterr().err == ""


class Wrong(Counting):
    """Answers its second step with what `spoil` makes of the right answer."""

    def __init__(self, spoil):
        super().__init__()
        self.spoil = spoil

    def step(self, action):
        answer = super().step(action)
        return self.spoil(*answer) if self._step == 2 else answer


def spoiled(key, value):
    return lambda obs, *rest: ({**obs, key: np.array(value, np.float32)}, *rest)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoiled("row", [np.nan]), "observation 'row' has a value that is not finite"),
        (spoiled("action", [0.0, -np.inf]), "observation 'action' has a value that is not finite"),
        (spoiled("action", [0.0, 0.0, 0.0]), "observation 'action' has shape (3,), but its space has (2,)"),
        (lambda obs, *rest: ({"row": obs["row"]}, *rest), "the observation has no 'action'"),
        (lambda obs, reward, *rest: (obs, float("nan"), *rest), "the reward is nan"),
        (lambda obs, reward, *rest: (obs, None, *rest), "the reward must be a number, got NoneType"),
        (lambda *answer: answer[:3], "step() must return (observation, reward, terminated, truncated, info), got a tu"),
    ],
)
def test_an_impossible_answer_is_a_failure(spoil, message):
    vector = envs.make_vector(lambda index: envs.prepare(Wrong(spoil), seed=0, index=index), [0])
    vector.reset()
    assert not envs.failures(vector.step(np.zeros((1, 2), np.float32))[4])
    *row, info = vector.step(np.zeros((1, 2), np.float32))
    assert message in envs.failures(info)[0].partition("\n")[0]
    assert not any(value.any() for value in row[0].values()) and not any(column[0] for column in row[1:])


def test_the_watchdog_spares_what_comes_to_its_end():
    for _ in range(3):
        WATCHDOG.begin(30.0)
        WATCHDOG.end()
    time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGVTALRM)  # one that comes too late
    with pytest.raises(TimeoutError, match=r"no answer within 0\.1 seconds"):
        WATCHDOG.begin(0.1)
        time.sleep(5)


def test_an_environment_that_cannot_be_built_is_one_exception():
    with pytest.raises(envs.WorkerError, match=r"environment 1 failed with RuntimeError.*no room for another one"):
        envs.make_vector(refusing, [0, 1], parallel=True)


@pytest.mark.filterwarnings("error")
def test_closing_in_the_middle_of_a_step_does_not_wait_for_it(capfd):
    vector = envs.make_vector(functools.partial(breaking, error=fall_asleep), [0, 1], parallel=True)
    vector.reset()
    vector.step(np.zeros((2, 2), np.float32))
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 1.0)
    with pytest.raises(KeyboardInterrupt):
        vector.step(np.zeros((2, 2), np.float32))
    started = time.monotonic()
    vector.close()
    assert time.monotonic() - started < 30
    assert not any(process.is_alive() for process in vector.processes)
    assert capfd.readouterr().err == ""


class Talkative(Counting):
    """Tells contacts, of which there are more at every step and in every environment."""

    def step(self, action):
        *answer, _ = super().step(action)
        return *answer, {"contacts": np.zeros((self._step + self._index, 3))}

    def __init__(self, index):
        super().__init__()
        self._index = index


@pytest.mark.parametrize("parallel", [False, True])
def test_what_environments_tell_besides_need_not_fit_together(parallel):
    make_env = lambda index: envs.prepare(Talkative(index), seed=0, index=index)  # noqa: E731
    vector = envs.make_vector(make_env, [0, 1], parallel=parallel)
    vector.reset()
    assert vector.step(np.zeros((2, 2), np.float32))[4] == {}
    vector.close()


def test_numbers_whose_sum_is_too_large_are_finite():
    sentinel = np.finfo(np.float32).max
    vector = envs.make_vector(
        lambda index: envs.prepare(Wrong(spoiled("action", [sentinel, sentinel])), seed=0, index=index), [0]
    )
    vector.reset()
    for _ in range(2):
        obs, *_, info = vector.step(np.zeros((1, 2), np.float32))
        assert not envs.failures(info)
    assert (obs["action"] == sentinel).all()
