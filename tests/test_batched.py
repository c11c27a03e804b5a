"""Vector environments that are batched themselves, under the contract of all others."""

from __future__ import annotations

import time
from importlib.util import find_spec
from typing import ClassVar

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space
from running import newest, timeless, tiny_config
from tiny import unchecked

import dreamer
import envs
from envs.batched import BatchedEnvs

LENGTH = 4


class CountingBatch(VectorEnv):
    """`toy:counting` of all environments at once: environment i has episodes of LENGTH + i steps."""

    metadata: ClassVar = {"autoreset_mode": AutoresetMode.NEXT_STEP}

    def __init__(self, num_envs, breaks_at=-1):
        self.num_envs, self.breaks_at, self.calls = num_envs, breaks_at, 0
        parts = {"step": spaces.Box(0.0, 99.0, (1,), np.float32), "parity": spaces.Discrete(2, start=3)}
        self.single_observation_space = spaces.Dict(parts)
        self.single_action_space = spaces.Box(-2.0, 4.0, (2,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.seeds, self.taken = [], []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seeds.append(seed)
        self.count, self.over = np.zeros(self.num_envs, np.int64), np.zeros(self.num_envs, bool)
        return self._observed(), {}

    def step(self, actions):
        self.calls += 1
        self.taken.append(actions)
        self.count = np.where(self.over, 0, self.count + 1)
        rewards = np.where(self.over, 0.0, self.count)
        if self.calls == self.breaks_at:
            rewards[1] = np.nan
        self.over = self.count >= LENGTH + np.arange(self.num_envs)
        return self._observed(), rewards, self.over & (self.count % 2 == 0), self.over & (self.count % 2 == 1), {}

    def _observed(self):
        return {"step": self.count[:, None].astype(np.float32), "parity": 3 + self.count % 2}


def counting(num_envs):
    return CountingBatch(num_envs)


def factory(make_env=counting, **settings):
    return envs.EnvFactory("counting", 0, envs.EnvSettings(**settings), custom=make_env)


def test_the_stream_of_a_batch_has_the_rows_of_the_timeline():
    vector = factory().vector([0, 1])
    assert isinstance(vector, BatchedEnvs)
    obs, info = vector.reset()
    assert list(obs) == ["parity", "step"] and obs["parity"].shape == (2, 1, 2) and not info
    rows = []
    for _ in range(11):
        obs, rewards, terminated, truncated, info = vector.step(np.array([[-1.0, 1.0], [0.0, 9.0]], np.float32))
        assert not envs.failures(info) and obs["step"].dtype == np.float32
        assert np.array_equal(obs["parity"][:, 0].argmax(-1), obs["step"][:, 0] % 2)
        rows.append((obs["step"][:, 0].tolist(), rewards.tolist(), terminated.tolist(), truncated.tolist()))
    steps, rewards, terminated, truncated = (np.array(column) for column in zip(*rows, strict=True))
    assert steps.T.tolist() == [[1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1], [1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5]]
    assert np.array_equal(rewards, steps)
    assert terminated.T.tolist() == [[step == 4 for step in steps[:, 0]], [False] * 11]
    assert truncated.T.tolist() == [[False] * 11, [step == 5 for step in steps[:, 1]]]
    assert vector.batch.taken[0].tolist() == [[-2.0, 4.0], [1.0, 4.0]]  # clipped, and in the environment's own range


def test_one_of_a_batch_is_an_environment_like_all_others():
    env = factory(hide=("parity",))(3)
    obs, _ = env.reset()
    assert list(obs) == ["step"]
    for step in range(1, LENGTH + 1):
        obs, reward, terminated, truncated, _ = env.step(np.zeros(2, np.float32))
        assert (obs["step"][0], reward) == (step, step)
    assert terminated and not truncated
    assert env.reset()[0]["step"] == 0


def test_restarts_are_seeded_and_positions_inside_episodes_are_not_claimed():
    vector = factory().vector([4, 5])
    vector.reset()
    first = list(vector.batch.seeds)
    again = factory().vector([4, 5])
    _, rewards, _, _ = envs.restore_vector(again, {4: (0, []), 5: (0, [np.zeros(2)])})
    assert again.batch.seeds[-1] == first[0] and rewards[0] == 0 and np.isnan(rewards[1])
    answers = envs.restart_vector(again, {4: 7, 5: 2})
    assert [failure for _, failure in answers.values()] == ["", ""] and again.batch.seeds[-1] not in first
    other = factory().vector([6, 7])
    other.reset()
    assert other.batch.seeds != first


def test_a_failure_of_one_is_one_of_all_and_they_start_again():
    vector = factory(lambda num_envs: CountingBatch(num_envs, breaks_at=3)).vector([0, 1])
    vector.reset()
    actions = np.zeros((2, 2), np.float32)
    vector.step(actions), vector.step(actions)
    obs, rewards, terminated, truncated, info = vector.step(actions)
    assert not obs["step"].any() and not rewards.any() and not (terminated | truncated).any()
    texts = envs.failures(info)
    assert list(texts) == [0, 1] and texts[0].startswith("ValueError: the reward of environment 1 is nan\n")
    answers = envs.restart_vector(vector, {0: 1, 1: 1})
    assert all(not failure and obs["step"] == 0 for obs, failure in answers.values())
    assert vector.step(actions)[0]["step"].tolist() == [[1.0], [1.0]]


class Hanging(CountingBatch):
    def step(self, actions):
        time.sleep(30)


def test_a_batch_that_hangs_has_failed():
    vector = factory(lambda num_envs: Hanging(num_envs)).vector([0, 1], timeout=0.2)
    vector.reset()
    began = time.monotonic()
    info = vector.step(np.zeros((2, 2), np.float32))[-1]
    assert time.monotonic() - began < 10
    assert envs.failures(info)[1].startswith("TimeoutError: no answer within 0.2 seconds")


class Unmarked(CountingBatch):
    metadata: ClassVar = {}


class SameStep(CountingBatch):
    metadata: ClassVar = {"autoreset_mode": AutoresetMode.SAME_STEP}


@pytest.mark.parametrize(
    ("make_env", "settings", "message"),
    [
        (
            lambda num_envs: Unmarked(num_envs),
            {},
            "name AutoresetMode.NEXT_STEP in its metadata, and this one has",
        ),
        (lambda num_envs: SameStep(num_envs), {}, "and this one has SAME_STEP"),
        (lambda num_envs: CountingBatch(num_envs + 1), {}, r"asked for 1 environment\(s\) and returned 2"),
        (lambda num_envs: gymnasium.Env(), {}, "must return a gymnasium.vector.VectorEnv, got Env"),
        (lambda: CountingBatch(2), {}, "a make_env that returns a VectorEnv must have the argument num_envs"),
        (counting, {"repeat": 2}, "as one batch cannot have repeat 2, only 1"),
        (counting, {"time_limit": 3}, "cannot have time_limit 3, only 0; let"),
        (counting, {"flicker": 0.5}, "cannot have flicker 0.5"),
    ],
)
def test_what_a_batch_cannot_do_is_one_line(make_env, settings, message):
    with pytest.raises(envs.UserError, match=message):
        made = factory(make_env, **settings)
        made(0)
        made.vector([0, 1])


def test_tasks_with_a_batched_version_have_a_name():
    made = envs.EnvFactory("gym-vector:CartPole-v1", 3)
    vector, alone = made.vector([0, 1, 2]), envs.make("gym-vector:CartPole-v1", seed=3)
    assert vector.single_action_space == alone.action_space == spaces.Discrete(2)
    obs, _ = vector.reset()
    assert obs["observation"].shape == (3, 4)
    assert vector.batch.render_mode is None and alone.render_mode == ("rgb_array" if find_spec("pygame") else None)
    obs, rewards, *_ = vector.step(np.array([0, 1, 1]))
    assert rewards.tolist() == [1.0] * 3 and obs["observation"][0, 1] < obs["observation"][1, 1]
    with pytest.raises(envs.UserError, match="Pendulum-v1 has no batched version .* use gym:Pendulum-v1"):
        envs.make("gym-vector:Pendulum-v1")
    with pytest.raises(envs.UserError, match="did you mean gym-vector:CartPole-v1"):
        envs.make("gym-vector:CartPole-v9")


def sync(num_envs):
    return SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")] * num_envs)


@pytest.mark.slow
def test_a_run_trains_in_a_batch_and_resumes_with_new_episodes(tmp_path, capsys):
    config = tiny_config("gym-vector:CartPole-v1", **{"env.num_envs": 4, "steps": 80, "env.time_limit": 0})
    with unchecked():
        result = dreamer.train(config, run_dir=tmp_path / "run")
        longer = dreamer.resume(tmp_path / "run", config=dreamer.config.override(config, {"steps": 160}))
    assert (result.step, longer.step) == (80, 160)
    lost = "environments [0, 1, 2, 3] did not replay their open episode identically; they start a new one"
    assert lost in capsys.readouterr().err
    assert newest(tmp_path / "run")["replay"]["head"] == 40
    assert timeless(tmp_path / "run")[-1]["eval/episodes"] == 2


def test_environments_in_a_batch_are_not_stepped_in_parallel(tmp_path):
    config = tiny_config("gym-vector:CartPole-v1", **{"env.parallel": "on"})
    with pytest.raises(envs.UserError, match="as one batch cannot have time_limit 100, only 0"):
        dreamer.train(config, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    config = dreamer.config.override(config, {"env.time_limit": 0})
    with pytest.raises(envs.UserError, match="--env.parallel on: the environments of gym-vector:CartPole-v1"):
        dreamer.train(config, run_dir=tmp_path / "run")


def test_gymnasiums_own_vectors_are_batches():
    vector = factory(sync).vector([0, 1])
    obs, _ = vector.reset()
    assert obs["observation"].shape == (2, 4) and not np.array_equal(*obs["observation"])
