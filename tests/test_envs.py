"""Environments: what `make` and `prepare` promise, value by value."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env

import envs
from envs import dmc
from envs.dmc import dmc_tasks
from envs.rendering import missing_gl_message, select_backend
from envs.settings import arguments_of
from envs.spaces import action_codec, observation_leaves
from envs.toy import Chain, Copy, Counting

TOYS = [
    "toy:chain",
    "toy:copy",
    "toy:copy_discrete",
    "toy:counting",
    "toy:counting_discrete",
    "toy:push",
    "toy:recall",
]
CHECKED = ["dmc:cartpole_balance", "gym:Pendulum-v1", "gym:CartPole-v1", "gym:FrozenLake-v1", *TOYS]
EXPECTED_ADVICE = ("different from the unwrapped", "infinity", "Not able to test alternative render modes")


class Probe(gymnasium.Env):
    """Remembers the native actions and rewards the n-th step with n."""

    def __init__(self, observation=None, action=None, sample=None, terminates_at=None):
        self.observation_space = observation or spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.action_space = action or spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.sample = np.zeros(1, np.float32) if sample is None else sample
        self.terminates_at, self.taken = terminates_at, []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.taken = []
        return self.sample, {}

    def step(self, action):
        self.taken.append(action)
        return self.sample, float(len(self.taken)), len(self.taken) == self.terminates_at, False, {}


def prepared(env, **settings):
    env = envs.prepare(env, **{"seed": 0, "index": 0, **settings})
    env.reset()
    return env


def rollout(env, actions):
    """The rows of one episode: (observations in one vector, reward) from the reset on."""
    obs, _ = env.reset()
    rows = [(np.concatenate(list(obs.values())), 0.0)]
    for action in actions:
        obs, reward, *_ = env.step(action)
        rows.append((np.concatenate(list(obs.values())), reward))
    return rows


def equal(rows, others):
    return all(np.array_equal(a, b) and r == s for (a, r), (b, s) in zip(rows, others, strict=True))


@pytest.mark.parametrize("task", CHECKED)
def test_gymnasium_finds_no_fault(task):
    if task.startswith("dmc") and select_backend() is None:
        pytest.skip(missing_gl_message())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(envs.make(task, repeat=2))
    faults = [str(w.message) for w in caught if not any(advice in str(w.message) for advice in EXPECTED_ADVICE)]
    assert faults == []


@pytest.mark.parametrize("task", CHECKED)
def test_spaces_are_of_two_kinds(task):
    env = envs.make(task)
    assert list(env.observation_space) == sorted(env.observation_space)
    assert all(
        type(s) is spaces.Box and s.dtype == np.float32 and s.shape[0] > 0 for s in env.observation_space.values()
    )
    if isinstance(env.action_space, spaces.Discrete):
        assert env.action_space.start == 0
    else:
        assert env.action_space == spaces.Box(-1.0, 1.0, env.action_space.shape, np.float32)


def test_observations_become_sorted_float32_vectors():
    space = spaces.Dict(
        {
            "z": spaces.Box(-1e300, 1e300, (2, 2), np.float64),
            "flag": spaces.Box(0, 1, (), np.bool_),
            "empty": spaces.Box(0.0, 1.0, (0,), np.float32),
            "a": spaces.Dict({"choice": spaces.Discrete(3, start=5), "count": spaces.Box(0, 9, (2,), np.int64)}),
        }
    )
    sample = {
        "z": np.array([[1.0, 2.0], [3.0, 4.0]]),
        "flag": np.bool_(True),
        "empty": np.zeros(0, np.float32),
        "a": {"choice": np.int64(6), "count": np.array([7, 8])},
    }
    env = prepared(Probe(observation=space, sample=sample))
    obs, _ = env.reset()
    counts = np.eye(10)[[7, 8]].tolist()
    expected = {"a/choice": [[0, 1, 0]], "a/count": counts, "flag": [[0, 1]], "z": [1, 2, 3, 4]}
    assert list(obs) == list(expected) == list(env.observation_space)
    assert all(value.dtype == np.float32 for value in obs.values())
    assert {key: value.tolist() for key, value in obs.items()} == expected
    assert obs in env.observation_space
    as_before, _ = prepared(Probe(observation=space, sample=sample), encoding="dtype").reset()
    expected = {"a/choice": [0, 1, 0], "a/count": [7, 8], "flag": [1], "z": [1, 2, 3, 4]}
    assert {key: value.tolist() for key, value in as_before.items()} == expected


def test_observations_do_not_alias_the_environment():
    env = prepared(Probe(sample=np.zeros(1, np.float32)))
    obs, _ = env.reset()
    env.unwrapped.sample[:] = 7.0
    assert obs["observation"].tolist() == [0.0]


def test_gym_observations_keep_their_values():
    env, native = envs.make("gym:Pendulum-v1", seed=3), gymnasium.make("gym:Pendulum-v1"[4:])
    obs, _ = env.reset()
    seed = int(np.random.SeedSequence([3, 0, 0]).generate_state(1)[0]) & 0x7FFFFFFF
    assert np.array_equal(obs["observation"], native.reset(seed=seed)[0])
    obs, reward, *_ = env.step(np.array([0.25], np.float32))
    native_obs, native_reward, *_ = native.step(np.array([0.5], np.float32))
    assert np.array_equal(obs["observation"], native_obs)
    assert reward == pytest.approx(float(native_reward), abs=0)


@pytest.mark.parametrize(
    ("space", "named"),
    [
        (spaces.Dict({"a": spaces.Discrete(2), "mission": spaces.Text(9)}), "--hide mission leaves it out"),
        (spaces.Tuple([spaces.Discrete(2)]), "Tuple(Discrete(2))"),
        (spaces.Dict({"b": spaces.MultiBinary(3)}), "observation 'b' has the space MultiBinary(3)"),
        (spaces.Box(0.0, 1.0, (0,)), "has no values"),
        (spaces.Dict({"a/b": spaces.Discrete(2), "a": spaces.Dict({"b": spaces.Discrete(2)})}), "'a/b'"),
    ],
)
def test_unsupported_observations_are_named(space, named):
    with pytest.raises(envs.UserError) as error:
        observation_leaves(space)
    assert named in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "space",
    [
        spaces.MultiDiscrete([2, 3]),
        spaces.Tuple([spaces.Discrete(2)]),
        spaces.Box(0, 5, (2,), np.int64),
        spaces.Box(0.0, 1.0, (0,)),
        spaces.Dict({"a": spaces.Discrete(2)}),
    ],
)
def test_unsupported_actions_are_named(space):
    with pytest.raises(envs.UserError) as error:
        action_codec(space)
    assert (
        str(error.value) == f"the action space {space} is not supported; supported actions: Box of floats, and Discrete"
    )


def test_actions_are_clipped_and_mapped_to_finite_bounds():
    low = np.array([-2.0, 0.0, -np.inf, 0.0, -1e10, -1.0])
    high = np.array([2.0, 10.0, np.inf, np.inf, 1e10, 1.0])
    env = prepared(Probe(action=spaces.Box(low, high, dtype=np.float64)))
    for action in ([-1.0] * 6, [1.0] * 6, [0.5] * 6, [-9.0] * 6, [0.1] * 6):
        env.step(np.array(action))
    expected = [
        [-2.0, 0.0, -1.0, 0.0, -1.0, -1.0],
        [2.0, 10.0, 1.0, 1.0, 1.0, 1.0],
        [1.0, 7.5, 0.5, 0.5, 0.5, 0.5],
        [-2.0, 0.0, -1.0, 0.0, -1.0, -1.0],
        [0.2, 5.5, 0.1, 0.1, 0.1, 0.1],
    ]
    np.testing.assert_allclose(env.unwrapped.taken, expected, rtol=1e-15)


def test_action_shapes_dtypes_and_starts_are_native():
    env = prepared(Probe(action=spaces.Box(-1.0, 1.0, (2, 1), np.float32)))
    assert env.action_space.shape == (2,)
    env.step(np.array([0.3, -0.7]))
    assert env.unwrapped.taken[0].shape == (2, 1)
    assert env.unwrapped.taken[0].dtype == np.float32
    env = prepared(Probe(action=spaces.Discrete(3, start=-1)))
    assert env.action_space == spaces.Discrete(3)
    for choice in range(3):
        env.step(choice)
    assert env.unwrapped.taken == [-1, 0, 1]


def test_action_repeat_sums_and_stops():
    """Pitfall 49: no reward of the next episode, and no step after the end."""
    env = prepared(Probe(terminates_at=5), repeat=3)
    steps = [env.step(np.zeros(1))[1:4] for _ in range(2)]
    assert steps == [(1.0 + 2.0 + 3.0, False, False), (4.0 + 5.0, True, False)]
    assert len(env.unwrapped.taken) == 5


@pytest.mark.parametrize(("repeat", "rewards"), [(1, [1, 2, 3, 4, 5, 6, 7]), (3, [6, 15, 7])])
def test_time_limit_truncates_and_counts_environment_steps(repeat, rewards):
    env = prepared(Probe(), repeat=repeat, time_limit=7)
    steps = [env.step(np.zeros(1))[1:4] for _ in rewards]
    assert steps == [(float(r), False, i == len(rewards) - 1) for i, r in enumerate(rewards)]


def test_gym_time_limits_stay_truncations():
    env = envs.make("gym:Pendulum-v1")
    env.reset()
    ends = [env.step(np.zeros(1))[2:4] for _ in range(200)]
    assert ends == [(False, False)] * 199 + [(False, True)]


def test_dmc_ends_by_truncation_after_its_thousand_steps():
    env = envs.make("dmc:cartpole_balance")
    env.reset()
    ends = [env.step(np.zeros(1))[2:4] for _ in range(1000)]
    assert ends == [(False, False)] * 999 + [(False, True)]
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.zeros(1))


def test_the_compiler_of_mujoco_is_silent_about_the_suite_and_errors_stay(caplog, monkeypatch):
    absl = pytest.importorskip("absl.logging")
    load = dmc._suite().load
    envs.make("dmc:cheetah_run").close()
    assert not caplog.records, "its attribute settotalmass is deprecated"
    monkeypatch.setattr(dmc._suite(), "load", lambda *a, **k: absl.error("an error") or load(*a, **k))
    envs.make("dmc:cheetah_run").close()
    absl.warning("a warning")
    assert [record.message for record in caplog.records] == ["an error", "a warning"]


def test_dmc_terminates_where_the_task_says_so(monkeypatch):
    env = envs.make("dmc:cartpole_balance")
    env.reset()
    monkeypatch.setattr(env.unwrapped._task, "get_termination", lambda physics: 0.0)
    assert env.step(np.zeros(1))[2:4] == (True, False)


def test_dmc_rewards_and_observations_are_those_of_dm_control():
    from dm_control import suite

    env = envs.make("dmc:walker_walk", seed=5, index=2, repeat=2)
    obs, _ = env.reset()
    seed = int(np.random.SeedSequence([5, 2, 0]).generate_state(1)[0]) & 0x7FFFFFFF
    native = suite.load("walker", "walk", task_kwargs={"random": seed})
    expected = native.reset().observation
    assert set(obs) == set(expected)
    action = np.linspace(-0.5, 0.5, 6, dtype=np.float32)
    for _ in range(3):
        for key, value in expected.items():
            assert np.array_equal(obs[key], np.float32(np.atleast_1d(value)))
        obs, reward, *_ = env.step(action)
        first, second = native.step(action), native.step(action)
        expected = second.observation
        assert reward == first.reward + second.reward


@pytest.mark.parametrize("task", ["dmc:cartpole_balance", "gym:Pendulum-v1", "toy:copy"])
def test_episodes_depend_on_seed_index_and_number_alone(task):
    actions = np.random.default_rng(0).uniform(-1, 1, (5, 1)).astype(np.float32)
    env = envs.make(task, seed=1, index=2)
    first, second = rollout(env, actions), rollout(env, actions)
    assert env.episode == 1
    other = envs.make(task, seed=1, index=2)
    rollout(other, actions[:2])
    assert equal(second, rollout(other, actions))
    assert not equal(first, second)
    for different in ({"seed": 2, "index": 2}, {"seed": 1, "index": 3}, {"seed": 2, "index": 1}):
        assert not equal(first, rollout(envs.make(task, **different), actions))


def test_an_explicit_seed_starts_the_stream_of_that_seed():
    actions = np.zeros((3, 1), np.float32)
    env, other = envs.make("dmc:cartpole_balance", seed=1), envs.make("dmc:cartpole_balance", seed=9)
    rollout(env, actions)
    env.reset(seed=9)
    assert (env.seed, env.episode) == (9, 0)
    rollout(other, actions)
    assert equal(rollout(env, actions), rollout(other, actions))


def test_lqr_is_one_problem_with_unscaled_actions_and_an_end():
    stiffness = [envs.make("dmc:lqr_lqr_2_1", seed=s).unwrapped._physics.model.jnt_stiffness.copy() for s in (0, 1)]
    assert (stiffness[0] > 0).all()
    assert np.array_equal(*stiffness)
    env = envs.make("dmc:lqr_lqr_2_1")
    env.reset()
    env.step(np.array([0.5]))
    assert env.unwrapped._physics.data.ctrl[0] == 0.5
    assert env.unwrapped._limit == 1000


@pytest.mark.slow
@pytest.mark.parametrize("task", [f"dmc:{name}" for name in dmc_tasks()])
def test_every_dmc_task_builds_steps_and_comes_back(task):
    env = envs.make(task, seed=4)
    assert env.unwrapped._limit == 1000
    actions = np.random.default_rng(1).uniform(-1, 1, (3, *env.action_space.shape)).astype(np.float32)
    rollout(env, actions)
    rows = rollout(env, actions)
    assert all(np.isfinite(vector).all() and np.isfinite(reward) for vector, reward in rows)
    obs, reward, terminated, truncated = envs.make(task, seed=4).restore({0: (1, actions)})
    assert np.array_equal(np.concatenate(list(obs.values())), rows[-1][0])
    assert (reward, terminated, truncated) == (rows[-1][1], False, False)


@pytest.mark.slow
@pytest.mark.parametrize("task", envs.tasks()["gym"])
def test_every_listed_gym_task_builds_and_steps(task, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    env = envs.make(task)
    obs, _ = env.reset()
    assert obs in env.observation_space
    obs, reward, *_ = env.step(env.action_space.sample())
    assert obs in env.observation_space
    assert isinstance(reward, float)


def test_chain_follows_its_table():
    env = prepared(Chain(length=6))
    steps = [env.step(action) for action in (1, 1, 0, 0, 0, 1)]
    assert [int(s[0]["observation"].argmax()) for s in steps] == [1, 2, 1, 0, 0, 1]
    assert [s[1] for s in steps] == [0.25, -0.5, 0.25, 0.0, 0.0, 0.25]
    assert [s[2:4] for s in steps] == [(False, False)] * 5 + [(False, True)]
    env.reset()
    assert [env.step(1)[1:3] for _ in range(4)] == [(0.25, False), (-0.5, False), (0.5, False), (1.0, True)]


@pytest.mark.parametrize("discrete", [False, True])
def test_copy_rewards_the_shown_cue_and_shows_the_action(discrete):
    env = prepared(Copy(discrete=discrete))
    obs, _ = env.reset()
    cues = set()
    for step in range(32):
        cue = float(obs["cue"][0])
        cues.add(cue)
        action = int(cue > 0) if discrete else np.array([cue * 0.5], np.float32)
        obs, reward, terminated, truncated, _ = env.step(action)
        assert reward == (1.0 if discrete else 0.5)
        assert obs["action"].tolist() == (np.eye(2)[action].tolist() if discrete else action.tolist())
        assert (terminated, truncated) == (False, step == 31)
    assert cues == {-1.0, 1.0}


@pytest.mark.parametrize("discrete", [False, True])
def test_counting_tells_where_it_is(discrete):
    env = envs.prepare(Counting(length=2, discrete=discrete), seed=0, index=0)
    action = 1 if discrete else np.array([0.0, 1.0], np.float32)
    for episode in range(3):
        obs, _ = env.reset()
        assert {k: v.tolist() for k, v in obs.items()} == {
            "action": [0, 0],
            "episode": [episode],
            "row": [episode * 3],
            "step": [0],
        }
        obs, reward, *_ = env.step(action)
        assert (obs["action"].tolist(), obs["row"].tolist(), reward) == ([0, 1], [episode * 3 + 1], 1.0)
        assert env.step(action)[1:4] == (2.0, episode % 2 == 0, episode % 2 == 1)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (
            "dmc:walker_wlak",
            "unknown task 'dmc:walker_wlak'; did you mean dmc:walker_walk, dmc:walker_stand, dmc:walker_run? "
            "`dreamer tasks` lists all",
        ),
        ("walker_walk", "unknown task 'walker_walk'; did you mean dmc:walker_walk? `dreamer tasks` lists all"),
        ("toy:chian", "unknown task 'toy:chian'; did you mean toy:chain, toy:recall? `dreamer tasks` lists all"),
        (
            "",
            "unknown task ''; a task is dmc:<domain>_<task>, gym:<id> or toy:<name>; `dreamer tasks` lists all",
        ),
        (
            "gym:no_such_module:Env-v0",
            "task 'gym:no_such_module:Env-v0' cannot be built: No module named 'no_such_module'",
        ),
    ],
)
def test_unknown_tasks_get_the_closest_names(task, message):
    with pytest.raises(envs.UserError) as error:
        envs.make(task)
    assert str(error.value) == message


def test_unknown_gym_ids_get_the_closest_names():
    with pytest.raises(envs.UserError, match=r"unknown task 'gym:Pendulum-v9'; did you mean gym:Pendulum-v1"):
        envs.make("gym:Pendulum-v9")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"repeat": 0}, r"^repeat: input should be greater than or equal to 1 \(got 0\)$"),
        ({"time_limit": -1}, r"^time_limit: input should be greater than or equal to 0 \(got -1\)$"),
        ({"repeat": "two"}, r"^repeat: input should be a valid integer, .* \(got 'two'\)$"),
        (
            {"render_size": (10**9, 64)},
            r"^render_size\.0: input should be less than or equal to 4096 \(got 1000",
        ),
        ({"seed": -1}, "must not be negative"),
        ({"index": -1}, "must not be negative"),
    ],
)
def test_values_out_of_range_are_named(settings, message):
    with pytest.raises(envs.UserError, match=message):
        envs.make("toy:chain", **settings)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("repaet", "did you mean repeat? "), ("Flicker", "did you mean flicker? "), ("zzz", "")],
)
def test_unknown_settings_get_the_closest_names(name, hint):
    names = ", ".join(field.name for field in dataclasses.fields(envs.EnvSettings))
    for build in (lambda **s: envs.make("toy:chain", **s), lambda **s: envs.prepare(Chain(), seed=0, index=0, **s)):
        with pytest.raises(envs.UserError) as error:
            build(**{name: 2})
        assert str(error.value) == f"no environment setting '{name}'; {hint}settings are {names}"


def test_settings_may_be_given_at_once_by_name_and_through_a_factory():
    settings = envs.EnvSettings(repeat=3, time_limit=8, flicker=0.8)
    actions = [0, 1] * 2
    by_name = rollout(envs.make("toy:chain", seed=2, index=1, repeat=3, time_limit=8, flicker=0.8), actions)
    assert equal(by_name, rollout(envs.make("toy:chain", settings, seed=2, index=1), actions))
    assert equal(by_name, rollout(envs.prepare(Chain(), settings, seed=2, index=1), actions))
    assert equal(by_name, rollout(envs.EnvFactory("toy:chain", 2, settings)(1), actions))
    changed = envs.make("toy:chain", dataclasses.replace(settings, repeat=1), seed=2, index=1, repeat=3)
    assert equal(by_name, rollout(changed, actions))
    assert not equal(by_name, rollout(envs.make("toy:chain", settings, seed=2, index=1, flicker=0.0), actions))


def test_a_short_limit_holds_only_where_it_is_shorter():
    def length(index, **settings):
        factory = envs.EnvFactory("toy:copy", 0, envs.EnvSettings(**settings), short_limit=5, short_envs=1)
        env = factory(index)
        env.reset()
        return 1 + [env.step(np.zeros(1, np.float32))[3] for _ in range(32)].index(True)

    assert (length(0), length(0, time_limit=3), length(0, time_limit=9)) == (5, 3, 5)
    assert (length(1), length(1, time_limit=9)) == (32, 9)


def test_only_gymnasium_environments_are_prepared():
    with pytest.raises(envs.UserError, match=r"must be a gymnasium.Env, got builtins.str"):
        envs.prepare("CartPole-v1", seed=0, index=0)


def test_task_names_cover_multiword_domains_and_the_alias():
    names = envs.tasks()
    assert len(names["dmc"]) == len(dmc_tasks()) >= 45
    assert {"dmc:humanoid_CMU_run", "dmc:point_mass_easy", "dmc:ball_in_cup_catch", "dmc:dog_fetch"} <= set(
        names["dmc"]
    )
    assert {"gym:Pendulum-v1", "gym:CartPole-v1"} <= set(names["gym"])
    assert not {"gym:CartPole-v0", "gym:Blackjack-v1", "gym:Hopper-v2"} & set(names["gym"])
    assert names["toy"] == TOYS
    assert envs.make("dmc:cup_catch").observation_space == envs.make("dmc:ball_in_cup_catch").observation_space


def python(code, **environment):
    """Run code in a fresh process without a screen."""
    inherited = {k: v for k, v in os.environ.items() if k not in ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY")}
    inherited["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
    return subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code],
        env={**inherited, **environment}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


STATE_ONLY = """
import os, sys, envs
env = envs.make("dmc:cartpole_balance")
env.reset()
assert env.step(env.action_space.sample())[1] > 0
assert not [name for name in sys.modules if name in ("OpenGL", "glfw", "torch", "dreamer")]
assert os.environ.get("MUJOCO_GL") == {expected!r}
"""


@pytest.mark.parametrize("backend", [None, "osmesa", "egl", "glfw"])
def test_states_need_no_opengl_whatever_mujoco_gl_says(backend):
    done = python(STATE_ONLY.format(expected=backend), **({"MUJOCO_GL": backend} if backend else {}))
    assert (done.returncode, done.stderr) == (0, "")


def test_frames_need_no_preparation():
    if select_backend() is None:
        pytest.skip(missing_gl_message())
    env = envs.make("dmc:quadruped_walk", repeat=4, render_size=(120, 900))
    env.reset()
    frame = env.render()
    assert frame.shape == (120, 900, 3)
    assert frame.dtype == np.uint8
    assert frame.std() > 10
    assert env.unwrapped.camera == 2
    assert env.metadata["render_fps"] == 50 / 4
    env.close()


def test_where_nothing_can_draw_one_sentence_says_what_to_install():
    code = "import envs; env = envs.make('dmc:cartpole_balance'); env.reset(); env.render()"
    done = python(code, MUJOCO_GL="disable")
    assert done.returncode != 0
    assert "libosmesa6 or libegl1" in done.stderr.strip().splitlines()[-1]


MUJOCO_IN_ITS_CONSTRUCTOR = """
import gymnasium, mujoco, numpy as np
import envs

