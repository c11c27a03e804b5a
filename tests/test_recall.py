"""The memory test: the cue is shown once and nowhere else, and query rows earn it."""

from __future__ import annotations

import numpy as np
import pytest

import envs
from envs.recall import Recall

STILL = np.zeros(1, np.float32)


def episode(env, seed, action=None):
    """The first row's observation, then `(cue, query, reward)` of each step `[time, 3]`."""
    first, _ = env.reset(seed=seed)
    rows, over = [], False
    while not over:
        obs, reward, terminated, over, _ = env.step(STILL if action is None else action)
        assert not terminated
        rows.append((obs["cue"][0], obs["query"][0], reward))
    return first, np.array(rows)


def test_query_rows_earn_the_cue_that_only_the_first_row_shows():
    env, cues = Recall(), set()
    for seed in range(20):
        first, rows = episode(env, seed)
        cue = float(first["cue"][0])
        cues.add(cue)
        shown, asked, earned = rows.T
        assert first["query"].tolist() == [0.0]
        assert len(rows) == 201
        assert not shown.any()
        assert set(asked) == {0.0, 1.0}
        assert earned.tolist() == (cue * asked).tolist()
        assert asked[[9, 49, 199]].tolist() == [1.0, 1.0, 1.0]
    assert cues == {-1.0, 1.0}


def test_cues_are_fair_and_other_queries_are_as_likely_as_asked():
    env, cues, asked = Recall(), [], []
    for seed in range(300):
        first, rows = episode(env, seed)
        cues.append(first["cue"][0])
        asked.append(rows[:, 1])
    by_chance = np.delete(np.array(asked), [9, 49, 199], axis=1)
    assert np.mean(cues) == pytest.approx(0, abs=3 / np.sqrt(300))
    assert by_chance.mean() == pytest.approx(0.1, abs=3 * np.sqrt(0.09 / by_chance.size))
    assert abs(np.corrcoef(cues, by_chance.mean(1))[0, 1]) < 0.2
    assert by_chance.mean(0).max() < 0.2


def test_when_it_asks_can_be_chosen():
    _, rows = episode(Recall(delays=(2, 5), query_probability=0.0), seed=0)
    assert rows[:, 1].tolist() == [0, 1, 0, 0, 1, 0]


def test_actions_change_nothing():
    env = Recall()
    for action in (np.array([1.0], np.float32), np.array([-1.0], np.float32)):
        assert np.array_equal(episode(env, 4, action)[1], episode(env, 4)[1])


def test_it_is_a_task():
    env = envs.make("toy:recall", seed=1)
    assert isinstance(env.unwrapped, Recall)
    assert list(env.observation_space) == ["cue", "query"]
