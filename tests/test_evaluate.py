"""Evaluation: its own seeds, its own randomness, one episode of each environment; and films."""

from __future__ import annotations

import json
import time

import imageio.v2 as imageio
import numpy as np
import pytest
import torch
from gymnasium import spaces
from running import differences, newest, timeless, tiny_config

import dreamer
import envs
from dreamer.agent import Agent
from dreamer.cli.main import main
from dreamer.errors import UserError
from dreamer.experience.spaces import spec_of
from dreamer.tracking.video import evaluation_videos
from dreamer.training import loop
from dreamer.training.evaluate import Evaluation, Evaluator, summarize
from dreamer.training.video import record_video
from envs import EVAL_INDEX
from envs.rendering import select_backend
from envs.toy import Copy, Counting


class Striped(Counting):
    """Counts, and draws the step as that many white columns."""

    render_mode = "rgb_array"

    def __init__(self):
        super().__init__()
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": 50}

    def render(self):
        frame = np.zeros((48, 64, 3), np.uint8)
        frame[:, : 3 * self._step] = 255
        return frame


class Recorder(Copy):
    """Copies, and tells `seeds` every seed it was given."""

    def __init__(self, seeds):
        super().__init__()
        self._seeds = seeds

    def reset(self, *, seed=None, options=None):
        self._seeds.append(seed)
        return super().reset(seed=seed)


class Uneven(Counting):
    """Counts in episodes whose length depends on the seed."""

    def __init__(self):
        super().__init__(length=2)
        self.observation_space = spaces.Dict({**self.observation_space, "step": self.observation_space["row"]})

    def reset(self, *, seed=None, options=None):
        self._length = 2 + seed % 5
        return super().reset(seed=seed)


def make(kind, seed=0, **settings):
    return lambda index: envs.prepare(kind(), seed=seed, index=index, **settings)


def make_agent(make_env):
    env = make_env(0)
    torch.manual_seed(0)
    return Agent(tiny_config().agent, *spec_of(env.observation_space, env.action_space))


# Episodes


def test_each_environment_counts_its_first_episode_alone():
    evaluator = Evaluator(make(Uneven), 6, seed=0)
    result = evaluator.run(make_agent(make(Uneven)), "sample")
    lengths = []
    for i in range(6):
        env = make(Uneven)(EVAL_INDEX + i)
        env.reset()
        lengths.append(env.unwrapped._length)
    assert len(set(lengths)) > 2
    assert result.lengths.tolist() == lengths
    assert result.returns.tolist() == [length * (length + 1) / 2 for length in lengths]
    evaluator.close()


def test_the_same_seed_gives_the_same_returns_again_and_another_seed_others():
    agent = make_agent(make(Copy))
    evaluator = Evaluator(make(Copy), 3, seed=0)
    sampled, mode = evaluator.run(agent, "sample"), evaluator.run(agent, "mode")
    torch.rand(5)
    assert (evaluator.run(agent, "sample").returns == sampled.returns).all()
    assert (Evaluator(make(Copy), 3, seed=0).run(agent, "sample").returns == sampled.returns).all()
    assert (sampled.returns != mode.returns).any()
    assert (Evaluator(make(Copy), 3, seed=1).run(agent, "sample").returns != sampled.returns).any()
    assert (Evaluator(make(Copy, seed=1), 3, seed=0).run(agent, "sample").returns != sampled.returns).any()


def test_evaluation_leaves_the_random_state_and_the_agent_as_they_were():
    agent = make_agent(make(Copy))
    before = torch.get_rng_state()
    weights = {name: value.clone() for name, value in agent.state_dict().items()}
    Evaluator(make(Copy), 2, seed=0).run(agent, "sample")
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, weights[name]) for name, value in agent.state_dict().items())


def test_training_and_evaluation_never_share_a_seed():
    evaluation, training = [], []
    Evaluator(make(lambda: Recorder(evaluation)), 8, seed=0).run(make_agent(make(Copy)), "sample")
    vector = envs.make_vector(make(lambda: Recorder(training), time_limit=1), list(range(8)))
    vector.reset()
    for _ in range(2 * 100):
        vector.step(np.zeros((8, 1), np.float32))
    assert len(evaluation) >= 8 and len(set(training)) == len(training) > 8 * 100
    assert not set(evaluation) & set(training)


