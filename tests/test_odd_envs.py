"""Odd environments: what fits is cast, everything else is one line; the same in this process and in others."""

from __future__ import annotations

import pickle
from collections.abc import Mapping

import numpy as np
import pytest
from odd import CASES

import envs
import envs.parallel
from envs.errors import first_line
from envs.worker import _answer


class LocalWorker:
    """A worker whose process is this one; answers go through pickle, as through a pipe."""

    def __init__(self, builders, context):
        self.places, self._builders, self._built, self._answers = list(builders), builders, {}, []

    def send(self, calls: Mapping | None):
        self._answers += [_answer(place, call, self._builders, self._built) for place, call in (calls or {}).items()]

    def receive(self, place, limit):
        answer, error = pickle.loads(pickle.dumps(self._answers.pop(0)))
        if error is not None:
            raise error[0](error[1])
        return answer

    def end(self, seconds):
        self._answers.clear()


def factory(case):
    return envs.EnvFactory("odd", 0, envs.EnvSettings(**case.settings), custom=case.build)


def stream(make_env, parallel, steps=5):
    """Space, observations, rewards, ends and first failure of the environment's first steps."""
    vector = envs.make_vector(make_env, [0], parallel=parallel)
    obs, info = vector.reset()
    rows = [(obs,)]
    while not envs.failures(info) and len(rows) <= steps:
        *row, info = vector.step(vector.action_space.sample() * 0)
        rows.append(row)
    space = vector.single_observation_space
    vector.close()
    return space, rows, first_line(envs.failures(info).get(0, "nothing failed"))


def flat(rows):
    return [value.tolist() for obs, *rest in rows for value in (*obs.values(), *rest)]


@pytest.fixture
def local(monkeypatch):
    monkeypatch.setattr(envs.parallel, "Worker", LocalWorker)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_odd_environment_is_cast_or_named_the_same_everywhere(name, local):
    case = CASES[name]
    outcomes = []
    for parallel in (False, True):
        try:
            space, rows, failure = stream(factory(case), parallel)
        except envs.UserError as error:
            assert case.refused and case.refused in str(error) and "\n" not in str(error)
            outcomes.append(str(error))
            continue
        assert not case.refused
        outcomes.append((flat(rows), failure))
        assert (case.fails or "nothing failed") in failure
        if case.fails:
            continue
        (obs,), *steps = rows
        assert {key: box.shape for key, box in space.items()} == case.shapes
        assert all(obs[key].dtype == box.dtype and obs[key].shape == (1, *box.shape) for key, box in space.items())
        if case.first is not None:
            assert obs["observation"][0].tolist() == np.asarray(case.first).tolist()
        if case.truncated:
            assert [bool(row[3][0]) for row in steps].index(True) + 1 == case.truncated
    assert outcomes[0] == outcomes[1]


TOGETHER = (
    "a scalar",
    "NaN",
    "text",
    "another length",
    "a NaN reward",
    "no reward",
    "the old step",
    "a step that exits",
)


def test_odd_environments_fail_apart_from_each_other_in_processes():
    """The corpus in one vector of real processes: each has its own failure, and the first none."""
    factories = [factory(CASES[name]) for name in TOGETHER]
    vector = envs.make_vector(lambda index: factories[index](index), range(len(TOGETHER)), parallel=True)
    failed = envs.failures(vector.reset()[1])
    for _ in range(2):
        failed |= envs.failures(vector.step(np.zeros((len(TOGETHER), 1), np.float32))[4])
    vector.close()
    assert failed.keys() == set(range(1, len(TOGETHER)))
    assert all(CASES[TOGETHER[place]].fails in first_line(text) for place, text in failed.items())
