"""Frames as observations: what environments show, when they draw, and runs that learn from them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from unittest import mock

import gymnasium
import imageio.v2 as imageio
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from running import assert_same_run, dreamer_command, newest, timeless, tiny_config, tiny_flags
from tiny import unchecked

import dreamer
import envs
from dreamer.cli.main import main
from dreamer.experiments.bench import costs
from dreamer.training.plan import layout_of
from envs import rendering
from envs.dmc import DMC
from envs.pixels import resize
from envs.rendering import Backend, candidates, missing_gl_message, select_backend

ADVICE = ("different from the unwrapped", "infinity", "Not able to test alternative render modes")
PIXELS = {"env.obs": "pixels", "env.image_size": (16, 16), "agent.world_model.image.depth": 2}


def needs_gl():
    if select_backend() is None:
        pytest.skip(missing_gl_message())


class Painted(gymnasium.Env):
    """Its frame is all of one grey: 10 times the number of steps since the reset; it counts how often it is drawn."""

    def __init__(self, size=(32, 48), frame=None):
        self.observation_space = spaces.Dict({"time": spaces.Box(0.0, np.inf, (1,), np.float32)})
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.render_mode, self.metadata = "rgb_array", {"render_modes": ["rgb_array"], "render_fps": 25}
        self.size, self.frame, self.drawn, self.time = size, frame, 0, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self._observation(), {}

    def step(self, action):
        self.time += 1
        return self._observation(), 1.0, False, self.time >= 8, {}

    def render(self):
        self.drawn += 1
        return np.full((*self.size, 3), 10 * self.time, np.uint8) if self.frame is None else self.frame

    def _observation(self):
        return {"time": np.array([self.time], np.float32)}


class Seeing(Painted):
    """Has an image among its own observations."""

    def __init__(self):
        super().__init__()
        self.observation_space = spaces.Dict({"image": spaces.Box(0, 255, (40, 30, 4), np.uint8)})

    def _observation(self):
        return {"image": np.full((40, 30, 4), self.time, np.uint8)}


def prepared(env, **settings):
    return envs.prepare(env, **{"seed": 0, "index": 0, "image_size": (16, 32), **settings})


# What is shown


@pytest.mark.parametrize("obs", ["pixels", "both"])
@pytest.mark.parametrize("task", ["toy:push", "toy:chain", "gym:CartPole-v1", "dmc:cartpole_balance"])
def test_gymnasium_finds_no_fault(task, obs):
    if task.startswith("dmc"):
        needs_gl()
    drawing = {"shadows": False} if task.startswith("dmc") else {}
    env = envs.make(task, obs=obs, image_size=(32, 16), repeat=2, **drawing)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(env, skip_render_check=True)
    assert [str(w.message) for w in caught if not any(advice in str(w.message) for advice in ADVICE)] == []
    assert list(env.observation_space) == sorted(env.observation_space)
    assert env.observation_space["image"] == spaces.Box(0, 255, (32, 16, 3), np.uint8)
    vectors = {key: space for key, space in env.observation_space.items() if key != "image"}
    assert bool(vectors) == (obs == "both")
    assert all(space.dtype == np.float32 and len(space.shape) in (1, 2) for space in vectors.values())


@pytest.mark.parametrize("task", ["toy:copy", "gym:Pendulum-v1", "dmc:cartpole_balance"])
def test_frames_repeat_with_the_episode_and_change_with_time(task):
    if task.startswith("dmc"):
        needs_gl()
    actions = np.random.default_rng(0).uniform(-1, 1, (6, 1)).astype(np.float32)

    def images(**settings):
        env = envs.make(task, obs="pixels", image_size=(32, 32), repeat=3, **settings)
        frames = [env.reset()[0]["image"]] + [env.step(action)[0]["image"] for action in actions]
        restored = env.restore({settings.get("index", 0): (0, list(actions[:4]))})[0]["image"]
        env.close()
        return np.stack(frames), restored

    frames, restored = images(index=1)
    again, _ = images(index=1)
    assert np.array_equal(frames, again) and np.array_equal(restored, frames[4])
    assert not np.array_equal(frames[0], frames[-1])
    assert not np.array_equal(frames, images(index=2)[0])


def test_a_frame_belongs_to_the_moment_after_the_repeated_action_and_is_drawn_once():
    env = prepared(Painted(), obs="both", repeat=3)
    obs, _ = env.reset()
    assert obs["image"].shape == (16, 32, 3) and obs["image"].max() == 0 and obs["time"] == 0
    obs, *_ = env.step(np.zeros(1))
    assert obs["image"].min() == obs["image"].max() == 30 and obs["time"] == 3
    assert env.unwrapped.drawn == 2


def test_nothing_is_drawn_unless_asked():
    env = prepared(Painted())
    env.reset()
    env.step(np.zeros(1))
    assert env.unwrapped.drawn == 0


def test_images_of_the_environment_itself_are_resized_and_kept_as_bytes():
    env = prepared(Seeing())
    assert env.observation_space["image"] == spaces.Box(0, 255, (16, 32, 4), np.uint8)
    env.reset()
    obs, *_ = env.step(np.zeros(1))
    assert obs in env.observation_space and obs["image"].min() == obs["image"].max() == 1
    assert env.unwrapped.drawn == 0


def test_resizing_averages():
    image = np.zeros((4, 4, 2), np.uint8)
    image[:2, :2, 0], image[2:, 2:, 1] = 200, [[0, 40], [80, 120]]
    assert resize(image, (2, 2))[..., 0].tolist() == [[200, 0], [0, 0]]
    assert resize(image, (2, 2))[..., 1].tolist() == [[0, 0], [0, 60]]
    same = resize(image, (4, 4))
    assert np.array_equal(same, image) and not np.shares_memory(same, image)


def test_cameras_and_shadows_change_what_is_seen():
    needs_gl()
    seen = {}
    for settings in ({}, {"shadows": False}, {"camera": 1}, {"camera": 0}):
        env = envs.make("dmc:cartpole_balance", obs="pixels", **settings)
        seen[str(settings)] = env.reset()[0]["image"].astype(int)
        assert env.render().shape == (256, 256, 3), "films stay large"
        env.close()
    plain, shadowless, close, named = seen.values()
    assert np.array_equal(plain, named)
    assert np.abs(plain - shadowless).max() > 0 and np.abs(plain - shadowless).mean() < np.abs(plain - close).mean()


def test_a_frame_is_not_written_over_by_the_next():
    needs_gl()
    env = envs.make("dmc:cartpole_balance", obs="pixels", shadows=False)
    first = env.reset()[0]["image"]
    kept = first.copy()
    for _ in range(5):
        env.step(np.ones(1))
    assert np.array_equal(first, kept)


def test_partial_observation_of_images():
    env = prepared(Painted(), obs="both", hide=["image"])
    assert list(env.reset()[0]) == ["time"]
    env = prepared(Painted(), obs="both", blank=["image"])
    env.reset()
    assert not env.step(np.zeros(1))[0]["image"].any()
    env = prepared(Painted(), obs="pixels", flicker=0.5)
    shown = [env.reset()[0]["image"].max()] + [env.step(np.zeros(1))[0]["image"].max() for _ in range(7)]
    assert {0} < set(shown) and all(value in (0, 10 * time) for time, value in enumerate(shown))
    env = prepared(Painted(), obs="pixels", obs_noise=0.1)
    env.reset()
    noisy = [env.step(np.zeros(1))[0]["image"] for _ in range(6)][-1]
    assert noisy.dtype == np.uint8 and 15 < noisy.std() < 26 and abs(noisy.mean() - 60) < 3
    assert noisy in env.observation_space["image"]


@pytest.mark.parametrize(
    ("env", "settings", "message"),
    [
        (lambda: Seeing(), {"obs": "both"}, "has an observation 'image' of its own; use obs='state'"),
        (lambda: Painted(frame="no"), {"obs": "pixels"}, r"render\(\) must return a uint8 array .*, got str"),
        (lambda: Painted(frame=np.zeros((8, 8))), {"obs": "pixels"}, r"got float64 \(8, 8\)"),
        (lambda: gymnasium.make("CartPole-v1"), {"obs": "pixels"}, "draws no frames .*; use obs='state'"),
    ],
)
def test_what_cannot_be_seen_is_told(env, settings, message):
    with pytest.raises(envs.UserError, match=message) as error:
        prepared(env(), **settings).reset()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("task", "settings", "message"),
    [
        ("dmc:cartpole_balance", {"camera": 7}, r"camera must be -1 \(free\) to 1 for cartpole, got 7"),
        ("toy:copy", {"camera": 0}, "of dmc tasks only, not of 'toy:copy'"),
        ("gym:CartPole-v1", {"shadows": False}, "of dmc tasks only"),
    ],
)
def test_cameras_and_shadows_that_there_are_not(task, settings, message):
    with pytest.raises(envs.UserError, match=message):
        envs.make(task, **settings)
    with pytest.raises(envs.UserError, match="of dmc tasks only, not of your own environment"):
        envs.EnvFactory("mine", 0, envs.EnvSettings(camera=0), custom=Painted)(0)


# What draws


@pytest.fixture
def unchosen(monkeypatch):
    """A Linux machine on which nothing has been chosen; what a test chooses is forgotten after it."""
    with mock.patch.dict(os.environ):
        for name in ("MUJOCO_GL", "MUJOCO_EGL_DEVICE_ID"):
            os.environ.pop(name, None)
        monkeypatch.setattr(sys, "platform", "linux")
        yield


def test_backends_are_tried_in_order(unchosen, monkeypatch):
    tried = []

    def run(code, backend):
        tried.append(backend.name)
        return "1 3\n" if code is rendering._CUDA_DEVICES else (None if "osmesa" not in backend.name else "")

    monkeypatch.setattr(rendering, "_run", run)
    assert select_backend.__wrapped__() == "osmesa"
    assert tried == ["egl", "egl on CUDA device 1", "egl on CUDA device 3", "egl", "osmesa"]
    assert os.environ["MUJOCO_GL"] == "osmesa" and "MUJOCO_EGL_DEVICE_ID" not in os.environ
    os.environ |= {"MUJOCO_GL": "egl", "MUJOCO_EGL_DEVICE_ID": "5"}
    assert list(candidates()) == [Backend("egl", "egl")]


def test_a_cuda_device_is_chosen_by_its_number(unchosen, monkeypatch):
    monkeypatch.setattr(rendering, "_run", lambda code, backend: "2" if code is rendering._CUDA_DEVICES else "")
    assert select_backend.__wrapped__() == "egl"
    assert (os.environ["MUJOCO_GL"], os.environ["MUJOCO_EGL_DEVICE_ID"]) == ("egl", "2")


def test_frames_are_refused_in_one_line_before_anything_is_built_where_nothing_draws(tmp_path):
    flags = tiny_flags(task="dmc:cartpole_balance")
    done = dreamer_command("train", *flags, "--obs", "pixels", cwd=tmp_path, MUJOCO_GL="disable")
    assert (done.returncode, done.stdout) == (2, "") and list(tmp_path.iterdir()) == []
    assert done.stderr.startswith("dreamer: no frames can be drawn") and done.stderr.count("\n") == 1
    assert "apt-get install libosmesa6" in done.stderr


def test_the_backend_is_found_before_dm_control_is_imported():
    code = """