class Drawn(gymnasium.Env):
    metadata = {"render_modes": ["rgb_array"]}
    observation_space = action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    def __init__(self, render_mode="rgb_array"):
        self.render_mode = render_mode
        model = mujoco.MjModel.from_xml_string("<mujoco><worldbody><geom size='1'/><light/></worldbody></mujoco>")
        self.renderer, data = mujoco.Renderer(model, 16, 16), mujoco.MjData(model)
        mujoco.mj_forward(model, data)
        self.renderer.update_scene(data)
    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}
    def render(self):
        return self.renderer.render()
    def close(self):
        self.renderer.close()

gymnasium.register("Drawn-v0", entry_point=Drawn)
try:
    for build in (envs.EnvFactory("own", 0, custom=Drawn), lambda i: envs.make("gym:Drawn-v0", obs="pixels")):
        env = build(0)
        env.reset()
        print(env.render().std() > 1)
        env.close()
except envs.UserError as error:
    print(error)
"""


def test_a_backend_is_selected_before_any_environment_that_may_draw_with_mujoco():
    """Also where MuJoCo was imported before; on a machine without a screen, its own choice aborts."""
    if select_backend() is None:
        pytest.skip(missing_gl_message())
    done = python(MUJOCO_IN_ITS_CONSTRUCTOR)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\nTrue\n", "")


def test_frames_of_mujoco_are_refused_where_nothing_can_draw():
    done = python(
        MUJOCO_IN_ITS_CONSTRUCTOR.replace("custom=Drawn", 'custom=Drawn, settings=envs.EnvSettings(obs="pixels")'),
        MUJOCO_GL="disable",
    )
    assert done.returncode == 0 and done.stdout.startswith("no frames can be drawn"), done.stderr


@pytest.mark.parametrize(
    ("task", "name", "advice"),
    [
        ("gym:ALE/Pong-v5", "ale_py", "--task gym:ale_py:ALE/Pong-v5"),
        ("gym:MiniGrid-Empty-5x5-v0", "minigrid", "--task gym:minigrid:MiniGrid-Empty-5x5-v0"),
    ],
)
def test_a_task_of_a_package_that_is_not_imported_names_the_package(task, name, advice):
    with pytest.raises(envs.UserError, match=f"is registered by the package {name}.*: {advice}"):
        envs.make(task)


def test_constructor_arguments_are_literals_or_text():
    words = ["a=5", "b=0.5", "c=False", "d=false", "e=null", "f=[1, 'x']", "g=8x8", "h=a=b", "i=", "j=__import__('os')"]
    values = [5, 0.5, False, False, None, [1, "x"], "8x8", "a=b", "", "__import__('os')"]
    assert list(arguments_of(words).values()) == values
    assert arguments_of(["a=" + "(" * 9999])["a"].startswith("((") and arguments_of(["a=" + "9" * 9999]) != {}
    for words, message in (
        (["size"], "'size' is not key=value"),
        (["a b=1"], "not key"),
        (["a=1", "a=2"], "given twice"),
    ):
        with pytest.raises(envs.UserError, match=message):
            arguments_of(words)


@pytest.mark.parametrize(
    ("task", "kwargs", "length"), [("toy:copy", "length=3", 3), ("dmc:cartpole_balance", "time_limit=0.05", 5)]
)
def test_constructor_arguments_arrive(task, kwargs, length):
    env = envs.make(task, kwargs=(kwargs,))
    env.reset()
    assert [env.step(np.zeros(1))[3] for _ in range(length)] == [False] * (length - 1) + [True]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: envs.make("gym:FrozenLake-v1", kwargs=("sise=5",)),
            "'gym:FrozenLake-v1' cannot be built: TypeError.*'sise'",
        ),
        (
            lambda: envs.make("dmc:walker_walk", kwargs=("sise=5",)),
            "'dmc:walker_walk' cannot be built: TypeError.*'sise'",
        ),
        (lambda: envs.prepare(Chain(), seed=0, index=0, kwargs=("length=5",)), "takes its arguments from your code"),
        (lambda: envs.EnvFactory("own", 0, custom=lambda: 1 / 0)(0), "own: make_env failed: ZeroDivisionError"),
        (lambda: envs.EnvFactory("own", 0, imports=("json.nothing",))(0), "--env-import json.nothing: No mod"),
    ],
)
def test_a_constructor_that_fails_is_one_line(build, message):
    with pytest.raises(envs.UserError, match=message) as error:
        build()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("task", "own"), [("gym:Pendulum-v1", 200), ("gym:CartPole-v1", 500), ("dmc:cartpole_balance", 1000)]
)
@pytest.mark.parametrize("cap", [0, 1100])
def test_a_longer_time_limit_replaces_the_tasks_own_and_a_cap_does_not(task, own, cap):
    env = envs.make(task, time_limit=0 if cap else own + 5, cap=cap)
    limits = []
    while isinstance(env, gymnasium.Wrapper):
        limits.append(vars(env).get("_max_episode_steps", np.inf))
        env = env.env
    assert min([*limits, getattr(env, "_limit", np.inf)]) == (own if cap else own + 5)
    if hasattr(env, "_limit"):
        assert env._env._step_limit == (own if cap else own + 5)


def test_a_camera_that_does_not_exist_is_named():
    with pytest.raises(envs.UserError, match=r"camera must be -1 \(free\) to 1 for cartpole, got 7"):
        envs.make("dmc:cartpole_balance", camera=7)
