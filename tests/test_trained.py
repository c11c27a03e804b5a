"""Evaluation, open-loop predictions, videos and tables of finished runs from Python."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import numpy as np
import pytest
from running import tiny_config
from tiny import unchecked

import dreamer
import envs
from dreamer.errors import UserError
from envs.toy import Chain, Counting


class Striped(Counting):
    """Counts, and draws the step as that many white columns."""

    render_mode = "rgb_array"

    def __init__(self) -> None:
        super().__init__()
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": 50}

    def render(self) -> np.ndarray:
        frame = np.zeros((48, 64, 3), np.uint8)
        frame[:, : 3 * self._step] = 255
        return frame


SHORT = {"steps": 20, "loop.eval_every": 20, "loop.checkpoint_every": 20}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a task, a run of a user's own environment with another core, and a folder that is no run."""
    folder = tmp_path_factory.mktemp("runs")
    with unchecked():
        dreamer.train(tiny_config(**SHORT), run_dir=folder / "a")
        changes: dict[str, Any] = {"agent.dynamics.core": "gru", "agent.dynamics.gru.deter": 16, "seed": 3}
        dreamer.train(tiny_config("mine", **SHORT | changes), run_dir=folder / "b", make_env=Striped)
    (folder / "c").mkdir()
    (folder / "c" / "run.json").write_text("{}")
    return folder


def test_a_run_is_evaluated_in_its_own_environment_or_in_another(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = dreamer.evaluate(runs / "a", episodes=3)
    assert capsys.readouterr().err == ""
    assert found.returns.shape == (3,) and (found.returns == found.returns[0]).all()
    agent = dreamer.load(runs / "a")
    for other in (
        dreamer.evaluate(agent, "toy:counting", 3, mode="mode"),
        dreamer.evaluate(agent, Counting, 3, deterministic=True),
        dreamer.evaluate(str(runs / "a"), "toy:counting", 3),
        dreamer.evaluate(agent, envs.EnvFactory("toy:counting", 0), 3),
    ):
        assert (other.returns == found.returns).all() and (other.lengths == found.lengths).all()
    [line] = capsys.readouterr().err.splitlines()  # the other calls name the settings, or bring a constructor
    assert line.startswith("toy:counting has the default settings here, such as action repeat 1")
    repeated = envs.EnvFactory("toy:counting", 0, envs.EnvSettings(repeat=2))
    assert dreamer.evaluate(agent, repeated, 1).lengths[0] == np.ceil(found.lengths[0] / 2)


def test_a_run_of_a_users_own_environment_is_evaluated_imagined_and_filmed(runs: Path, tmp_path: Path) -> None:
    for function in (dreamer.evaluate, dreamer.imagine):
        name = function.__name__
        with pytest.raises(UserError, match=rf"with make_env=Striped; use dreamer.{name}\(path, Striped\)$"):
            function(runs / "b")
    found = dreamer.evaluate(runs / "b", Striped, 2, video=tmp_path / "film.mp4")
    assert (found.returns == dreamer.evaluate(runs / "a", episodes=2).returns).all()
    assert imageio.get_reader(tmp_path / "film.mp4").count_frames() > 1
    seen = dreamer.imagine(runs / "b", Striped, write_to=tmp_path / "seen", episodes=2, context=1, horizon=2, samples=3)
    assert set(seen.signals) > {"reward"} and seen.settings.samples == 3
    assert all(signal.samples.shape[:3] == (2, 3, 3) for signal in seen.signals.values())
    assert all(f"real={list(signal.real.shape)}, samples=[2, 3, 3" in repr(signal) for signal in seen.signals.values())
    assert json.loads((tmp_path / "seen" / "imagination.json").read_text())["settings"]["horizon"] == 2


def test_wrong_arguments_are_one_line(runs: Path) -> None:
    agent = dreamer.load(runs / "a")
    with unchecked():
        for call, message in (
            (
                lambda: dreamer.evaluate(agent),
                r"no environment of its own: .* dreamer.evaluate\(agent, env\)",
            ),
            (lambda: dreamer.evaluate(agent, 3), "env must be a task, a constructor"),
            (
                lambda: dreamer.evaluate(agent, "toy:counting", 0),
                "episodes must be a whole number of at least 1, got 0",
            ),
            (lambda: dreamer.evaluate(agent, "toy:counting", mode="best"), "mode must be one of sample, mode"),
            (lambda: dreamer.evaluate(agent, Chain), "the agent was trained on"),
            (lambda: dreamer.imagine(agent, Counting, horizn=3), "no setting 'horizn': .* one of context, horizon"),
            (lambda: dreamer.imagine(agent, Counting, horizon=0), "--horizon"),
            (lambda: dreamer.evaluate(runs), "no run folder at"),
            (lambda: dreamer.read_runs(runs / "d"), "no folder"),
            (lambda: dreamer.read_metrics(runs), "no run folder at"),
        ):
            with pytest.raises(UserError, match=message):
                call()


def test_a_folder_chooses_no_module_where_the_user_gives_the_environment(runs: Path, tmp_path: Path) -> None:
    config = json.loads((runs / "b" / "config.json").read_text())
    config["env"]["imports"] = ["antigravity"]
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "run.json").write_bytes((runs / "b" / "run.json").read_bytes())
    (copy / "config.json").write_text(json.dumps(config))
    for call in (lambda: dreamer.evaluate(copy, Striped), lambda: dreamer.resume(copy, make_env=Striped)):
        with pytest.raises(UserError, match="imports antigravity, which runs its code"):
            call()
    assert "antigravity" not in sys.modules


def test_runs_are_a_table_of_metrics_settings_and_status(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = dreamer.read_runs(runs)
    first, second, third = table
    assert [Path(row["path"]).name for row in table] == ["a", "b", "c"]
    assert [row["status"] for row in table] == ["finished", "finished", "unreadable"] and "config.json" in third[
        "error"
    ]
    assert (first["core"], second["core"], second["seed"], second["task"]) == ("rssm", "gru", 3, "mine")
    assert first["step"] == first["steps"] == 20 and first["return"] == first["eval/return_mean"]
    assert first["parameters"] == sum(dreamer.load(runs / "a").parameter_counts().values())
    assert second["agent.dynamics.gru.deter"] == 16 and second["agent.dynamics.core"] == "gru"
    assert not [name for name in second if name.startswith("agent.dynamics.rssm.")]
    assert repr(table).startswith("Table(3 rows, ") and len(repr(table)) < 80
    records = dreamer.read_metrics(runs / "a")
    assert [row["eval/return_mean"] for row in records if "eval/return_mean" in row][-1] == first["return"]
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match="pip install pandas"):
        table.to_pandas()
    monkeypatch.setitem(sys.modules, "pandas", types.SimpleNamespace(DataFrame=lambda rows: ("frame", rows)))
    assert table.to_pandas() == ("frame", list(table))