import sys, envs
def select():
    assert not [name for name in sys.modules if name.startswith("dm_control")]
    raise SystemExit(7)
envs.catalog.require_backend = select
envs.make("dmc:cartpole_balance", obs="pixels")
"""
    path = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, timeout=60)
    assert done.returncode == 7


# Runs


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of 160 steps from pixels alone, filmed, and what it saw at each step."""
    path = tmp_path_factory.mktemp("pixels") / "run"
    with unchecked():
        dreamer.train(tiny_config("toy:push", **PIXELS, **{"loop.video": "end"}), run_dir=path)
    return path


def test_a_run_from_pixels_trains_films_and_acts(run):
    records = timeless(run)
    assert any(record.get("reconstruction/image", 0) > 0 for record in records)
    assert {record["env/shadows"] for record in records if "env/shadows" in record} == {1.0}
    assert imageio.mimread(run / "videos" / "eval_000000160.mp4")[0].shape == (64, 64, 3)
    agent = dreamer.load(run)
    assert agent.obs_shapes == {"image": (16, 16, 3)}
    env = envs.make("toy:push", obs="pixels", image_size=(16, 16))
    (obs, _), state = env.reset(), None
    for _ in range(3):
        action, state = agent.act(obs, state is None, state)
        assert env.action_space.contains(action)
        obs, *_ = env.step(action)
    bare, _ = agent.act(obs["image"])
    several, _ = agent.act({"image": np.stack([obs["image"]] * 4)})
    assert bare.shape == (1,) and several.shape == (4, 1)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((16, 16, 3), np.float32), r"is float32 \[16, 16, 3\]; the agent learned from a uint8 image"),
        (
            np.zeros((3, 16, 16), np.uint8),
            r"is uint8 \[3, 16, 16\]; the agent learned from a uint8 image \[16, 16, 3\]",
        ),
    ],
)
def test_an_image_of_another_kind_is_refused(run, image, message):
    with pytest.raises(ValueError, match=message):
        dreamer.load(run).act(image)


