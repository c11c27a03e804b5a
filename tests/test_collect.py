"""Collecting: a restored collector goes on with the same rows; an environment that cannot be restored starts over."""

from __future__ import annotations

import dataclasses
import io
import random

import numpy as np
import pytest
import torch
from gymnasium import spaces
from running import tiny_config

import envs
from dreamer.agent import Agent
from dreamer.experience.collect import Collector
from dreamer.experience.layout import RowLayout
from dreamer.experience.policy import ActingPolicy
from dreamer.experience.replay import Replay, ReplayConfig
from dreamer.experience.spaces import spec_of
from envs.toy import Copy, Counting

NUM_ENVS = 2


class Noisy(Counting):
    """Counts, and shows a number that no seed decides if it is unsteady."""

    def __init__(self, unsteady):
        super().__init__(length=5)
        self._unsteady = unsteady
        self.observation_space = spaces.Dict({**self.observation_space, "noise": spaces.Box(0, 1, (1,), np.float32)})

    def _observation(self, action):
        noise = random.SystemRandom().random() if self._unsteady else 0.0
        return {**super()._observation(action), "noise": np.array([noise], np.float32)}


@dataclasses.dataclass(frozen=True)
class Tally:
    """Carry of `Scripted`."""

    seen: torch.Tensor
    action: torch.Tensor


class Scripted:
    """A policy without a model: acts by how many rows of the episode it has seen, and remembers that."""

    def __init__(self, action):
        self.action, self.device = action, torch.device("cpu")

    def initial_carry(self, num_envs):
        return Tally(torch.zeros(num_envs, 1), torch.zeros(num_envs, self.action.dim))

    def step(self, obs, is_first, carry):
        seen = torch.where(is_first.unsqueeze(1), 0.0, carry.seen) + 1
        return Tally(seen, (seen / 10).expand(-1, self.action.dim))

    def pack_carry(self, carry):
        return carry.seen

    def unpack_carry(self, packed, action):
        return Tally(packed, action)


class Brief(Counting):
    """Counts in episodes that get shorter with every environment made."""

    made = 0

    def __init__(self):
        Brief.made += 1
        super().__init__(length=8 - 2 * Brief.made)
        self.observation_space = spaces.Dict({**self.observation_space, "step": self.observation_space["row"]})


def steady(discrete=False):
    def make_env(index):
        return envs.prepare(Copy(length=4, discrete=discrete), seed=3, index=index)

    return make_env


def half_unsteady(index):
    """Only environment 1 is unsteady."""
    return envs.prepare(Noisy(unsteady=index == 1), seed=0, index=index)


def make_collector(make_env, parallel=False, num_envs=NUM_ENVS, **exploring):
    vector = envs.make_vector(make_env, list(range(num_envs)), parallel)
    torch.manual_seed(0)
    agent = Agent(tiny_config().agent, *spec_of(vector.single_observation_space, vector.single_action_space))
    return Collector(agent, vector, list(range(num_envs)), **exploring)


def collect(collector, steps):
    """Rows, packed states and finished episodes of some steps, in one flat list of arrays."""
    seen = []
    for _ in range(steps):
        packed = collector.act()
        row = collector.arrived
        seen += [*row.obs.values(), row.prev_action, row.reward, row.is_first, row.is_last, row.is_terminal, packed]
        seen += [np.array([(episode.reward, episode.length) for episode in collector.advance()])]
    return seen


def through_a_file(state):
    """As a checkpoint would keep it."""
    file = io.BytesIO()
    torch.save(state, file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=True)


def assert_same(left, right):
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("steps", [0, 1, 3, 4, 5, 12])
def test_a_restored_collector_goes_on_exactly(steps, discrete):
    """Also at the first row of an episode (0, 5), at its last (4), after several episodes, and amid random actions."""
    exploring = {"epsilon": 0.5, "hold": 3}
    collector = make_collector(steady(discrete), **exploring)
    collector.reset()
    collect(collector, steps)
    state, rng = through_a_file(collector.state_dict()), torch.get_rng_state()
    expected = collect(collector, 11)

    again = make_collector(steady(discrete), **exploring)
    again.load_state_dict(state)
    assert again.reopen() == []
    torch.set_rng_state(rng)
    assert_same(collect(again, 11), expected)


@pytest.mark.parametrize("discrete", [False, True])
def test_random_actions_are_those_that_environments_and_rows_get(discrete):
    """Held for longer than an episode of four steps, every one fills its episode, and the next one has another."""
    collector = make_collector(steady(discrete), epsilon=1.0, hold=1000)
    collector.reset()
    rows = []
    for _ in range(100):
        rows.append(collector.arrived)
        collector.act()
        collector.advance()
    actions, shown = np.stack([row.prev_action for row in rows]), np.stack([row.obs["action"] for row in rows])
    np.testing.assert_array_equal(shown, actions)
    episodes = actions.reshape(20, 5, NUM_ENVS, -1)[:, 1:]
    assert (episodes == episodes[:, :1]).all() and np.abs(episodes).max() <= 1
    assert len(np.unique(episodes[:, 0].reshape(40, -1), axis=0)) == (2 if discrete else 40)


def test_a_restored_collector_goes_on_exactly_with_environments_in_processes():
    collectors = [make_collector(steady(), parallel) for parallel in (True, False, True)]
    collectors[0].reset()
    collect(collectors[0], 7)
    state, rng = through_a_file(collectors[0].state_dict()), torch.get_rng_state()
    expected = collect(collectors[0], 11)
    for collector in collectors[1:]:
        collector.load_state_dict(state)
        assert collector.reopen() == []
        torch.set_rng_state(rng)
        assert_same(collect(collector, 11), expected)
    for collector in collectors:
        collector.vector.close()


