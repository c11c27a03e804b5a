"""Partial observation: what is hidden, blurred or lost, the same way whenever the seed is the same."""

from __future__ import annotations

import dataclasses
import functools
import json
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from running import differences, newest, timeless, tiny_config, tiny_flags

import dreamer
import envs
from dreamer.cli.main import main
from dreamer.config import compose, from_json, to_json
from dreamer.training import launch
from envs.dmc import dmc_tasks
from envs.toy import Chain
from envs.velocities import IN_GYM
from envs.wrappers import NamedObservations

EVERYTHING = {"hide": ("velocity",), "flicker": 0.3, "obs_noise": 0.1}
FORCES = {"foot_forces", "force_torque", "imu", "inertial_sensors", "touch", "touch_sensors"}
"""What dm_control's sensors measure of forces and accelerations depends on velocities, but is none."""


class Constant(gymnasium.Env):
    """Shows `first` = (1, 2) and `second` = 3 in episodes of `length` steps."""

    def __init__(self, length=50):
        self.observation_space = spaces.Dict(
            {"first": spaces.Box(1.0, 2.0, (2,), np.float32), "second": spaces.Box(-9.0, -3.0, (1,), np.float32)}
        )
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self._length = length

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._step = 0
        return self.shown(), {}

    def step(self, action):
        self._step += 1
        return self.shown(), 0.0, False, self._step >= self._length, {}

    def shown(self):
        return {"first": np.array([1.0, 2.0], np.float32), "second": np.array([-3.0], np.float32)}


def constant(index=0, seed=0, **settings):
    return envs.prepare(Constant(), seed=seed, index=index, **settings)


def rows(env, count):
    """All numbers of `count` rows of a stream `[row, number]`, episodes one after the other."""
    collected, over = [], True
    for _ in range(count):
        if over:
            obs, over = env.reset()[0], False
        else:
            obs, _, terminated, truncated, _ = env.step(np.zeros(env.action_space.shape, np.float32))
            over = terminated or truncated
        assert obs in env.observation_space
        collected.append(np.concatenate([value.ravel() for value in obs.values()]))
    return np.array(collected)


# Hiding


def test_hidden_keys_are_removed_and_blank_ones_are_zeros():
    assert rows(constant(hide=("second",)), 3).tolist() == [[1, 2]] * 3
    assert rows(constant(blank=("second",)), 3).tolist() == [[1, 2, 0]] * 3
    both = constant(hide=("first",), blank=("first",))
    assert list(both.observation_space) == ["second"]
    assert rows(both, 2).tolist() == [[-3], [-3]]


def test_spaces_hold_zeros_only_where_there_may_be_some():
    assert constant(hide=("second",)).observation_space == spaces.Dict({"first": Constant().observation_space["first"]})
    assert constant(blank=("second",)).observation_space["second"] == spaces.Box(-9.0, 0.0, (1,), np.float32)
    flickering = constant(flicker=0.1).observation_space
    assert flickering["first"] == spaces.Box(0.0, 2.0, (2,), np.float32)
    assert constant(obs_noise=0.1).observation_space["first"] == spaces.Box(-np.inf, np.inf, (2,), np.float32)


def test_nothing_changes_without_a_wish():
    asked, unasked = envs.make("toy:copy", hide=(), flicker=0.0, obs_noise=0.0), envs.make("toy:copy")
    assert type(asked.env) is type(unasked.env) is NamedObservations
    assert np.array_equal(rows(asked, 40), rows(unasked, 40))


def test_a_key_and_velocities_may_be_hidden_together():
    space = envs.make("dmc:quadruped_fetch", hide=("ball_state", "velocities")).observation_space
    assert "ball_state" not in list(space)
    assert space["egocentric_state"].shape == (28,)