def test_replay_holds_the_bytes_that_were_seen(run):
    """Row by row: re-stepping the episodes shows the images on disk, which take one byte a number."""
    shape = (16, 16, 3)
    state = newest(run)
    agent = dreamer.load(run)
    dtype = layout_of(agent).dtype
    assert dtype["obs/image"].shape == shape and dtype["obs/image"].base == np.uint8
    assert dtype.itemsize < 768 + 16
    rows = np.memmap(run / "replay" / "rows.bin", dtype, "r").reshape(-1, 2)[: state["replay"]["head"], 1]
    env = envs.make("toy:push", obs="pixels", image_size=shape[:2], index=1, time_limit=100)
    for row in rows:
        obs = env.reset()[0] if row["is_first"] else env.step(row["prev_action"])[0]
        assert np.array_equal(obs["image"], row["obs/image"])
    assert len(rows) == 80 and rows["is_first"].sum() == 5
    assert len({row["obs/image"].tobytes() for row in rows}) > 20


def test_a_resumed_run_is_the_run_that_never_stopped(tmp_path):
    settings = PIXELS | {"env.obs": "both"}
    config = tiny_config("toy:push", steps=120, **settings)
    with unchecked():
        whole = dreamer.train(config, run_dir=tmp_path / "whole").path
        dreamer.train(tiny_config("toy:push", steps=80, **settings), run_dir=tmp_path / "parts")
        parts = dreamer.resume(tmp_path / "parts", config=config).path
    assert_same_run(parts, whole)


