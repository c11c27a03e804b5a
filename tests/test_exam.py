"""The exam measures what it says: its yardsticks against known answers, and the command from end to end."""

import json
import os

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from tiny import unchecked

from dreamer.cli.main import main
from dreamer.experiments.exam import drift, recall, uncertainty
from dreamer.experiments.exam.exam import ALL, _results
from dreamer.experiments.exam.learner import Stage, exam_config, train_model, with_initial_context
from dreamer.experiments.exam.plots import FIGURES
from dreamer.experiments.exam.recordings import record, smooth_actions, uniform_actions
from dreamer.experiments.exam.verdict import covers, document, verdict
from dreamer.openloop.rollouts import crps
from dreamer.tracking.plotting import WIDTH
from envs import make
from envs.push import displacement


def push(index):
    return make("toy:push", index=index)


@pytest.fixture(scope="module")
def pushes():
    return record(push, 6, 8, uniform_actions(1))


def test_recordings_are_arrival_rows_and_repeat_exactly(pushes):
    again = record(push, 6, 8, uniform_actions(1))
    assert (pushes.episodes, pushes.length) == (6, 9)
    np.testing.assert_array_equal(pushes.obs["position"], again.obs["position"])
    assert (pushes.prev_action[:, 0] == 0).all() and pushes.prev_action[:, 1:].all()
    moved = pushes.truth[:, 1:] - pushes.truth[:, :-1]
    expected = displacement(pushes.prev_action[:, 1:, 0])
    assert np.all(np.isclose(moved, 0) | np.isclose(moved, expected)), "each row's action led to it"
    np.testing.assert_allclose(pushes.reward[:, 1:], -np.abs(pushes.truth[:, 1:]), rtol=1e-6)
    other = record(push, 6, 8, uniform_actions(1), first_index=6)
    assert not np.isin(other.obs["position"], pushes.obs["position"]).any()


def test_windows_are_the_rows_asked_for(pushes):
    batch = pushes.windows(np.array([4, 1]), np.array([0, 3]), 5)
    np.testing.assert_array_equal(batch.obs["position"][1], pushes.obs["position"][1, 3:8])
    np.testing.assert_array_equal(batch.prev_action[0], pushes.prev_action[4, :5])
    assert batch.is_first.tolist() == [[True] + [False] * 4, [False] * 5]
    assert not pushes.windows(np.array([0]), np.array([4]), 5).is_last[0, :-1].any()
    assert pushes.windows(np.array([0]), np.array([4]), 5).is_last[0, -1]


def test_smooth_actions_stay_in_bounds_and_remember():
    actions = smooth_actions(2)(np.random.default_rng(0), 2000)
    assert actions.shape == (2000, 2) and np.abs(actions).max() <= 1
    assert np.corrcoef(actions[:-1, 0], actions[1:, 0])[0, 1] > 0.8


def test_masses_belong_to_the_nearest_outcome():
    decoded = np.array([[1.0, 1.2, 0.1, 0.49, 0.51, 1.6, -0.6, 5.0]])
    moved, stuck = uncertainty.mode_masses(decoded, np.array([[1.0, 0.0]]))
    assert (moved.item(), stuck.item()) == (3 / 8, 2 / 8)


@pytest.fixture(scope="module")
def tests_of_push():
    return record(push, 400, uncertainty.STEPS, uniform_actions(1), first_index=1_000_000)


def truth_of(recording, samples):
    """What truly may happen to the box, drawn from the simulator's own distribution."""
    rows = np.array(uncertainty.TEST_STEPS)
    position, action = recording.truth[:, rows], recording.prev_action[:, rows + 1, 0]
    moves = np.random.default_rng(0).random((*position.shape, samples)) < 0.7
    return position[..., None] + moves * displacement(action)[..., None]


def test_a_model_that_knows_the_truth_has_no_gap_and_is_calibrated(tests_of_push):
    result = uncertainty.judge(truth_of(tests_of_push, 1000), tests_of_push)
    assert abs(result["nll_gap"]) < 0.01
    assert result["moved"] == pytest.approx(0.7, abs=0.01) and result["stuck"] == pytest.approx(0.3, abs=0.01)
    assert result["coverage_50"] == pytest.approx(0.5, abs=0.05)
    assert result["coverage_90"] == pytest.approx(0.9, abs=0.03)
    assert result["pit_ks"] < 0.05 and result["moved_error_per_state"] < 0.02
    assert result["nll_gap_floor"] > 0.01, "who must infer the position cannot do as well"
    assert covers([result])