def test_a_summary_reports_both_kinds_of_actions():
    sampled = Evaluation(np.array([1.0, 3.0]), np.array([10, 20]))
    assert summarize(sampled, Evaluation(np.array([5.0, 5.0]), np.array([1, 1]))) == {
        "eval/return_mean": 2.0,
        "eval/return_std": 1.0,
        "eval/return_min": 1.0,
        "eval/return_max": 3.0,
        "eval/length_mean": 15.0,
        "eval/mode_return_mean": 5.0,
        "eval/mode_return_std": 0.0,
        "eval/episodes": 2.0,
    }


# Films


def white_columns(path):
    frames = imageio.mimread(path)
    return [int((frame.mean((0, 2)) > 128).sum()) for frame in frames]


@pytest.mark.parametrize(
    ("repeat", "shown", "fps"), [(1, [0, 2, 4, 6, 8], 25), (2, [0, 2, 4, 6, 8], 25), (4, [0, 4, 8], 12.5)]
)
def test_a_film_shows_an_episode_at_its_own_speed(tmp_path, repeat, shown, fps):
    path = record_video(make_agent(make(Striped)), make(Striped, repeat=repeat), tmp_path / "films" / "one.mp4", seed=0)
    assert [round(columns / 3) for columns in white_columns(path)] == shown
    assert imageio.get_reader(path).get_meta_data()["fps"] == fps
    assert [file.name for file in path.parent.iterdir()] == ["one.mp4"]


class Stuck(Striped):
    """Never answers its third step."""

    def step(self, action):
        time.sleep(60 if self._step == 2 else 0)
        return super().step(action)


def test_an_environment_that_hangs_ends_its_film(tmp_path):
    with pytest.raises(UserError, match="the environment failed: TimeoutError: no answer within 0.2 seconds"):
        record_video(make_agent(make(Stuck)), make(Stuck), tmp_path / "one.mp4", seed=0, timeout=0.2)


def test_a_film_that_is_being_written_is_none(tmp_path):
    (tmp_path / "videos").mkdir()
    for name in ("eval_000000030.mp4", "eval_000000040.part.mp4", "eval_best.mp4", "eval_000000010.mp4"):
        (tmp_path / "videos" / name).touch()
    assert [path.name for _, path in evaluation_videos(tmp_path)] == ["eval_000000010.mp4", "eval_000000030.mp4"]


def test_a_film_is_no_longer_than_asked(tmp_path):
    path = record_video(make_agent(make(Striped)), make(Striped), tmp_path / "one.mp4", seed=0, max_seconds=0.08)
    assert len(white_columns(path)) == 2


def test_an_environment_without_frames_is_told_so(tmp_path):
    with pytest.raises(UserError, match="renders no RGB frames"):
        record_video(make_agent(make(Copy)), make(Copy), tmp_path / "one.mp4", seed=0)
    assert not list(tmp_path.iterdir())


def test_a_film_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "one.mp4").mkdir()
    for name, reason in (("file/one.mp4", "File exists|Not a directory"), ("one.mp4", "Is a directory")):
        with pytest.raises(UserError, match=f"cannot write the video .*{name}: ({reason})"):
            record_video(make_agent(make(Striped)), make(Striped), tmp_path / name, seed=0, max_seconds=0.08)


def test_filming_leaves_the_random_state_as_it_was(tmp_path):
    agent, before = make_agent(make(Striped)), torch.get_rng_state()
    record_video(agent, make(Striped), tmp_path / "one.mp4", seed=0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("wanted", "films"), [("end", [20]), ("every", [10, 20])])
def test_a_run_films_when_asked(run_dir, wanted, films):
    config = tiny_config(steps=20, **{"loop.eval_every": 10, "loop.video": wanted, "loop.learning_starts": 100})
    dreamer.train(config, run_dir=run_dir, make_env=Striped)
    assert sorted(path.name for path in (run_dir / "videos").iterdir()) == [f"eval_{step:09d}.mp4" for step in films]


def test_a_run_goes_on_without_a_film_where_nothing_can_be_drawn(run_dir, capsys):
    config = tiny_config(steps=20, **{"loop.video": "end"})
    assert dreamer.train(config, run_dir=run_dir, make_env=Copy).status == "finished"
    assert "no video: the environment renders no RGB frames" in capsys.readouterr().err
    assert timeless(run_dir)[-1]["eval/episodes"] == 2


