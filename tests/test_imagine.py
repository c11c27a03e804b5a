"""Open-loop evaluation: predictions see no observation, errors mean what they say, videos show what they name."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable
from typing import Any

import imageio.v2 as imageio
import numpy as np
import pytest
import torch
from nursery import run
from PIL import ImageColor
from running import differences as differing
from running import newest, timeless, tiny_config
from tiny import CORES, make_agent, unchecked

import dreamer
import envs
from dreamer.agent import Agent
from dreamer.batch import Batch
from dreamer.behavior.imagination import rollout
from dreamer.cli.main import main
from dreamer.errors import UserError
from dreamer.experience.spaces import spec_of
from dreamer.nn.struct import Struct
from dreamer.openloop import evaluation, folder, rollouts, traces, videos
from dreamer.openloop.evaluation import SHOWN_SAMPLES, OpenLoopEvaluation, OpenLoopSettings, Signal, evaluate
from dreamer.openloop.record import metrics, record
from dreamer.openloop.rollouts import ErrorCurves
from dreamer.tracking import read
from dreamer.world_model.world_model import WorldModel
from envs.toy import Copy, Counting

VARIANTS = {
    "rssm": {},
    "rssm:gaussian": {"dynamics.latent": "gaussian"},
    "ssm": {"dynamics.core": "ssm"},
    "ssm:gaussian": {"dynamics.core": "ssm", "dynamics.latent": "gaussian"},
    "rnn": {"dynamics.core": "rnn"},
    "gru": {"dynamics.core": "gru"},
    "mdn_rnn": {"dynamics.core": "mdn_rnn"},
    "s5": {"dynamics.core": "s5"},
    "transformer": {"dynamics.core": "transformer"},
}
SMALL = OpenLoopSettings(context=3, horizon=4, episodes=3, samples=5, shown=2)


def copies(index: int) -> Any:
    return envs.make("toy:copy", index=index)


def agent_for(make_env: Callable[[int], Any], changes: dict[str, Any] | None = None) -> Agent:
    env = make_env(0)
    sizes, action = spec_of(env.observation_space, env.action_space)
    return make_agent(changes, action, sizes)


def changed(monkeypatch: pytest.MonkeyPatch, change: Callable[[Batch], Batch]) -> None:
    """Let evaluations see other steps than those that happened."""

    def other(*arguments: Any) -> rollouts.HeldOut:
        windows = rollouts.held_out(*arguments)
        return dataclasses.replace(windows, batch=change(windows.batch))

    monkeypatch.setattr(evaluation, "held_out", other)


# Predictions


@pytest.mark.parametrize("core", VARIANTS)
def test_predictions_follow_the_actions_and_see_no_observation(core, monkeypatch):
    agent = agent_for(copies, VARIANTS[core])
    first = evaluate(agent, copies, SMALL)

    def blind(batch: Batch) -> Batch:
        return dataclasses.replace(
            batch, obs={key: value.index_fill(1, torch.arange(3, 7), 7.0) for key, value in batch.obs.items()}
        )

    def moved(batch: Batch) -> Batch:
        return dataclasses.replace(batch, prev_action=batch.prev_action.index_fill(1, torch.tensor([4]), 5.0))

    changed(monkeypatch, blind)
    unseen = evaluate(agent, copies, SMALL)
    changed(monkeypatch, moved)
    pushed = evaluate(agent, copies, SMALL)
    for key in ("action", "cue", "reward"):
        before, after = first.signals[key].samples, pushed.signals[key].samples
        np.testing.assert_array_equal(first.signals[key].samples, unseen.signals[key].samples)
        np.testing.assert_array_equal(before[:, :, :4], after[:, :, :4])
        assert key == "reward" or (before[:, :, 4:] != after[:, :, 4:]).any(), "row 4 is the first that feels it"
    assert (unseen.signals["cue"].real[:, 3:] == 7).all() and (first.signals["cue"].real != 7).all()
    np.testing.assert_array_equal(first.signals["cue"].rollouts, unseen.signals["cue"].rollouts)


@pytest.mark.parametrize("core", VARIANTS)
def test_samples_scatter_where_the_core_is_stochastic(core):
    agent = agent_for(copies, VARIANTS[core])
    seen = evaluate(agent, copies, SMALL)
    assert seen.signals["cue"].samples.shape == (2, 5, 7, 1) and seen.signals["cue"].rollouts.shape == (
        2,
        SHOWN_SAMPLES,
        4,
        1,
    )
    spread = np.ptp(seen.signals["cue"].samples, axis=1)
    assert (spread[:, :3].max() > 0) == (core != "rnn"), "every sample filters on its own"
    assert all(len(curve) == 4 for signal in seen.signals.values() for curve in signal.errors.values())


class Hanging(Copy):
    """Never answers its first step."""

    def step(self, action: Any) -> Any:
        time.sleep(60 if self._step == 0 else 0)
        return super().step(action)


def test_an_environment_that_hangs_ends_an_evaluation() -> None:
    def make_env(index: int) -> Any:
        return envs.prepare(Hanging(length=9), seed=0, index=index)

    with pytest.raises(UserError, match="failed 4 times without finishing an episode: TimeoutError"):
        evaluate(agent_for(make_env), make_env, SMALL, timeout=0.1)


def test_an_evaluation_is_reproducible_and_leaves_the_random_state_as_it_was():
    agent, before = agent_for(copies), torch.get_rng_state()
    first = evaluate(agent, copies, SMALL)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    again, other = evaluate(agent, copies, SMALL), evaluate(agent, copies, dataclasses.replace(SMALL, seed=1))
    np.testing.assert_array_equal(first.signals["cue"].samples, again.signals["cue"].samples)
    assert (first.signals["cue"].samples != other.signals["cue"].samples).any()
    np.testing.assert_array_equal(first.signals["cue"].real[:, 0], other.signals["cue"].real[:, 0])


def test_held_out_episodes_are_none_that_training_uses():
    seeds: dict[str, list[int | None]] = {"held out": [], "training": []}

    class Recorder(Copy):
        def __init__(self, kind: str) -> None:
            super().__init__(length=2)
            self._seeds = seeds[kind]

        def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
            self._seeds.append(seed)
            return super().reset(seed=seed)

    def make(kind: str) -> Callable[[int], Any]:
        return lambda index: envs.prepare(Recorder(kind), seed=0, index=index)

    rollouts.held_out(agent_for(copies), make("held out"), 6, 2, 0)
    vector = envs.make_vector(make("training"), list(range(6)))
    vector.reset()
    for _ in range(300):
        vector.step(np.zeros((6, 1), np.float32))
    assert len(seeds["held out"]) == 6 and len(set(seeds["training"])) > 500
    assert not set(seeds["held out"]) & set(seeds["training"])


class Uneven(Counting):
    """Counts in episodes of 6 or 8 steps."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        assert seed is not None
        self._length = 6 + 2 * (seed % 2)
        return super().reset(seed=seed)