@pytest.mark.parametrize("task", IN_GYM)
def test_velocities_of_gymnasium_are_those_that_the_physics_integrates(task):
    """Their names in the order of the observation, as Gymnasium documents them."""
    names = {
        "Acrobot": ["cos 1", "sin 1", "cos 2", "sin 2", "v1", "v2"],
        "CartPole": ["x", "v", "theta", "v theta"],
        "MountainCar": ["x", "v"],
        "MountainCarContinuous": ["x", "v"],
        "Pendulum": ["cos", "sin", "v"],
    }[task.partition("-")[0]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # CartPole-v0 is out of date
        whole, partly = envs.make(f"gym:{task}"), envs.make(f"gym:{task}", hide=("velocities",))
    kept = [i for i, name in enumerate(names) if not name.startswith("v")]
    assert partly.observation_space["observation"].shape == (len(kept),)
    whole.reset(), partly.reset()
    for action in whole.action_space.sample(), whole.action_space.sample():
        seen, part = (env.step(action)[0]["observation"] for env in (whole, partly))
        assert len(seen) == len(names)
        assert np.array_equal(seen[kept], part)


@pytest.mark.parametrize(
    ("task", "left"),
    [
        ("dmc:cartpole_balance", {"position": 3}),
        ("dmc:walker_walk", {"height": 1, "orientations": 14}),
        ("dmc:swimmer_swimmer6", {"joints": 5, "to_target": 2}),
        ("dmc:manipulator_bring_ball", {"arm_pos": 16, "hand_pos": 4, "object_pos": 4, "target_pos": 4, "touch": 5}),
        ("dmc:humanoid_walk", {"extremities": 12, "head_height": 1, "joint_angles": 21, "torso_vertical": 3}),
        (
            "dmc:quadruped_fetch",
            {
                "ball_state": 3,
                "egocentric_state": 28,
                "force_torque": 24,
                "imu": 3,
                "target_position": 3,
                "torso_upright": 1,
            },
        ),
    ],
)
def test_velocities_of_dm_control_are_gone(task, left):
    space = envs.make(task, hide=("velocities",)).observation_space
    assert {key: box.shape[0] for key, box in space.items()} == left


@pytest.mark.slow
@pytest.mark.parametrize("task", [f"dmc:{name}" for name in dmc_tasks()])
def test_what_is_left_of_every_dmc_task_does_not_depend_on_velocities(task):
    """The same pose at two velocities looks the same, and only what depends on velocities was taken away."""
    env, whole = (envs.make(task, hide=hide) for hide in (("velocities",), ()))
    env.reset()
    native, hider = env.unwrapped, env.env
    generator, seen = np.random.default_rng(0), []
    for _ in range(2):
        native._physics.data.qvel[:] = generator.normal(size=native._physics.data.qvel.shape)
        native._physics.forward()
        vectors = native._vectors(native._task.get_observation(native._physics))
        seen.append((vectors, hider.observation(vectors)))
    (first, first_left), (second, second_left) = seen
    for key in first_left.keys() - FORCES:
        assert np.array_equal(first_left[key], second_left[key]), key
    taken = 0
    for key in first:
        kept = hider._kept.get(key, [])
        assert (np.delete(first[key], kept) != np.delete(second[key], kept)).all(), key
        taken += len(first[key]) - len(kept)
    sizes = [sum(box.shape[0] for box in space.values()) for space in (whole.observation_space, env.observation_space)]
    assert sizes[0] - sizes[1] == taken > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hide": ("frist",)}, "no observation 'frist' to hide; did you mean first? there are first, second"),
        ({"blank": ("zzz",)}, "no observation 'zzz' to hide; there are first, second"),
        ({"hide": ("velocities",)}, "no observation is known to be a velocity; there are first, second"),
        ({"hide": ("first", "second")}, "nothing left to observe: all of first, second would be hidden"),
        ({"hide": ("first",), "blank": ("second",)}, "nothing left to observe: all of first, second would be hidden"),
        ({"flicker": 1.0}, "flicker: input should be less than 1 (got 1.0)"),
        ({"flicker": -0.1}, "flicker: input should be greater than or equal to 0 (got -0.1)"),
        ({"flicker": np.nan}, "flicker: input should be less than 1 (got nan)"),
        ({"obs_noise": -0.1}, "obs_noise: input should be greater than or equal to 0 (got -0.1)"),
        ({"obs_noise": np.inf}, "obs_noise: input should be less than or equal to 1000000 (got inf)"),
    ],
)
def test_mistakes_are_one_line(settings, message):
    with pytest.raises(envs.UserError) as error:
        constant(**settings)
    assert str(error.value) == message