@pytest.mark.slow
def test_a_film_of_the_control_suite(tmp_path):
    if select_backend() is None:
        pytest.skip("nothing can be drawn on this machine: no OpenGL library for off-screen rendering")
    factory = envs.EnvFactory("dmc:cartpole_balance", 0, envs.EnvSettings(repeat=10, time_limit=200))
    path = record_video(make_agent(factory), factory, tmp_path / "one.mp4", seed=0)
    frames = imageio.mimread(path)
    assert len(frames) == 20 and frames[0].shape == (256, 256, 3)
    assert frames[0].std() > 10 and np.abs(frames[0].astype(int) - frames[-1]).max() > 30


@pytest.mark.slow
def test_a_film_of_a_gymnasium_mujoco_environment(tmp_path):
    if select_backend() is None:
        pytest.skip("nothing can be drawn on this machine: no OpenGL library for off-screen rendering")
    factory = envs.EnvFactory("gym:InvertedPendulum-v5", 0, envs.EnvSettings(time_limit=4))
    path = record_video(make_agent(factory), factory, tmp_path / "one.mp4", seed=0)
    assert np.array(imageio.mimread(path)).std() > 10


# The best checkpoint


def test_the_best_evaluation_of_a_run_is_kept_and_evaluated_again(tmp_path, monkeypatch, capsys):
    """Also by a run that is killed after the best evaluation and resumed."""
    scores = {10: 1.0, 20: 3.0, 30: 2.0, 40: 3.0}
    monkeypatch.setattr(
        loop,
        "summarize",
        lambda sampled, mode: summarize(sampled, mode) | {"eval/return_mean": scores[trainer[-1].progress.step]},
    )
    trainer: list[loop.Trainer] = []
    train = loop.Trainer.train
    monkeypatch.setattr(loop.Trainer, "train", lambda self: trainer.append(self) or train(self))
    changes = {"steps": 40, "loop.eval_every": 10, "loop.checkpoint_every": 20, "loop.keep_checkpoints": 1}
    config = tiny_config("toy:copy", **changes)

    class Killed(BaseException):
        pass

    def collect(self):
        if self.progress.step == 30 and len(trainer) == 2:
            raise Killed
        return original(self)

    original = loop.Trainer.collect
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    dreamer.train(config, run_dir=whole)
    monkeypatch.setattr(loop.Trainer, "collect", collect)
    with pytest.raises(Killed):
        dreamer.train(config, run_dir=killed)
    dreamer.resume(killed)
    for path in (whole, killed):
        assert newest(path)["best_at"] == 20 and newest(path)["best_return"] == 3.0
        assert [file.name for file in (path / "checkpoints" / "best").iterdir()] == ["step_000000000020.ckpt"]
        assert main(["evaluate", str(path), "--checkpoint", "best", "--episodes", "2", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["step"] == 20
    best, last = dreamer.load(whole, checkpoint="best").state_dict(), dreamer.load(whole).state_dict()
    assert not differences(best, dreamer.load(killed, checkpoint=20).state_dict()) and differences(best, last)
    found = dreamer.evaluate(whole, episodes=3, checkpoint="best").returns
    assert (found == dreamer.evaluate(dreamer.load(whole, checkpoint=20), "toy:copy", 3).returns).all()
    capsys.readouterr()
    for words, message in (
        (["--checkpoint", "30"], f"no checkpoint of step 30 in {whole}/checkpoints; available steps: 20 (best), 40"),
        (["--checkpoint", "last"], "checkpoint must be a step or best, got 'last'"),
    ):
        for command in ("evaluate", "imagine"):
            assert main([command, str(whole), *words]) == 2
            assert capsys.readouterr().err == f"dreamer: {message}\n"
    with pytest.raises(UserError, match="an agent has its weights"):
        dreamer.evaluate(dreamer.load(whole), "toy:copy", 1, checkpoint="best")


def test_a_run_that_keeps_no_best_checkpoint_says_so(tmp_path):
    dreamer.train(tiny_config(steps=4, **{"loop.keep_best": False}), run_dir=tmp_path / "run")
    with pytest.raises(UserError, match="no best checkpoint in .*; available steps: 0, 4"):
        dreamer.load(tmp_path / "run", checkpoint="best")
