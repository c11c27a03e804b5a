"""From environment to training batch: every row is where the timeline in `dreamer/batch.py` says it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces
from running import tiny_config
from tiny import mode_latents

import envs
from dreamer.agent import Agent
from dreamer.experience.collect import Collector
from dreamer.experience.layout import RowLayout
from dreamer.experience.replay import Replay, ReplayConfig
from dreamer.experience.spaces import spec_of
from envs.toy import Counting

NUM_ENVS, LENGTH, STEPS = 3, 5, 60


def episode_length(index):
    return 3 + index


def counting_factory(discrete=False, **settings):
    """Environments of different episode lengths; nested, so that worker processes need not import the tests."""

    def make_env(index):
        env = Counting(3 + index, discrete=discrete)
        env.observation_space = spaces.Dict({**env.observation_space, "step": env.observation_space["row"]})
        return envs.prepare(env, seed=0, index=index, **settings)

    return make_env


class Pipeline:
    """Agent, collector and replay as the training loop puts them together, and what went through them."""

    def __init__(self, path, make_env, parallel=False, capacity=1000):
        indices = list(range(NUM_ENVS))
        self.vector = envs.make_vector(make_env, indices, parallel)
        obs_shapes, action = spec_of(self.vector.single_observation_space, self.vector.single_action_space)
        torch.manual_seed(0)
        self.agent = Agent(tiny_config().agent, obs_shapes, action)
        self.collector = Collector(self.agent, self.vector, indices)
        self.layout = RowLayout(obs_shapes, action.dim, self.agent.world_model.core.packed_dim)
        self.replay = Replay(ReplayConfig(capacity), path, self.layout, NUM_ENVS, 8, LENGTH, 10, seed=0)
        self.rows, self.states, self.chosen, self.finished = [], [], [], []

    def run(self, steps):
        if not self.rows:
            self.collector.reset()
        for _ in range(steps):
            packed = self.collector.act()
            self.replay.append(self.collector.arrived, packed)
            self.rows.append(self.collector.arrived)
            self.states.append(packed)
            self.chosen.append(self.collector.carry.action.numpy().copy())
            self.finished.append(self.collector.advance())
        return self


@pytest.fixture(scope="module", params=["sync", "async", "sync-discrete", "async-discrete"])
def pipeline(request, tmp_path_factory):
    kind, _, discrete = request.param.partition("-")
    made = Pipeline(tmp_path_factory.mktemp("replay"), counting_factory(bool(discrete)), kind == "async")
    yield made.run(STEPS)
    made.vector.close()


def expected(index, position):
    """What the timeline says of row `position` of environment `index`."""
    episode, step = divmod(position, episode_length(index) + 1)
    is_last = step == episode_length(index)
    return {
        "step": step,
        "episode": episode,
        "row": position,
        "reward": float(step),
        "is_first": step == 0,
        "is_last": is_last,
        "is_terminal": is_last and episode % 2 == 0,
    }


def test_every_collected_row_is_where_the_timeline_puts_it(pipeline):
    """Pitfalls 2, 6 and 48: an episode of n steps is n + 1 rows, each with the reward and flags it arrived with."""
    for position, row in enumerate(pipeline.rows):
        for index in range(NUM_ENVS):
            want = expected(index, position)
            for key in ("step", "episode", "row"):
                assert row.obs[key][index] == want[key], (key, index, position)
            for name in ("reward", "is_first", "is_last", "is_terminal"):
                assert getattr(row, name)[index] == want[name], (name, index, position)
    endings = {bool(row.is_terminal[i]) for row in pipeline.rows for i in range(NUM_ENVS) if row.is_last[i]}
    assert endings == {True, False}


def test_prev_action_is_the_one_that_led_to_the_observation(pipeline):
    """Pitfall 1: in the rows as they are collected."""
    for position, row in enumerate(pipeline.rows):
        for index in range(NUM_ENVS):
            arrived_by = row.obs["action"][index]
            if row.is_first[index]:
                assert not row.prev_action[index].any() and not arrived_by.any()
            else:
                assert (row.prev_action[index] == pipeline.chosen[position - 1][index]).all(), (index, position)
                assert (arrived_by == row.prev_action[index].clip(-1, 1)).all(), (index, position)
    assert len({tuple(action) for chosen in pipeline.chosen for action in chosen}) > 1


def test_actions_are_stored_as_drawn_and_clipped_for_the_environment_alone(pipeline):
    drawn = np.concatenate(pipeline.chosen)
    if pipeline.agent.action.discrete:
        assert (drawn.sum(-1) == 1).all() and set(np.unique(drawn)) == {0.0, 1.0}
    else:
        assert (np.abs(drawn) > 1).any()
    assert np.abs(np.concatenate([row.obs["action"] for row in pipeline.rows])).max() <= 1


def test_sampled_windows_are_the_collected_rows(pipeline):
    starts = set()
    for _ in range(30):
        batch, windows = pipeline.replay.sample()
        for i, (index, start) in enumerate(zip(windows.stream, windows.start, strict=True)):
            starts.add((index, start))
            assert (batch.context[i].numpy() == pipeline.states[start - 1][index]).all()
            for t in range(LENGTH):
                row = pipeline.rows[start + t]
                for key, value in row.obs.items():
                    assert (batch.obs[key][i, t].numpy() == value[index]).all(), (key, index, start, t)
                for name in ("prev_action", "reward", "is_first", "is_last", "is_terminal"):
                    assert (getattr(batch, name)[i, t].numpy() == getattr(row, name)[index]).all(), (name, start, t)
    assert len(starts) > 2 * STEPS


def test_finished_episodes_are_told_once_with_their_reward_and_length(pipeline):
    # What `advance` returns belongs to the row that has then arrived.
    for position, finished in enumerate(pipeline.finished, start=1):
        lengths = [episode_length(i) for i in range(NUM_ENVS) if expected(i, position)["is_last"]]
        assert [episode.length for episode in finished] == lengths
        assert [episode.reward for episode in finished] == [length * (length + 1) / 2 for length in lengths]


def test_a_time_limit_of_the_wrapper_is_never_terminal(tmp_path):
    made = Pipeline(tmp_path, counting_factory(time_limit=2)).run(20)
    last = np.array([row.is_last for row in made.rows])
    assert (last == (np.arange(20) % 3 == 2)[:, None]).all()
    assert not any(row.is_terminal.any() for row in made.rows)


def test_a_wrapped_ring_still_gives_consecutive_rows(tmp_path):
    """Pitfalls 11 and 12: with the rows of real environments."""
    made = Pipeline(tmp_path, counting_factory(), capacity=NUM_ENVS * 20).run(95)
    for _ in range(20):
        batch, windows = made.replay.sample()
        rows = batch.obs["row"][..., 0].numpy()
        assert (rows == windows.start[:, None] + np.arange(LENGTH)).all() and rows.min() > 95 - 20 - 1
        for i, index in enumerate(windows.stream):
            flags = [expected(index, int(row))["is_terminal"] for row in rows[i]]
            assert batch.is_terminal[i].tolist() == flags


def test_acting_and_training_filter_the_same_rows_to_the_same_states(tmp_path):
    with mode_latents():
        made = Pipeline(tmp_path, counting_factory()).run(30)
        model = made.agent.world_model
        stacked = {
            key: torch.from_numpy(np.stack([row.obs[key] for row in made.rows], 1)) for key in made.layout.obs_shapes
        }
        action, first = (
            torch.from_numpy(np.stack([getattr(row, name) for row in made.rows], 1))
            for name in ("prev_action", "is_first")
        )
        with torch.no_grad():
            states = model.core.pack(model.core.observe(model.encoder(stacked), action, first))
        acted = torch.from_numpy(np.stack(made.states, 1))
        assert acted.std() > 0.01
        torch.testing.assert_close(states, acted, atol=1e-5, rtol=1e-4)
        # A window that starts from its stored context continues the same filter.
        for _ in range(10):
            batch, windows = made.replay.sample()
            with torch.no_grad():
                filtered = model.core.pack(model.observe(batch))
            for i, (index, start) in enumerate(zip(windows.stream, windows.start, strict=True)):
                torch.testing.assert_close(filtered[i], acted[index, start : start + LENGTH], atol=1e-5, rtol=1e-4)


def test_act_takes_raw_observations_to_the_same_states_as_collecting(tmp_path):
    """Preprocessing, resets and the previous action are those of training, one environment at a time too."""
    with mode_latents():
        made = Pipeline(tmp_path, counting_factory()).run(25)
        for index in range(NUM_ENVS):
            state = None
            for position, row in enumerate(made.rows):
                _, state = made.agent.act(
                    {key: value[index] for key, value in row.obs.items()}, row.is_first[index], state
                )
                packed = made.agent.world_model.core.pack(state.state)[0].numpy()
                np.testing.assert_allclose(packed, made.states[position][index], atol=1e-5, rtol=1e-4)
                # The policy is random: go on with the action that the collector took.
                state = type(state)(state.state, torch.from_numpy(made.chosen[position][index : index + 1]))