@pytest.mark.parametrize("parallel", [False, True])
def test_pixels_arrive_from_processes_as_they_are(parallel):
    factory = envs.EnvFactory("toy:push", 0, envs.EnvSettings(obs="both", image_size=(16, 16)))
    vector = envs.make_vector(factory, [3, 4], parallel=parallel)
    obs, _ = vector.reset()
    kept = obs["image"].copy()
    after, *_ = vector.step(np.ones((2, 1), np.float32))
    assert obs["image"].shape == (2, 16, 16, 3) and obs["image"].dtype == np.uint8
    assert np.array_equal(obs["image"], kept) and not np.array_equal(after["image"], kept)
    alone = [envs.make("toy:push", obs="both", image_size=(16, 16), index=index).reset()[0] for index in (3, 4)]
    assert all(np.array_equal(kept[i], alone[i]["image"]) for i in range(2))
    vector.close()


def test_a_run_from_the_control_suites_pixels(run_dir, monkeypatch):
    needs_gl()
    drawn = []
    monkeypatch.setattr(DMC, "draw", lambda self, h, w, draw=DMC.draw: drawn.append((h, w)) or draw(self, h, w))
    changes = {"env.repeat": 4, "env.time_limit": 40, "env.shadows": False, "env.num_envs": 1, "loop.eval_episodes": 1}
    with unchecked():
        config = tiny_config("dmc:cartpole_balance", steps=80, **PIXELS, **changes, **{"loop.eval_every": 80})
        dreamer.train(config, run_dir=run_dir)
    assert set(drawn) == {(16, 16)}
    records = timeless(run_dir)
    assert {record["env/shadows"] for record in records if "env/shadows" in record} == {0.0}
    assert any("reconstruction/image" in record for record in records)


@pytest.mark.parametrize("size", [("50", "64"), ("0", "16")])
def test_a_size_the_network_cannot_take_is_refused_in_one_line(tmp_path, capsys, monkeypatch, size):
    monkeypatch.chdir(tmp_path)
    flags = [*tiny_flags(task="toy:copy"), "--obs", "pixels", "--env.image-size", *size]
    assert main(["train", *flags]) == 2
    message = capsys.readouterr().err
    assert message.startswith("dreamer: ") and message.count("\n") == 1
    assert "--env.image-size" in message and list(tmp_path.iterdir()) == []


def test_bench_states_what_pixels_cost(capsys, monkeypatch):
    monkeypatch.setitem(costs.PRODUCT_SIZES, "cpu", 64)
    flags = tiny_flags(task="toy:push", **{"agent.world_model.image.depth": 2})
    words = ["--obs", "pixels", "--env.image-size", "16", "16", "--updates", "1", "--agent-steps", "1", "--json"]
    assert main(["bench", *flags, *words]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["frames_per_second"] > 0
    row = 16 * 16 * 3 + 4 * (1 + 1) + 4  # image, action, reward, flags with alignment
    assert result["replay_bytes_per_row"] == row + 2 * 4 * (16 + 12)
    assert torch.get_num_threads() == result["threads"]