# Randomness


def test_discrete_values_have_no_noise():
    """A noisy target could make the cross-entropy of the decoder negative."""

    class Choosing(Constant):
        def __init__(self):
            super().__init__()
            self.observation_space["choice"] = spaces.Discrete(16)

        def shown(self):
            return super().shown() | {"choice": 3}

    env = envs.prepare(Choosing(), seed=0, index=0, obs_noise=0.5)
    obs, _ = env.reset()
    assert np.array_equal(obs["choice"], np.eye(16, dtype=np.float32)[[3]]) and obs["second"] != -3
    assert env.observation_space["choice"] == spaces.Box(0, 1, (1, 16), np.float32)
    with pytest.raises(envs.UserError, match="obs_noise adds nothing to discrete values"):
        envs.make("gym:FrozenLake-v1", obs_noise=0.5)


def test_noise_is_normal_and_new_in_every_number():
    noise = rows(constant(obs_noise=0.5), 4000) - [1, 2, -3]
    np.testing.assert_allclose(noise.mean(0), 0, atol=3 * 0.5 / np.sqrt(4000))
    np.testing.assert_allclose(np.cov(noise.T), 0.25 * np.eye(3), atol=0.025)
    assert np.abs(np.corrcoef(noise[1:, 0], noise[:-1, 0])[0, 1]) < 0.05
    assert np.mean(np.abs(noise) < 0.5) == pytest.approx(0.6827, abs=0.015)


def test_flicker_loses_whole_rows_the_first_of_an_episode_too():
    seen = rows(constant(flicker=0.3), 51 * 100).reshape(100, 51, 3)
    lost = (seen == 0).all(-1)
    assert np.array_equal(seen[~lost], np.tile([1.0, 2.0, -3.0], (int((~lost).sum()), 1)))
    assert lost.mean() == pytest.approx(0.3, abs=3 * np.sqrt(0.21 / lost.size))
    assert lost[:, 0].mean() == pytest.approx(0.3, abs=3 * np.sqrt(0.21 / 100))
    assert np.abs(np.corrcoef(lost[:, 1:].ravel(), lost[:, :-1].ravel())[0, 1]) < 0.05


def test_blank_and_lost_rows_are_zeros_in_spite_of_the_noise():
    seen = rows(constant(blank=("second",), flicker=0.5, obs_noise=0.1), 400)
    lost = (seen == 0).all(-1)
    assert 0.4 < lost.mean() < 0.6
    assert not seen[:, 2].any() and seen[~lost][:, :2].all()


def test_what_is_lost_does_not_depend_on_the_noise_nor_on_what_is_hidden():
    lost = [(rows(constant(flicker=0.5, **other), 100) == 0).all(-1) for other in ({}, {"obs_noise": 1.0})]
    assert np.array_equal(*lost)
    noisy, hidden = rows(constant(obs_noise=1.0), 9), rows(constant(obs_noise=1.0, hide=("first",)), 9)
    assert np.array_equal(noisy[:, 2:], hidden)


class Normal(Constant):
    """Shows one normal number."""

    def __init__(self):
        super().__init__()
        self.observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)

    def shown(self):
        return self.np_random.normal(size=1).astype(np.float32)


def test_the_noise_is_not_what_the_environment_draws():
    """Were both seeded alike, the noise would tell what happens in the environment."""
    clean, noisy = (rows(envs.prepare(Normal(), seed=0, index=0, **s), 400)[:, 0] for s in ({}, {"obs_noise": 1.0}))
    assert abs(np.corrcoef(clean, noisy - clean)[0, 1]) < 0.2


