"""Sweeps: settings that vary, the points of grids and searches, and a folder that can be resumed."""

from __future__ import annotations

import json
import re
import signal

import numpy as np
import pytest
from running import make_run, tiny_config
from test_ablate import flags as ablate_flags
from test_ablate import refused

import dreamer
from dreamer.cli.main import main
from dreamer.errors import UserError
from dreamer.experiments.ablation import sweep
from dreamer.experiments.ablation.grid import Trial, trials
from dreamer.experiments.ablation.samplers import ask
from dreamer.experiments.ablation.vary import configured, grid_points, random_points, varied
from dreamer.experiments.report.ablation_report import write_ablation_report
from dreamer.experiments.report.run_folders import find_runs
from dreamer.runs.folder import open_run

RATE, HORIZON = "agent.optimizer.learning_rate", "agent.imagination_horizon"
TWO = ["--vary", "agent.optimizer.learning-rate=1e-4,4e-4", "--vary", "agent.imagination-horizon=2,3"]


def flags(folder, *given, **changes):
    """The words of `dreamer sweep` for tiny runs."""
    return ["sweep", *ablate_flags(folder, *given, **changes)[1:]]


@pytest.fixture
def planned(monkeypatch):
    """Jobs are collected instead of done, as if someone had pressed Ctrl-C at once."""
    collected = []

    def collect(jobs, launcher, started, ended):
        collected[:] = jobs
        return signal.SIGINT if jobs else 0

    monkeypatch.setattr(sweep, "do_all", collect)
    return collected


MISTAKES = {
    "": r"no sweep or ablation at f: f/ablation.json is missing; to start one, name its --tasks",
    "--tasks toy:copy": r"nothing varies; name a setting, such as --vary agent\.optimizer\.learning-rate=1e-4,4e-4",
    "--tasks toy:copy --vary agent.optimizer.learning-rat=1": r"unknown setting; did you mean agent\.optimizer\.lea",
    "--tasks toy:copy --vary lr=1": r"--vary lr: unknown setting; did you mean agent\.optimizer\.learning-rate\?",
    "--tasks toy:copy --vary agent.optimizer.learning-rate=1e-4,-1": r"--vary agent\.optimizer\.learning-rate=-1: "
    r"input should be greater than 0",
    "--tasks toy:copy --vary agent.imagination-horizon=5,x": r"--vary agent\.imagination-horizon=x: .* valid integer",
    "--tasks toy:copy --vary task=toy:chain": r"--vary task: use --tasks TASK,TASK$",
    "--tasks toy:copy --vary seed=1,2": r"--vary seed: use --seeds NUMBER$",
    "--tasks toy:copy --vary core=rssm,gru": r"--vary core: use --cores CORE,CORE$",
    "--tasks toy:copy --vary preset=quick": r"--vary preset: a preset is a set of defaults; begin one sweep with each",
    "--tasks toy:copy --vary jobs=1,2": r"--vary jobs: it is an option of the sweep itself",
    "--tasks toy:copy --vary agent.imagination-horizon=": r"name its values, such as agent\.imagination-horizon=2",
    "--tasks toy:copy --vary agent.imagination-horizon": r"name its values, such as agent\.imagination-horizon=2",
    "--tasks toy:copy --vary tracking.wandb=off": r"it changes neither what is learned nor how it is evaluated",
    "--tasks toy:copy --vary agent.dynamics.gru.deter=8,16": r"runs with --cores rssm do not use this setting",
    "--tasks toy:copy --vary agent.imagination-horizon=2..5": r"a range has no grid; .* --samples NUMBER",
    "--tasks toy:copy --vary agent.imagination-horizon=5..2 --samples 2": r"the lower end of a range is below",
    "--tasks toy:copy --vary agent.imagination-horizon=2..5:lin --samples 2": r"a range is LOW\.\.HIGH or LOW",
    "--tasks toy:copy --vary size=100k --vary size=1m": r"--vary size is given twice",
    "--tasks toy:copy --samples 2": r"--samples draws values of settings; name them",
    "--tasks toy:copy --vary size=100k,1m --sampler tpe": r"--sampler tpe needs --samples NUMBER",
    "--tasks toy:copy --vary size=100k,1m --sampler tpe --samples 3 --cores rssm,gru": r"tunes one core; name one",
    "--tasks toy:copy --task toy:copy": r"--task: a sweep has several; use --tasks TASK,TASK",
    "--tasks toy:copy --vary loop.batch-size=65536 --loop.batch-length 65536": r"training updates need at least",
}


@pytest.mark.parametrize("given", MISTAKES)
def test_mistakes_are_told_before_anything_starts(tmp_path, monkeypatch, planned, capsys, given):
    monkeypatch.chdir(tmp_path)
    assert re.search(MISTAKES[given], refused(capsys, *flags("f", *given.split())))
    assert not planned and not list(tmp_path.iterdir())


