"""Published returns: what is shipped, where it is drawn, and the table beside own runs."""

from __future__ import annotations

import csv
import gzip
import io
import json
from importlib.resources import files

import pytest
from running import make_run

import dreamer
from dreamer.cli.main import main
from dreamer.experiments.published import reduce
from dreamer.experiments.published.curves import METHODS, curves_for

TASK = "dmc:walker_walk"


def curves(**changes):
    return curves_for(dreamer.compose("quick", **({"task": TASK} | changes)))


def curve(method: str, **changes):
    return {one.method: one for one in curves(**changes)}[method]


def test_returns_of_seeds_are_reduced_to_means_with_intervals(tmp_path):
    rows = ["method,observations,task,seed,env_steps,return"]
    rows += [f"sac,proprio,walker_walk,{seed},{step},{10 * seed + step}" for seed in (1, 2, 3) for step in range(60)]
    rows += ["sac,proprio,walker_walk,1,60,5", "sac,proprio,finger_turn,1,0,5", "other,proprio,walker_walk,1,0,5"]
    (tmp_path / "returns.csv").write_text("\n".join(rows))
    content = reduce.reduced(tmp_path / "returns.csv")
    assert content == reduce.reduced(tmp_path / "returns.csv")
    table = list(csv.DictReader(io.StringIO(gzip.decompress(content).decode())))
    assert len(table) == reduce.POINTS and {row["method"] for row in table} == {"sac"}
    assert table[0] == {"method": "sac", "observations": "proprio", "task": "walker_walk", "env_steps": "0"} | {
        "mean": "20.0",
        "low": "10.0",
        "high": "30.0",
        "seeds": "3",
    }
    assert table[-1]["env_steps"] == "59" and table[-1]["mean"] == "79.0", "a step that one seed lacks is left out"


def test_the_package_has_a_curve_of_every_method():
    assert (files("dreamer.experiments.published") / "README.md").is_file()
    found = curves()
    assert [one.method for one in found] == list(METHODS)
    for one in found:
        assert 1 < len(one.steps) <= reduce.POINTS and one.seeds >= 3
        assert (one.returns.low <= one.returns.value).all() and (one.returns.value <= one.returns.high).all()
        assert one.steps.min() >= 0 and 0 <= one.returns.value.min() <= one.returns.value.max() <= 1000
    assert curve("tdmpc2").at(100_000).value == 961.9 and curve("tdmpc2").between(100_000) is None
    assert curve("dreamerv3", **{"env.obs": "pixels"}).steps[-1] == 1_000_000
    assert curve("dreamerv3").at(5_000) is None and curve("dreamerv3").at(600_000) is None


CHANGED = {
    "hidden": {"env.hide": ("velocities",)},
    "noise": {"env.obs_noise": 0.1},
    "flicker": {"env.flicker": 0.1},
    "shorter": {"env.time_limit": 500},
    "both": {"env.obs": "both"},
    "another task": {"task": "toy:copy"},
}


@pytest.mark.parametrize("change", CHANGED)
def test_another_task_has_no_published_curve(change):
    assert curves(**CHANGED[change]) == []
    assert len(curves(**{"env.time_limit": 1000})) == len(METHODS)


def test_own_runs_are_beside_published_returns_at_the_same_step(tmp_path, capsys):
    for seed, final in enumerate((900.0, 700.0)):
        make_run(tmp_path / f"a{seed}", task=TASK, seed=seed, final=final)
    make_run(tmp_path / "b", core="gru", task=TASK, until=200, final=300.0)
    make_run(tmp_path / "c", task="toy:copy", final=3.0)
    make_run(tmp_path / "empty", task=TASK, until=0, seed=7)
    assert main(["compare", str(tmp_path), "--with", "dreamerv3,tdmpc2", "--json"]) == 0
    told = capsys.readouterr()
    assert told.err == "dreamer: left out: 1 runs without an evaluation\n"
    walker, copy = json.loads(told.out)["tables"]
    assert (walker["task"], walker["observations"], walker["step"]) == (TASK, "state", 200), "where the shortest run is"
    rows = {row["name"]: row for row in walker["rows"]}
    assert list(rows) == ["rssm", "gru", "dreamerv3", "tdmpc2"]
    assert rows["rssm"] == {"name": "rssm", "episodes": "evaluation, sampled actions", "seeds": 2} | {
        "value": 400.0,
        "low": 350.0,
        "high": 450.0,
    }
    assert (rows["gru"]["value"], rows["gru"]["low"]) == (150.0, None)
    begin, after = curve("tdmpc2").returns.value[:2]
    assert rows["tdmpc2"]["value"] == pytest.approx(begin + (after - begin) * 200 / 100_000)
    assert rows["tdmpc2"]["episodes"] == "evaluation without noise; interpolated from 0 and 100,000"
    assert rows["dreamerv3"]["value"] is None, "which begins at step 10,000"
    assert [row["name"] for row in copy["rows"]] == ["rssm"]
    assert main(["compare", str(tmp_path / "a0"), "--with", "dreamerv3,tdmpc2"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "rssm 900.0 [n/a] 1 seed evaluation, sampled actions" in lines
    assert "dreamerv3 no return at this step 5 seeds training episodes, sampled actions" in lines


def test_a_repeated_run_counts_once(tmp_path, capsys):
    for place, final, day in (("old", 100.0, 1), ("new", 500.0, 2)):
        make_run(tmp_path / place, task=TASK, final=final, info={"created": f"2026-01-0{day}"})
    assert main(["compare", str(tmp_path / "new"), str(tmp_path / "old"), str(tmp_path / "new"), "--json"]) == 0
    told = capsys.readouterr()
    [table] = json.loads(told.out)["tables"]
    assert (table["rows"][0]["value"], table["rows"][0]["seeds"]) == (500.0, 1)
    assert told.err == f"dreamer: left out: {tmp_path / 'old'}: {tmp_path / 'new'} repeats it and is newer\n"


BAD = {
    "method": (
        ["{}", "--with", "dreamer3"],
        "--with dreamer3: no such method; did you mean dreamerv3? there are dream",
    ),
    "task": (
        ["{}"],
        "no published returns of toy:copy from state; there are some of tasks of the DeepMind Control Suite",
    ),
    "folder": (["{}/none"], "no folder {}/none"),
    "no run": (["{}/empty"], "no evaluated run in {}/empty"),
    "nothing": ([], "compare needs a run folder"),
}


@pytest.mark.parametrize("mistake", BAD)
def test_a_mistake_is_one_line(tmp_path, capsys, mistake):
    make_run(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    words, message = BAD[mistake]
    assert main(["compare", *(word.format(tmp_path) for word in words)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"dreamer: {message.format(tmp_path)}") and error.count("\n") == 1


@pytest.mark.parametrize("hide", [(), ("velocities",)])
def test_reports_draw_them_behind_runs_of_the_same_task(tmp_path, hide):
    for core in ("rssm", "gru"):
        make_run(tmp_path / core, core=core, task=TASK, final=500.0, **{"env.hide": hide})
    assert main(["report", str(tmp_path)]) == 0 and main(["report", str(tmp_path / "rssm")]) == 0
    for page in (tmp_path / "report.html", tmp_path / "rssm" / "report.html"):
        text = page.read_text()
        assert ("tdmpc2, published" in text) == ("valuation without noise: tdmpc2 (3)" in text) == (not hide)
        assert "dreamerv3, published" not in text, "whose curve begins after the last step of the runs"