@pytest.mark.parametrize("task", ["dmc:cartpole_balance", "toy:push"])
def test_episodes_depend_on_seed_index_and_number_alone(task):
    settings = {"flicker": 0.3, "obs_noise": 0.1, "time_limit": 9}
    first, again = (rows(envs.make(task, seed=3, index=1, **settings), 30) for _ in range(2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first[:10], first[10:20])
    for different in ({"seed": 4, "index": 1}, {"seed": 3, "index": 2}):
        assert not np.array_equal(first, rows(envs.make(task, **different, **settings), 30))


@pytest.mark.parametrize(
    ("settings", "parallel"),
    [
        (EVERYTHING, False),
        (EVERYTHING, True),
        ({"flicker": 0.5}, False),
        ({"obs_noise": 0.1}, False),
        ({"blank": ("velocities",), "obs_noise": 0.1}, False),
    ],
)
def test_restored_is_never_interrupted(settings, parallel):
    """At an episode's start, in its middle and with an autoreset pending."""
    make = functools.partial(made, task="dmc:pendulum_swingup", seed=7, time_limit=5, **settings)
    actions = np.random.default_rng(0).uniform(-1, 1, (14, 2, 1)).astype(np.float32)
    vector = envs.make_vector(make, [3, 0])
    stream = [vector.reset()[0], *(vector.step(action)[0] for action in actions)]
    vector.close()
    vector = envs.make_vector(make, [3, 0], parallel)
    for moment in (2, 5, 6, 8):
        episode, step = divmod(moment, 6)
        taken = actions[moment - step : moment]
        obs, *_ = envs.restore_vector(vector, {3: (episode, taken[:, 0]), 0: (episode, taken[:, 1])})
        for following in range(moment, 15):
            if following > moment:
                obs = vector.step(actions[following - 1])[0]
            assert obs.keys() == stream[following].keys()
            assert all(np.array_equal(obs[key], stream[following][key]) for key in obs), (moment, following)
    vector.close()


def made(index, task, **settings):
    return envs.make(task, index=index, **settings)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_gymnasium_finds_no_fault():
    check_env(envs.make("dmc:cartpole_balance", **EVERYTHING), skip_render_check=True)
    check_env(constant(blank=("first",), flicker=0.5), skip_render_check=True)


# From the configuration and the command line


def test_every_setting_of_a_task_reaches_the_factory_from_the_configuration():
    changes = {"repeat": 3, "time_limit": 9, "obs": "both", "image_size": (32, 16), "camera": 1, "shadows": False}
    changes |= {
        "hide": ("second",),
        "flicker": 0.5,
        "obs_noise": 0.1,
        "encoding": "dtype",
        "kwargs": ("size=5",),
        "extend_limit": False,
    }
    changes |= {"images": ("third",), "vectors": ("fourth",)}
    assert changes.keys() == {field.name for field in dataclasses.fields(envs.TaskSettings)}
    defaults, config = compose().env, compose(**{f"env.{name}": value for name, value in changes.items()})
    assert all(getattr(defaults, name) != value for name, value in changes.items())
    assert launch.make_factory(config).settings == envs.EnvSettings(**changes)
    others = {"num_envs", "train_time_limit", "parallel", "timeout", "restarts", "imports"}
    assert dataclasses.asdict(defaults).keys() == changes.keys() | others, "older runs have these keys"


def test_the_recipe_passes_them_on_to_any_environment():
    changes = {"hide": ("second",), "flicker": 0.5, "obs_noise": 0.1}
    config = tiny_config("anything", **{f"env.{name}": value for name, value in changes.items()})
    assert from_json(to_json(config)) == config
    factory = launch.make_factory(config, Constant)
    assert np.array_equal(rows(factory(2), 60), rows(constant(index=2, **changes), 60))
    named = launch.make_factory(tiny_config("dmc:cartpole_balance", **{f"env.{k}": v for k, v in EVERYTHING.items()}))
    assert np.array_equal(
        rows(named(1), 9), rows(envs.make("dmc:cartpole_balance", index=1, time_limit=100, **EVERYTHING), 9)
    )


@pytest.fixture(scope="module")
def partial_run(tmp_path_factory):
    """A run in a noisy, flickering cart-pole without velocities, trained from the command line."""
    path = tmp_path_factory.mktemp("partial") / "run"
    flags = tiny_flags(task="dmc:cartpole_balance", **{"env.time_limit": 9, "steps": 80, "loop.eval_every": 40})
    wishes = ["--hide", "velocities", "--flicker", "0.3", "--obs-noise", "0.1"]
    assert main(["train", *flags, *wishes, "--run-dir", str(path)]) == 0
    return path


def test_flags_reach_the_run(partial_run):
    written = json.loads((partial_run / "config.json").read_text())["env"]
    assert (written["hide"], written["flicker"], written["obs_noise"]) == (["velocities"], 0.3, 0.1)
    assert newest(partial_run)["spec"]["obs_shapes"] == {"position": (3,)}


def test_a_resumed_run_sees_what_an_uninterrupted_one_sees(partial_run, tmp_path):
    whole = from_json((partial_run / "config.json").read_text())
    half = dreamer.config.override(whole, {"steps": 44})
    dreamer.train(half, run_dir=tmp_path / "run")
    dreamer.resume(tmp_path / "run", config=whole)
    assert differences(newest(partial_run)["agent"], newest(tmp_path / "run")["agent"]) == []
    records = timeless(partial_run)
    assert timeless(tmp_path / "run")[-1] == records[-1]


def evaluated(capsys, path, *words):
    assert main(["evaluate", str(path), "--episodes", "3", "--json", *words]) == 0
    return json.loads(capsys.readouterr().out)["sample"]["returns"]


def test_an_evaluation_may_see_less_or_more(partial_run, capsys):
    own = evaluated(capsys, partial_run)
    assert evaluated(capsys, partial_run, "--flicker", "0.3", "--obs-noise", "0.1") == own
    assert evaluated(capsys, partial_run, "--hide", "velocities") == own
    clear = evaluated(capsys, partial_run, "--flicker", "0", "--obs-noise", "0")
    assert clear != own
    assert evaluated(capsys, partial_run, "--flicker", "0.99", "--obs-noise", "0") not in (own, clear)


def test_an_agent_gets_zeros_for_what_it_was_trained_on(tmp_path, capsys):
    dreamer.train(tiny_config("toy:copy", steps=4), run_dir=tmp_path / "run")
    own = evaluated(capsys, tmp_path / "run")
    assert evaluated(capsys, tmp_path / "run", "--hide", "cue") != own


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--hide", "velocty"], "no observation 'velocty' to hide; did you mean velocity, velocities? there are"),
        (["--hide", "position"], "nothing left to observe: all of position, velocity would be hidden"),
        (["--hide", "velocity,postion"], "no observation 'postion' to hide; did you mean position? there are"),
        (["--flicker", "1"], "--flicker: input should be less than 1 (got 1.0)"),
        (["--obs-noise", "-1"], "--obs-noise: input should be greater than or equal to 0 (got -1.0)"),
    ],
)
def test_mistakes_at_evaluation_are_one_line(partial_run, capsys, words, message):
    assert main(["evaluate", str(partial_run), *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"dreamer: {message}") and error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--flicker", "1"], "--env.flicker: input should be less than 1 (got 1.0)"),
        (["--obs-noise", "-1"], "--env.obs-noise: input should be greater than or equal to 0 (got -1.0)"),
        (["--hide", "action", "cue"], "nothing left to observe: all of action, cue would be hidden"),
        (["--hide", "action,cue"], "nothing left to observe: all of action, cue would be hidden"),
        (["--env.hide", "velocities"], "no observation is known to be a velocity; there are action, cue"),
    ],
)
def test_mistakes_in_training_are_one_line_and_leave_nothing(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--task", "toy:copy", *words]) == 2
    assert capsys.readouterr().err == f"dreamer: {message}\n"
    assert not list(tmp_path.iterdir())


def test_a_one_hot_state_can_flicker():
    env = envs.prepare(Chain(), seed=0, index=0, flicker=0.5)
    assert {tuple(row) for row in rows(env, 60)} == {(0.0,) * 5, (1.0, 0.0, 0.0, 0.0, 0.0)}