def uneven(index: int) -> Any:
    return envs.prepare(Uneven(), seed=0, index=index)


def test_rows_behind_the_end_of_an_episode_count_in_nothing():
    agent = agent_for(uneven)
    seen = evaluate(agent, uneven, dataclasses.replace(SMALL, episodes=6, shown=6, horizon=20))
    steps = seen.signals["step"].real[..., 0]
    lengths = (~np.isnan(steps)).sum(1)
    assert set(lengths) == {7, 9} and steps.shape == (6, 9), "as long as the longest episode"
    for row, length in zip(steps, lengths, strict=True):
        np.testing.assert_array_equal(row[:length], np.arange(length))
    assert seen.alive == [6] * 4 + [(lengths == 9).sum()] * 2
    scale = steps[~np.isnan(steps)].std()
    assert seen.signals["step"].errors["copy_rmse"] == pytest.approx([k / scale for k in range(1, 7)])


def test_the_number_of_samples_has_a_default():
    seen = evaluate(agent_for(copies), copies, dataclasses.replace(SMALL, samples=0))
    assert seen.settings.samples == seen.signals["cue"].samples.shape[1] == evaluation.SAMPLES


def test_rows_can_be_skipped():
    seen = evaluate(agent_for(uneven), uneven, dataclasses.replace(SMALL, skip=2))
    assert seen.signals["step"].real[0, :5, 0].tolist() == [2, 3, 4, 5, 6]