@pytest.mark.parametrize("steps", [3, 5, 6])
def test_an_environment_that_does_not_repeat_itself_starts_a_new_episode(steps):
    """The others go on; 3 stops in the middle of an episode, 5 at its last row, 6 at the first of the next."""
    collector = make_collector(half_unsteady)
    collector.reset()
    collect(collector, steps)
    before = collector.arrived
    state = through_a_file(collector.state_dict())

    again = make_collector(half_unsteady)
    again.load_state_dict(state)
    assert again.reopen() == [1]
    row = again.arrived
    for key in before.obs:
        assert (row.obs[key][0] == before.obs[key][0]).all()
    for name in ("prev_action", "reward", "is_first", "is_last", "is_terminal"):
        assert (getattr(row, name)[0] == getattr(before, name)[0]).all()
    assert row.is_first[1] and not row.is_last[1] and not row.is_terminal[1]
    assert row.reward[1] == 0 and not row.prev_action[1].any()
    assert row.obs["step"][1] == 0 and row.obs["episode"][1] == before.obs["episode"][1] + 1

    finished, starts = [], {0: [], 1: []}
    for position in range(14):
        again.act()
        for index in np.flatnonzero(again.arrived.is_first):
            starts[index].append(position)
        finished += again.advance()
        assert again.arrived.obs["episode"].ravel().tolist() == again.episodes
    assert starts[1] == [0, 6, 12]
    assert {(episode.reward, episode.length) for episode in finished} == {(15.0, 5)}


def test_replay_ends_the_episode_that_could_not_be_restored(tmp_path):
    collector = make_collector(half_unsteady)
    obs_shapes, action = collector.policy.obs_shapes, collector.policy.action
    layout = RowLayout(obs_shapes, action.dim, collector.policy.world_model.core.packed_dim)
    replay = Replay(ReplayConfig(1000, online=False), tmp_path, layout, NUM_ENVS, 16, 4, 10, 0)

    def store(collector, steps):
        for _ in range(steps):
            packed = collector.act()
            replay.append(collector.arrived, packed)
            collector.advance()

    collector.reset()
    store(collector, 9)  # row 9, the fourth of the second episode, has arrived and is not stored
    again = make_collector(half_unsteady)
    again.load_state_dict(collector.state_dict())
    assert again.reopen() == [1]
    store(again, 9)
    episodes = {}
    for _ in range(40):
        batch, windows = replay.sample()
        for i in np.flatnonzero(windows.stream == 1):
            for t in range(3):
                flags = batch.is_first[i, t].item(), batch.is_last[i, t].item(), batch.is_terminal[i, t].item()
                step = batch.obs["step"][i, t].item()
                episodes[int(windows.start[i] + t)] = (batch.obs["episode"][i, t].item(), step, *flags)
    assert episodes[8] == (1, 2, False, True, False)
    assert episodes[9] == (2, 0, True, False, False)
    assert episodes[10] == (2, 1, False, False, False)
    assert episodes[14] == (2, 5, False, True, True)


def test_an_environment_that_ends_before_its_actions_do_starts_a_new_episode():
    def make_env(index):
        return envs.prepare(Brief(), seed=0, index=index)

    Brief.made = 0
    collector = make_collector(make_env, num_envs=1)  # episodes of 6 steps
    collector.reset()
    collect(collector, 5)
    again = make_collector(make_env, num_envs=1)  # episodes of 4
    again.load_state_dict(collector.state_dict())
    assert again.reopen() == [0]
    assert again.arrived.is_first.all() and again.arrived.obs["episode"] == 1
    collect(again, 4)
    assert again.arrived.is_last.all()


class Broken(Counting):
    """Cannot begin an episode any more."""

    def reset(self, *, seed=None, options=None):
        raise RuntimeError("no power")


def test_an_environment_that_cannot_begin_again_is_one_line():
    collector = make_collector(lambda index: envs.prepare(Counting(), seed=0, index=index), num_envs=1)
    collector.reset()
    collect(collector, 5)
    again = make_collector(lambda index: envs.prepare(Broken(), seed=0, index=index), num_envs=1)
    again.load_state_dict(collector.state_dict())
    with pytest.raises(envs.UserError, match="^environment 0 cannot be restored: RuntimeError: no power$"):
        again.reopen()


def test_any_policy_can_collect():
    """Its memory is returned to be stored, restored with the episodes, and nothing else is asked of it."""

    def make():
        vector = envs.make_vector(steady(), list(range(NUM_ENVS)))
        policy = Scripted(spec_of(vector.single_observation_space, vector.single_action_space).action)
        assert isinstance(policy, ActingPolicy)
        return Collector(policy, vector, list(range(NUM_ENVS)))

    collector = make()
    collector.reset()
    packed = []
    for _ in range(7):
        packed.append(collector.act()[:, 0].tolist())
        collector.advance()
    assert packed == [[n, n] for n in (1, 2, 3, 4, 5, 1, 2)]
    np.testing.assert_allclose(collector.arrived.prev_action, 0.2)
    again = make()
    again.load_state_dict(through_a_file(collector.state_dict()))
    assert again.reopen() == []
    assert_same(collect(again, 9), collect(collector, 9))


def test_a_collector_without_a_row_says_so():
    with pytest.raises(RuntimeError, match="reset"):
        make_collector(steady()).act()