def test_a_grid_has_every_combination_and_seed_0_comes_first(tmp_path, planned, capsys):
    words = flags(tmp_path / "f", "--tasks", "toy:copy", "--seeds", "2", *TWO)
    assert main(words) == 130
    points = [((RATE, rate), (HORIZON, horizon)) for rate in (1e-4, 4e-4) for horizon in (2, 3)]
    assert [job.trial for job in planned] == [
        Trial("toy:copy", "rssm", seed, point) for seed in (0, 1) for point in points
    ]
    job = planned[5]
    assert job.run_dir.relative_to(tmp_path / "f").as_posix() == (
        "toy_copy/rssm/learning_rate=0.0001_imagination_horizon=3/seed1"
    )
    names = {"wandb_name": "toy:copy rssm learning_rate=0.0001 imagination_horizon=3 seed 1", "wandb_group": "f"}
    tags = ("rssm", "categorical", "toy:copy", "learning_rate=0.0001", "imagination_horizon=3")
    tracking = {f"tracking.{name}": value for name, value in names.items()} | {"tracking.wandb_tags": tags}
    assert job.config == tiny_config("toy:copy", seed=1, **{RATE: 1e-4, HORIZON: 3}, **tracking)
    assert "dreamer sweep --folder" in capsys.readouterr().out


def test_a_sweep_goes_on_with_its_own_settings_alone(tmp_path, planned, capsys):
    words = flags(tmp_path / "f", "--tasks", "toy:copy", "--seeds", "2", *TWO)
    assert main(words) == 130
    first = list(planned)
    for again in (words, ["sweep", "--folder", tmp_path / "f"], ["ablate", "--folder", tmp_path / "f"]):
        planned.clear()
        assert main([str(word) for word in again]) == 130 and planned == first
    capsys.readouterr()
    other = refused(capsys, *words[:-1], "agent.imagination-horizon=2,4")
    assert "was started with other settings: --vary is agent.optimizer.learning_rate=1e-4,4e-4 agent.imag" in other
    assert "--seeds is 2 there and 3 here" in refused(capsys, *words, "--seeds", "3")


def test_a_manifest_of_an_older_version_is_resumed(tmp_path, planned):
    """An ablation without settings that vary is written as before, and read by every version."""
    assert main(ablate_flags(tmp_path / "f", "--tasks", "toy:copy", "--cores", "rssm,gru", "--seeds", "1")) == 130
    written = json.loads((tmp_path / "f" / "ablation.json").read_text())
    names = {
        "format",
        "tasks",
        "cores",
        "objectives",
        "seeds",
        "match_params",
        "command",
        "commit",
        "created",
        "config",
    }
    assert written["format"] == 2 and set(written) == names
    first = list(planned)
    assert main(["sweep", "--folder", str(tmp_path / "f")]) == 130 and planned == first
    assert [job.run_dir.relative_to(tmp_path / "f").as_posix() for job in first] == [
        "toy_copy/rssm/seed0",
        "toy_copy/gru/seed0",
    ]


def test_a_dry_run_starts_nothing(tmp_path, planned, capsys):
    words = flags(
        tmp_path / "f", "--tasks", "toy:copy", "--seeds", "2", "--vary", "agent.dynamics.rssm.deter=16,32", "--dry-run"
    )
    assert main(words) == 0 and not planned and not (tmp_path / "f").exists()
    text = capsys.readouterr().out
    assert "1 task x 1 core x 1 objective x 2 points of 1 settings x 2 seeds; 4 runs, 0 of them finished" in text
    small, large = (int(re.search(rf"rssm deter={size} +2 +([\d,]+) ", text)[1].replace(",", "")) for size in (16, 32))
    assert small < large and re.search(r"about \d:\d\d:\d\d for 4 runs, one run after the other", text)


def test_another_size_keeps_widths_that_were_set():
    config = tiny_config(**{"agent.dynamics.rssm.deter": 64})
    other = configured(config, (("size", "1m"),))
    assert other.size == "1m" and other.agent.dynamics.rssm.deter == 64
    plain = configured(dreamer.compose("quick"), (("size", "1m"),))
    assert plain.agent.dynamics == dreamer.compose("quick", "1m").agent.dynamics


def test_random_points_are_the_same_every_time_and_within_their_ranges():
    words = [
        f"{RATE}=1e-5..1e-3:log",
        f"{HORIZON}=5..30",
        "env.hide=none,velocities",
        "agent.world_model.standardize=true,false",
    ]
    settings = varied(words, dreamer.compose())
    points = random_points(settings, 200)
    assert points == random_points(settings, 200) and len(set(points)) == 200
    rates = np.array([dict(point)[RATE] for point in points])
    assert rates.min() >= 1e-5 and rates.max() <= 1e-3 and 0.4 < (rates < 1e-4).mean() < 0.6
    horizons = {dict(point)[HORIZON] for point in points}
    assert horizons <= set(range(5, 31)) and len(horizons) > 20 and all(type(one) is int for one in horizons)
    assert {dict(point)["env.hide"] for point in points} == {(), ("velocities",)}
    assert {dict(point)["agent.world_model.standardize"] for point in points} == {True, False}