def test_episodes_that_end_within_the_observed_rows_are_told(capsys):
    with pytest.raises(UserError, match="episodes end after 9 steps.*lower --context 9"):
        evaluate(agent_for(uneven), uneven, dataclasses.replace(SMALL, context=9, episodes=6))


@dataclasses.dataclass(frozen=True)
class Number(Struct):
    """A state that is one number."""

    value: torch.Tensor


class Adding:
    """A core that adds the action to the state."""

    def imagine_step(self, state: Number, action: torch.Tensor) -> Number:
        return Number(state.value + action)

    def features(self, state: Number) -> torch.Tensor:
        return state.value


def test_given_actions_and_chosen_actions_reach_the_core():
    start, core = Number(torch.tensor([[0.0], [10.0]])), Adding()
    with unchecked():
        given = rollouts.predict(core, start, torch.tensor([[[1.0], [2.0]]]), samples=2)  # type: ignore[arg-type]
        assert [state.value.squeeze(1).tolist() for state in given] == [[1, 11], [3, 13]]
        dreamed = rollout(core, lambda features: features, start, 3)  # type: ignore[arg-type]
        assert [state.value.squeeze(1).tolist() for state, _, _ in dreamed] == [[0, 10], [0, 20], [0, 40], [0, 80]]


# Errors


def test_errors_are_those_of_known_numbers():
    curves = ErrorCurves()
    samples = torch.tensor([[[0.0], [1.0], [2.0], [5.0]], [[1.0], [1.0], [1.0], [1.0]]])
    curves.add(samples, torch.tensor([[1.5], [1.0]]), torch.tensor([[0.5], [4.0]]))
    found = {name: values[0] for name, values in curves.curves.items()}
    assert found["rmse"] == pytest.approx(math.sqrt((0.5**2 + 0) / 2))
    assert found["copy_rmse"] == pytest.approx(math.sqrt((1 + 9) / 2)) and found["copy_crps"] == 2.0
    pairs = [abs(x - y) for i, x in enumerate((0, 1, 2, 5)) for y in (0, 1, 2, 5)[i + 1 :]]
    assert found["crps"] == pytest.approx(((1.5 + 0.5 + 0.5 + 3.5) / 4 - sum(pairs) / 12) / 2)
    assert found["spread"] == pytest.approx(np.std([0, 1, 2, 5], ddof=1) / 2)
    assert found["coverage_50"] == found["coverage_90"] == 0.5, "1.5 lies in the middle of four; a point holds nothing"


def test_bands_of_a_calibrated_model_hold_what_they_promise():
    curves = ErrorCurves()
    drawn = torch.randn(400, 65, 10, generator=torch.Generator().manual_seed(0))
    curves.add(drawn[:, 1:], drawn[:, 0], drawn[:, 0])
    assert curves.curves["coverage_50"][0] == pytest.approx(33 / 65, abs=0.02)
    assert curves.curves["coverage_90"][0] == pytest.approx(57 / 65, abs=0.02)


def test_metrics_are_means_over_the_predicted_rows():
    seen = evaluate(agent_for(copies), copies, SMALL)
    values, errors = metrics(seen), seen.signals["cue"].errors
    assert values["imagination/rmse/cue"] == pytest.approx(np.mean(errors["rmse"]))
    skill = 1 - np.mean(errors["crps"]) / np.mean(errors["copy_crps"])
    assert values["imagination/skill/cue"] == pytest.approx(skill) and "imagination/crps/reward" in values


# Figures and videos


def test_a_figure_draws_numbers_of_every_key_and_the_reward(monkeypatch):
    monkeypatch.setattr(traces, "PANELS", 4)
    wide = np.zeros((1, 7, 9))
    signals = {key: Signal(wide, wide[:, None], wide[:, None, 3:], {}) for key in ("a", "b", "c")}
    reward = Signal(wide[..., :1], wide[:, None, :, :1], wide[:, None, 3:, :1], {})
    entries = record(OpenLoopEvaluation(SMALL, signals | {"reward": reward}, [1] * 4))["traces"]
    drawn = traces._chosen(entries)
    assert [trace.name for trace in drawn] == ["a 0", "b 0", "c 0", "reward"]
    assert len(entries) == 28