def test_a_model_of_the_mean_covers_neither_outcome(tests_of_push):
    rows = np.array(uncertainty.TEST_STEPS)
    position, action = tests_of_push.truth[:, rows], tests_of_push.prev_action[:, rows + 1, 0]
    mean = np.repeat((position + 0.45 * displacement(action))[..., None], 10, -1)
    result = uncertainty.judge(mean, tests_of_push)
    assert (result["moved"], result["stuck"]) == (0.0, 1.0)
    assert result["nll_gap"] > 2 and result["pit_ks"] > 0.2 and not covers([result])


def test_crps_is_the_integral_it_is_defined_by():
    """Of an empirical distribution, plus the fair correction for the number of samples."""
    samples, target = np.array([0.3, -1.0, 2.0, 0.5]), 0.7
    steps = stats.ecdf(samples).cdf
    integral = integrate.quad(lambda x: (steps.evaluate(x) - (x >= target)) ** 2, -5, 5, points=[*samples, target])[0]
    pairs = np.abs(samples[:, None] - samples[None]).sum()
    fair = integral + pairs / 32 - pairs / 24
    found = crps(torch.tensor(samples)[None, :, None], torch.tensor([[target]])).item()
    assert found == pytest.approx(fair, abs=1e-3)


def test_crps_of_one_sample_is_the_absolute_error():
    assert crps(torch.tensor([[[2.0]]]), torch.tensor([[0.5]])).item() == 1.5
    same = torch.full((1, 8, 1), 2.0)
    assert crps(same, torch.tensor([[0.5]])).item() == pytest.approx(1.5)


def test_known_noise_makes_reconstruction_a_likelihood(pushes):
    config = exam_config("rssm", "100k", 0.0, pushes.spec, sigma=0.1).agent.world_model
    assert config.scales.reconstruction == pytest.approx(50)
    assert not config.encoder.symlog and not config.decoder.symlog


@pytest.mark.parametrize("variant", ALL)
def test_every_core_takes_every_part(variant, pushes):
    stage = [Stage(2, 4, 6)]
    cues = record(lambda index: make("toy:recall", index=index), 4, max(recall.DELAYS), uniform_actions(1))
    control = record(lambda index: make("dmc:cartpole_swingup", index=index), 4, 60, smooth_actions(1))
    with unchecked():
        config = exam_config(variant, "100k", 0.0, pushes.spec)
        result = uncertainty.examine(config, pushes, pushes, stage, 0, 20)
        assert np.isfinite(result["nll_gap"]) and 0 <= result["moved"] <= 1
        result = recall.examine(exam_config(variant, "100k", 0.0, cues.spec), cues, cues, stage, 0)
        assert set(result["accuracy"]) == {"10", "50", "200"}
        result = drift.examine(exam_config(variant, "100k", 0.0, control.spec), control, control, stage, 0, 3)
        assert len(result["crps"]) == drift.HORIZON and np.isfinite(result["rmse"]).all()
        assert (variant in ("rnn", "gru")) == (max(result["spread"]) < 1e-6)


@pytest.mark.slow
def test_a_deterministic_core_learns_to_recall():
    """The yardstick of memory can be passed: ten steps, by the core that learns it fastest."""
    train, test = recall.recordings(200, 100)
    with unchecked():
        config = exam_config("rnn", "100k", 0.0, train.spec, **recall.SETTINGS)
        model, _ = train_model(
            config, train, [Stage(300, 64, 4, True), Stage(100, 32, 8, True), Stage(150, 32, 16, True)], 0
        )
        everything = np.arange(test.episodes)
        batch = with_initial_context(model, test.windows(everything, 0 * everything, 12))
        with torch.no_grad():
            predicted, _ = model.predict(model.core.features(model.observe(batch)))
    assert (predicted[:, 10] * batch.obs["cue"][:, 0, 0] > 0).float().mean() > 0.95


RESULT = {
    "moved": 0.65, "stuck": 0.33, "true_moved": 0.7, "moved_error_per_state": 0.1,
    "nll_gap": 0.2, "coverage_50": 0.5, "coverage_90": 0.9,
}  # fmt: skip
SETTINGS = {
    "settings": {"seeds": 1, "size": "100k", "free_nats": 0.0, "effort": 1.0, "task": "dmc:cartpole_swingup"},
    "threads": 2, "command": "dreamer exam", "commit": "abc",
}  # fmt: skip