def test_random_points_of_a_grid_do_not_repeat():
    settings = varied([f"{RATE}=1e-4,2e-4,3e-4", f"{HORIZON}=5,10"], dreamer.compose())
    assert set(random_points(settings, 4)) < set(grid_points(settings)) and len(random_points(settings, 4)) == 4
    assert random_points(settings, 99) == grid_points(settings)


def test_long_and_odd_values_get_folders_of_their_own():
    points = [(("env.kwargs", (f"names=[{'x' * 300}{number}]",)),) for number in range(2)]
    places = [trial.place.parts[2] for trial in trials(["toy:copy"], ["rssm"], 1, points)]
    assert len(set(places)) == 2 and max(map(len, places)) < 140
    with pytest.raises(UserError, match="share a folder"):
        trials(["toy:copy"], ["rssm"], 1, [(("env.kwargs", (f"a={sign}",)),) for sign in "[]"])


def test_optuna_learns_from_scores_and_a_failed_point_has_none():
    """The best rate is 3e-4 and the best horizon 10: tpe comes closer than random points do."""
    settings = varied([f"{RATE}=1e-6..1e-1:log", f"{HORIZON}=5,10,20"], dreamer.compose())

    def score(point):
        values = dict(point)
        return -abs(np.log10(values[RATE] / 3e-4)) - (values[HORIZON] != 10)

    told = []
    while len(told) < 40:
        asked = ask(settings, told, 2, "tpe")
        assert asked == ask(settings, told, 2, "tpe") and len(set(asked)) == 2
        told += [(point, score(point) if len(told) else None) for point in asked]
    late = [value for _, value in told[-15:]]
    assert np.mean(late) > np.mean([score(point) for point in random_points(settings, 40)]) + 0.5


def test_a_search_asks_again_after_results_and_goes_on_where_it_stopped(tmp_path, monkeypatch, capsys):
    """Runs are replaced by folders with a return that depends on the horizon."""
    done, stop = [], []

    def do(jobs, launcher, started, ended):
        for job in jobs:
            if len(done) in stop:
                stop.pop()
                return signal.SIGTERM
            horizon = job.config.agent.imagination_horizon
            started(job, "")
            make_run(job.run_dir, task="toy:copy", seed=job.config.seed, final=float(horizon), **{HORIZON: horizon})
            done.append(job.trial)
            ended(job, "")
        return 0

    monkeypatch.setattr(sweep, "do_all", do)
    monkeypatch.setattr(sweep, "_is_finished", lambda run_dir, steps: (run_dir / "metrics.jsonl").exists())
    words = ["--tasks", "toy:copy", "--seeds", "2", "--vary", "agent.imagination-horizon=2..40"]
    search = ["--samples", "3", "--sampler", "tpe"]
    for folder, stops in (("whole", []), ("stopped", [3])):
        done.clear()
        stop[:] = stops
        status = main(flags(tmp_path / folder, *words, *search))
        if stops:
            assert status == 75 and len(done) == 3
            status = main(["sweep", "--folder", str(tmp_path / folder)])
        assert status == 0 and len(done) == 6
        assert "6 of 6" in capsys.readouterr().out
    points = [json.loads((tmp_path / name / "points.json").read_text()) for name in ("whole", "stopped")]
    assert points[0] == points[1] and len(points[0]) == 3
    (tmp_path / "whole" / "points.json").write_text(json.dumps([{HORIZON: 4000}]))
    error = refused(capsys, "sweep", "--folder", tmp_path / "whole")
    assert "points.json: agent.imagination_horizon cannot be 4000" in error


def test_a_report_compares_settings_of_the_environment_that_a_sweep_varies(tmp_path, planned):
    words = flags(tmp_path, "--tasks", "toy:copy", "--seeds", "1", "--vary", "env.flicker=0,0.5")
    assert main(words) == 130
    for job in planned:
        make_run(job.run_dir, final=1 - job.config.env.flicker, **{"env.flicker": job.config.env.flicker})
    write_ablation_report(tmp_path)
    numbers = json.loads((tmp_path / "report.json").read_text())
    assert numbers["varied"] == ["env.flicker"] and list(numbers["arms"]) == ["0.0", "0.5"]
    assert numbers["compared"] == ["toy:copy"] and "flicker=0.0 ends with the highest score" in numbers["verdict"][0]


@pytest.mark.slow
def test_a_sweep_trains_its_runs_and_can_be_reported(tmp_path, capsys):
    words = flags(tmp_path, "--tasks", "toy:copy", "--seeds", "1", "--vary", "agent.imagination-horizon=2,3", steps=40)
    assert main(words) == 0
    runs, failures = find_runs(tmp_path)
    assert [run.config.agent.imagination_horizon for run in runs] == [2, 3] and not failures
    assert all(run.finished for run in runs) and open_run(tmp_path / runs[0].path).config.steps == 40
    assert main(words) == 0 and "2 runs on cpu, 2 of them finished" in capsys.readouterr().out