def painted(*shape: int) -> np.ndarray:
    """Images 8x8x3 of one colour each."""
    shades = np.random.default_rng(0).random((*shape, 1, 1, 3)).astype(np.float32)
    return np.broadcast_to(shades, (*shape, 8, 8, 3)).copy()


def tile(frame: np.ndarray, row: int, column: int) -> tuple[np.ndarray, int, int]:
    """Colour in the middle of a tile, and the numbers of rows and columns."""
    pitch = videos.TILE + videos.GAP
    rows, columns = (frame.shape[0] - 30) // pitch, round((frame.shape[1] - 72) / pitch)
    left = frame.shape[1] - columns * pitch
    return frame[30 + row * pitch + videos.TILE // 2, left + column * pitch + videos.TILE // 2], rows, columns


@pytest.fixture
def images() -> Signal:
    signal = Signal(painted(2, 7), painted(2, 4, 7), painted(2, 4, 4), {})
    signal.real[1, 5:] = np.nan
    return signal


def as_bytes(color: np.ndarray) -> list[int]:
    return np.round(255 * color).astype(int).tolist()


def test_a_video_has_rows_real_model_error_and_samples(images):
    frames = videos.comparison(images, context=3)
    assert len(frames) == 7 and frames[0].shape[0] % 2 == frames[0].shape[1] % 2 == 0
    for t, frame in enumerate(frames):
        for window in range(2):
            real, samples = images.real[window, t, 0, 0], images.samples[window, :, t, 0, 0]
            shown = [tile(frame, row, window)[0].tolist() for row in range(6)]
            if np.isnan(real).any():
                assert shown[0] == shown[2] == [128, 128, 128]
            else:
                assert shown[0] == as_bytes(real) and shown[2] == as_bytes(np.abs(samples[0] - real))
            assert [shown[1], *shown[3:]] == [as_bytes(sample) for sample in samples]
    bars = [frame[26, frame.shape[1] // 2].tolist() for frame in frames]
    assert bars == [list(ImageColor.getrgb(c)) for c in [videos.OBSERVED] * 3 + [videos.IMAGINED] * 4]


def test_a_video_of_imagined_rollouts_goes_on_from_what_was_observed(images):
    frames = videos.rollouts(images, context=3)
    assert len(frames) == 7
    for t, frame in enumerate(frames):
        for window in range(2):
            rows = images.samples[window, :, t] if t < 3 else images.rollouts[window, :, t - 3]
            assert [tile(frame, i, window)[0].tolist() for i in range(4)] == [as_bytes(row[0, 0]) for row in rows]


def test_a_strip_shows_the_last_observed_row_and_moments_up_to_the_end(images):
    strip = videos.strip(images, context=3)
    _, rows, columns = tile(strip, 0, 0)
    assert (rows, columns) == (6, 5), "rows 2 to 6, of which there are fewer than a strip has room for"
    shown = [tile(strip, 0, column)[0].tolist() for column in range(5)]
    assert shown == [as_bytes(images.real[0, t, 0, 0]) for t in range(2, 7)]


class Camera:
    """A world model of one image key, whose state is the brightness that it decodes."""

    decoder = "has one"

    class core:
        observe = staticmethod(lambda embeds, actions, first: Number(embeds))
        imagine_step = staticmethod(lambda state, action: Number(state.value + 0.25 * action))
        features = staticmethod(lambda state: state.value)
        initial_state = staticmethod(lambda count: Number(torch.zeros(count, 1)))

    def embed(self, obs: dict[str, torch.Tensor]) -> torch.Tensor:
        assert obs["camera"].dtype == torch.uint8, "bytes up to the encoder"
        return obs["camera"].float().mean((-1, -2, -3)).unsqueeze(-1) / 255

    def decode(self, state: Number) -> dict[str, torch.Tensor]:
        return {"camera": state.value[..., None, None].expand(*state.value.shape[:-1], 8, 8, 3)}

    def predict(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return features.squeeze(-1), features.squeeze(-1)


def test_images_are_evaluated_in_brightness_from_0_to_1(monkeypatch, tmp_path):
    """A real camera of 0, 51, 102 ...; the model adds a quarter for an action of 1, and imagines action 0."""
    frames = (51 * torch.arange(5)).to(torch.uint8).view(1, 5, 1, 1, 1).expand(2, 5, 8, 8, 3)
    flags = torch.zeros(2, 5, dtype=torch.bool)
    batch = Batch({"camera": frames}, torch.ones(2, 5, 1), torch.zeros(2, 5), flags, flags, flags, torch.zeros(2, 0))
    windows = rollouts.HeldOut(batch, torch.ones(2, 5, dtype=torch.bool))
    monkeypatch.setattr(evaluation, "held_out", lambda *_: windows)

    class Still:
        device, world_model = torch.device("cpu"), Camera()

        class actor_critic:
            policy = staticmethod(lambda sample: lambda features: 0 * features)

    with unchecked():
        seen = evaluate(Still(), None, OpenLoopSettings(context=2, horizon=3, episodes=2, samples=3, shown=1))  # type: ignore[arg-type]
    camera = seen.signals["camera"]
    assert camera.is_image and camera.unit.startswith("brightness") and not seen.signals["reward"].is_image
    assert camera.samples[0, 0, :, 0, 0, 0].tolist() == pytest.approx([0, 0.2, 0.45, 0.7, 0.95])
    assert camera.rollouts[0, :, :, 0, 0, 0].tolist() == pytest.approx(np.full((3, 3), 0.2))
    assert camera.errors["rmse"] == pytest.approx([0.05, 0.1, 0.15])
    assert camera.errors["copy_crps"] == pytest.approx([0.2, 0.4, 0.6])
    media = folder.write(seen, tmp_path)
    assert {"camera_predictions", "camera_dreams", "camera_strip", "errors"} <= media.keys()
    video = imageio.mimread(media["camera_predictions"])
    assert len(video) == 5 and imageio.get_reader(media["camera_predictions"]).get_meta_data()["fps"] == folder.FPS
    assert np.abs(tile(video[2], 1, 0)[0].astype(int) - 115).max() < 8, "the model's 0.45"


# The command


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    path = tmp_path_factory.mktemp("imagine") / "run"
    with unchecked():
        dreamer.train(tiny_config(task="toy:copy", steps=4), run_dir=path)
    return path


def test_the_command_writes_what_it_says(small_run, capsys):
    assert main(["imagine", str(small_run), "--horizon", "6", "--samples", "9", "--episodes", "3"]) == 0
    text = capsys.readouterr().out
    assert "3 held-out episodes, 5 steps observed, 6 predicted from actions alone, 9 samples each, step 4" in text
    assert "cue: better than repeating at" in text
    place = small_run / "imagination" / "step_000000004"
    for name in ("predictions", "dreams", "errors"):
        assert (place / f"{name}.png").read_bytes().startswith(b"\x89PNG") and str(place / f"{name}.png") in text
    numbers = json.loads((place / "imagination.json").read_text())
    assert numbers["settings"]["horizon"] == 6 and set(numbers["errors"]) == {"action", "cue", "reward"}
    assert [trace["key"] for trace in numbers["traces"]] == ["action", "cue", "reward"]
    cue = numbers["traces"][1]
    assert np.shape(cue["real"]) == (3, 11) and np.shape(cue["samples"]) == (3, SHOWN_SAMPLES, 11)
    assert np.shape(cue["dreams"]) == (3, SHOWN_SAMPLES, 6) and (np.abs(cue["real"]) == 1).all()
    bands = np.array([cue[f"percentile_{p}"] for p in (5, 25, 50, 75, 95)])
    assert (np.diff(bands, axis=0) >= 0).all()


def test_the_command_prints_one_json_object(small_run, tmp_path, capsys):
    assert main(["imagine", str(small_run), "--horizon", "2", "--folder", str(tmp_path / "here"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["step"] == 4 and len(result["errors"]["cue"]["crps"]) == 2
    assert (tmp_path / "here" / "imagination.json").is_file()


MISTAKES = {
    "--shown 0": "--shown: input should be greater than or equal to 1 (got 0)",
    "--horizon -1": "--horizon: input should be greater than or equal to 1 (got -1)",
    "--skip -1": "--skip: input should be greater than or equal to 0 (got -1)",
    "--context 99": "the held-out episodes end after 33 steps, so none is left to predict; lower --context 99",
    "--folder {file}": "cannot write to {file}: ",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_is_one_line(small_run, tmp_path, capsys, words):
    (tmp_path / "file").write_text("mine")
    places = {"file": tmp_path / "file"}
    assert main(["imagine", str(small_run), *words.format(**places).split()]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"dreamer: {MISTAKES[words].format(**places)}") and error.count("\n") == 1


def test_a_model_without_a_decoder_is_one_line_before_any_work(small_run, tmp_path, capsys, monkeypatch):
    def without(self: WorldModel, states: Struct) -> None:
        raise UserError("nothing here can be decoded")

    monkeypatch.setattr(WorldModel, "decode", without)
    monkeypatch.setattr(evaluation, "held_out", lambda *_: pytest.fail("episodes for nothing"))
    assert main(["imagine", str(small_run), "--folder", str(tmp_path / "here")]) == 2
    assert capsys.readouterr().err == "dreamer: nothing here can be decoded\n"
    assert not (tmp_path / "here").exists()


def test_discrete_actions_and_observations_are_imagined():
    """The predicted state of the chain is its probabilities, beside a one-hot truth."""
    signal = evaluate(agent_for(chain), chain, SMALL).signals["observation"]
    assert signal.samples.shape[-1] == signal.real.shape[-1] == 5 and not signal.is_image
    np.testing.assert_allclose(signal.samples.sum(-1), 1.0, rtol=1e-5)


def chain(index: int) -> Any:
    return envs.make("toy:chain", index=index)


# During training


def test_training_evaluates_open_loop_at_intervals_and_at_the_end_without_being_touched(tmp_path):
    settings = {"task": "toy:copy", "steps": 60}
    with unchecked():
        plain = dreamer.train(tiny_config(**settings), run_dir=tmp_path / "plain")
        looking = dreamer.train(tiny_config(**settings, **{"loop.imagine_every": 40}), run_dir=tmp_path / "looking")
    steps = [40, 60]
    assert [path.name for path in sorted((looking.path / "imagination").iterdir())] == [f"step_{n:09d}" for n in steps]
    records = [record for record in timeless(looking.path) if "imagination/skill/cue" in record]
    assert [record["step"] for record in records] == steps and not (plain.path / "imagination").exists()
    assert not differing(newest(plain.path)["agent"], newest(looking.path)["agent"])
    assert torch.equal(newest(plain.path)["rng"]["cpu"], newest(looking.path)["rng"]["cpu"])
    fractions = [record.get("time/fraction_imagination") for record in read(looking.path / "metrics.jsonl")]
    assert any(fraction and 0 < fraction < 1 for fraction in fractions)


def test_training_goes_on_when_an_open_loop_evaluation_fails(run_dir, capsys, monkeypatch):
    def fail(*arguments: Any) -> None:
        raise RuntimeError("no light")

    monkeypatch.setattr("dreamer.openloop.evaluation.evaluate", fail)
    with unchecked():
        result = dreamer.train(tiny_config(steps=20, **{"loop.imagine_every": 10}), run_dir=run_dir)
    assert result.status == "finished" and "eval/return_mean" in result.evaluation
    assert capsys.readouterr().err.count("no open-loop evaluation: no light") == 2


@pytest.mark.slow
@pytest.mark.parametrize("core", CORES)
def test_a_debug_run_of_every_core_is_imagined(core, tmp_path):
    flags = ["--preset", "debug", "--steps", "300", "--tracking.wandb", "off", "--core", core]
    done = run("train", *flags, "--task", "toy:copy", "--run-dir", tmp_path / "run")
    assert done.code == 0, done.errors
    done = run("imagine", tmp_path / "run", "--json")
    errors = json.loads(done.output)["errors"]
    assert all(math.isfinite(value) for curves in errors.values() for value in curves["crps"])