def test_the_verdict_follows_the_numbers():
    results = SETTINGS | {
        "uncertainty": {"rssm": [RESULT], "gru": [RESULT | {"moved": 1.0, "stuck": 0.0, "nll_gap": 9.0}]},
        "memory": {
            "rssm": [{"accuracy": {"10": 1.0, "50": 0.97, "200": 0.5}}],
            "ssm": [{"accuracy": {"10": 0.8, "50": 0.5, "200": 0.5}}],
        },
    }
    says = " ".join(verdict(results))
    assert "rssm covers both (mean mass within 10% of the truth" in says and "gru does not" in says
    assert "a deterministic core cannot cover both outcomes. Confirmed here" in says
    assert "after 50 steps rssm recalls the cue" in says and "after 200 steps none recalls" in says
    assert "a purely stochastic path forgets. Confirmed here" in says
    lucky = [RESULT | {"moved": 0.72, "stuck": 0.28, "moved_error_per_state": 0.38}]
    assert not covers(lucky), "a point on either side in turn has the right mean mass, but never two outcomes"
    refuted = dict(results, uncertainty={"gru": [RESULT]})
    assert "cannot cover both outcomes. Refuted here" in " ".join(verdict(refuted))
    quick = dict(results, settings=results["settings"] | {"effort": 0.2})
    [only] = verdict(quick)
    assert only.startswith("No verdict: effort 0.2 is below 1") and "onfirmed" not in document(quick)
    lines = document(quick).splitlines()
    assert any(line.startswith("| rssm | 0.20 | 0.65 | 0.33 |") for line in lines)


def test_figures_are_as_wide_as_a_page():
    example = {"means": [0.0, 1.0], "weights": [0.3, 0.7], "sigma": 0.1, "samples": [0.0, 1.0]}
    for count, rows, columns in ((1, 1, 1), (4, 1, 4), (7, 2, 4)):
        part = {f"core{i}": [{"example": example}] for i in range(count)}
        figure = FIGURES["uncertainty"](part, dict.fromkeys(part, "black"))
        width, height = figure.get_size_inches()
        assert (width, len(figure.axes)) == (WIDTH, count) and height > 2 * rows
        assert figure.axes[0].get_subplotspec().get_gridspec().get_geometry() == (rows, columns)


@pytest.mark.slow
def test_the_command_writes_everything_and_goes_on(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "exam"
    words = ["exam", "--cores", "rssm,gru", "--seeds", "1", "--jobs", "1", "--effort", "0.005", "--folder", str(folder)]
    with unchecked():
        assert main(words) == 0
        first = capsys.readouterr()
        results = json.loads((folder / "results.json").read_text())
        assert {"uncertainty", "memory", "drift", "speed"} <= set(results)
        assert set(results["drift"]) == {"rssm", "gru"}
        for name in ("uncertainty", "memory", "drift", "speed"):
            assert (folder / f"{name}.png").stat().st_size > 5000
        assert first.out.startswith("# Exam") and (folder / "report.md").read_text() == first.out.rstrip("\n") + "\n"
        assert len(first.err.strip().splitlines()) == 8
        (folder / "parts" / "drift_gru_seed0.json").unlink()
        assert main(words) == 0
        assert capsys.readouterr().err.strip() == "drift  gru  seed 0  done"
    assert main([*words[:-4], "--effort", "0.1", "--folder", str(folder)]) == 2
    assert "holds an exam with another effort" in capsys.readouterr().err


@pytest.mark.slow
def test_work_is_divided_among_processes():
    results = dict(_results({("rssm", 0): os.getpid, ("gru", 0): os.getpid}, jobs=2))
    assert results.keys() == {("rssm", 0), ("gru", 0)} and os.getpid() not in results.values()
    assert dict(_results({("rssm", 0): os.getpid}, jobs=2)) == {("rssm", 0): os.getpid()}, "one is done here"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--cores", "lstm"], "unknown core 'lstm'; choose from rssm, ssm, rnn, gru, mdn_rnn, s5, transformer, or all"),
        (["--cores", "gru:categorical"], "the gru core cannot have that latent; use gru"),
        (["--seeds", "0"], "--seeds: input should be greater than or equal to 1 (got 0)"),
        (["--task", "toy:copy"], "the drift part needs a dmc: task"),
    ],
)
def test_mistakes_get_one_line(words, message, tmp_path, capsys):
    assert main(["exam", *words, "--folder", str(tmp_path / "exam")]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "exam").exists()
