"""The report of an ablation: its numbers against ones worked out here, its page, and what it leaves out."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from urllib.parse import unquote

import pytest
from running import HOSTILE, ROOT, make_run

from dreamer.cli.main import main
from dreamer.errors import UserError
from dreamer.experiments.report.ablation_report import write_ablation_report
from dreamer.experiments.report.ablation_verdict import cautions, verdict
from dreamer.experiments.report.analysis import analyse
from dreamer.experiments.report.differences import with_distinct_names
from dreamer.experiments.report.run_folders import find_runs
from dreamer.runs.provenance import commit

CORES = ("rssm", "rnn", "gru")
TASKS = ("dmc:cartpole_balance", "toy:copy")
FINALS = {
    ("dmc:cartpole_balance", "rssm"): (900.0, 800.0, 700.0),
    ("dmc:cartpole_balance", "rnn"): (650.0, 750.0, 500.0),
    ("dmc:cartpole_balance", "gru"): (100.0, 150.0, 50.0),
    ("toy:copy", "rssm"): (8.0, 10.0, 9.0),
    ("toy:copy", "rnn"): (9.0, 7.0, 7.5),
    ("toy:copy", "gru"): (1.0, 2.0, 3.0),
}
"""Final returns of the seeds; every curve goes from 0 through half of it, at steps 100, 200 and 400."""


@pytest.fixture(scope="module")
def ablation(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ablation")
    for (task, core), finals in FINALS.items():
        for seed, final in enumerate(finals):
            make_run(folder / task.replace(":", "_") / f"{core}_{seed}", core, task, seed, final)
    make_run(folder / "half", "rssm", "toy:copy", 7, 1e6, until=200)
    make_run(folder / "never_evaluated", "rssm", "toy:copy", 8, until=0)
    make_run(folder / "no_last_evaluation", "rssm", "toy:copy", 6, until=300, steps=300)
    make_run(folder / "nan", "gru", "toy:copy", 9, float("nan"))
    (make_run(folder / "damaged") / "config.json").write_text("{")
    (folder / "foreign").mkdir()
    (folder / "foreign" / "metrics.jsonl").write_text('{"loss": 1}\n')
    failure = {"task": "toy:copy", "core": "ssm", "seed": 3, "error": f"RuntimeError:\n {HOSTILE}"}
    (folder / "failures.json").write_text(json.dumps([failure]))
    write_ablation_report(folder)
    return folder


@pytest.fixture
def numbers(ablation) -> dict:
    return json.loads((ablation / "report.json").read_text())


def score(task, value):
    return value / 1000 if task.startswith("dmc:") else value / 10


def test_aggregates_are_interquartile_means_of_scores(numbers):
    """Of six runs the lowest and the highest go. The scale of toy:copy is from the lowest, 0, to the highest, 10."""
    assert numbers["scales"]["toy:copy"] | {"rule": ""} == {"low": 0.0, "high": 10.0, "rule": ""}
    assert numbers["scales"]["dmc:cartpole_balance"]["high"] == 1000.0
    for core in CORES:
        scores = sorted(score(task, value) for task in TASKS for value in FINALS[task, core])
        final, auc = numbers["cores"][core]["final"], numbers["cores"][core]["auc"]
        assert final["value"] == pytest.approx(sum(scores[1:5]) / 4)
        assert scores[0] <= final["low"] < final["value"] < final["high"] <= scores[-1]
        # Area: (0 + 1/2) / 2 * 100 + (1/2 + 1) / 2 * 200 over 300 steps, of the final return.
        assert auc["value"] == pytest.approx(final["value"] * (25 + 150) / 300)
        assert numbers["cores"][core]["runs"] == 6
    assert list(numbers["cores"]) == list(CORES), "in the order of the configuration"


def test_improvement_counts_pairs(numbers):
    """Copy: 8 beats 7 and 7.5; 9 these and half of 9; 10 all: 7.5 of 9. Balance: 700 loses to 750 alone: 8 of 9."""
    better = numbers["improvement"]["rssm"]["rnn"]
    assert better["value"] == pytest.approx((7.5 / 9 + 8 / 9) / 2)
    assert numbers["improvement"]["rnn"]["rssm"]["value"] == pytest.approx(1 - better["value"])
    assert numbers["improvement"]["rnn"]["rssm"]["low"] == pytest.approx(1 - better["high"])
    assert numbers["improvement"]["rssm"]["gru"] == {"value": 1.0, "low": 1.0, "high": 1.0}


def test_profiles_and_curves(numbers):
    profile = dict(zip(numbers["thresholds"], numbers["profiles"]["gru"]["value"], strict=True))
    assert profile[0.0] == 1.0 and profile[0.12] == pytest.approx(3 / 6) and profile[0.5] == 0.0
    cell = numbers["cells"]["toy:copy"]["rssm"]
    assert cell["steps"] == [100, 200, 400] and cell["curve"]["value"] == pytest.approx([0.0, 4.5, 9.0])
    assert (cell["final"]["value"], cell["final"]["low"], cell["final"]["high"]) == (9.0, 8.0, 10.0)
    assert cell["seeds"] == 3


def test_costs_are_those_of_the_records(numbers):
    core = numbers["cores"]["rssm"]
    assert core["parameters"] == 1234 and core["dynamics_parameters"] == 1000
    assert core["wall_seconds"] == 20 + 15, "over a clock that starts again"
    assert core["seconds_per_update"] == 0.25 and core["env_steps_per_second"] == 20


def test_the_verdict_follows_from_the_numbers(numbers):
    text = " ".join(numbers["verdict"])
    assert "rssm ends with the highest score, 0.85 [" in text and "IQM over 2 tasks" in text
    assert "lies above that of gru" in text
    assert "3 seeds" in text and "7 that failed" in text


def test_what_is_left_out_is_listed_and_counts_in_nothing(ablation, numbers):
    reasons = {(entry["kind"], entry["place"]): entry["reason"] for entry in numbers["left_out"]}
    assert len(numbers["runs"]) == 18 and len(reasons) == 7
    assert reasons["unfinished", "half"] == "toy:copy, rssm, seed 7: step 200 of 400 (50%)"
    assert "step 0 of 400" in reasons["unfinished", "never_evaluated"]
    assert "step 300 of 300" in reasons["unfinished", "no_last_evaluation"]
    assert "not finite" in reasons["failed", "nan"] and "config.json" in reasons["failed", "damaged"]
    assert "run.json" in reasons["failed", "foreign"] or "config.json" in reasons["failed", "foreign"]
    assert reasons["failed", "toy:copy ssm seed 3"] == f"RuntimeError: {HOSTILE}"
    page = (ablation / "report.html").read_text()
    assert "18 finished, 4 failed, 3 unfinished" in page and "step 200 of 400 (50%)" in page


def test_the_page_needs_nothing_else(ablation):
    page = (ablation / "report.html").read_text()
    links = re.findall(r'href="([^"#]+)"', page)
    folders = [link for link in links if link.startswith("./")]
    assert len(set(folders)) == 18 and all((ablation / unquote(link)).is_dir() for link in folders)
    assert links == folders and not re.search(r"<script|<link|<img|@import|src=|url\((?!#)", page)
    assert page.count("<svg") == 4 and page.count("currentColor") > 50 and "prefers-color-scheme: dark" in page
    for name in ("learning_curves", "intervals", "improvement", "profiles"):
        assert (ablation / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    for text in (*CORES, *TASKS, "0.85 [", "1,234", "250 ms", "Probability of improvement", commit()):
        assert text in page


def test_the_wheel_has_the_templates_and_the_registry_of_metrics():
    """A package holds only the files that pyproject names, apart from modules."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["*"]
    packages = [path.parent for path in (ROOT / "dreamer").rglob("__init__.py")]
    packaged = {path for package in packages for pattern in patterns for path in package.glob(pattern)}
    others = {path for path in (ROOT / "dreamer").rglob("*.*") if path.suffix not in (".py", ".pyc")}
    assert others == packaged and len(packaged) == 4


def test_markdown_has_the_same_tables(ablation):
    page, text = (ablation / "report.html").read_text(), (ablation / "report.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("|")]
    tables = sum(line.startswith("| ---") for line in rows)
    assert page.count("<table>") == tables and page.count("<tr>") == len(rows) - tables
    assert {line.count(" | ") for line in rows if "rssm_0" in line} == {1, 7}
    assert all((ablation / path).is_file() for path in re.findall(r"!\[.*\]\((.*)\)", text))


def test_names_cannot_become_markup(tmp_path):
    """A task may have any name, when an environment is given in Python, and so may a folder."""
    folder = tmp_path / "<b>all</b>"
    for seed in range(2):
        make_run(folder / f"javascript:<i>{seed}</i>", task=f"{HOSTILE} $\\x$", seed=seed, info={"command": HOSTILE})
    (folder / "failures.json").write_text(json.dumps([dict.fromkeys(("task", "core", "seed", "error"), HOSTILE)]))
    write_ablation_report(folder)
    page, text = (folder / "report.html").read_text(), (folder / "report.md").read_text()
    assert "<script" not in page and "<b>" not in page and "<i>" not in page and "href=javascript" not in page
    assert "&lt;script&gt;" in page and 'href="./javascript%3A%3Ci%3E0%3C/i%3E"' in page
    assert "<script" not in text and "](http" not in text and "<i>" not in text
    rows = [line for line in text.splitlines() if "javascript:" in line and "250 ms" in line]
    assert [len(re.findall(r"(?<!\\)\|", row)) for row in rows] == [9, 9], "as many bars as eight columns need"


def test_no_finished_run_is_one_clear_error(tmp_path):
    make_run(tmp_path / "half", until=200)
    with pytest.raises(UserError, match="no finished run below .*: 0 finished, 1 unfinished"):
        write_ablation_report(tmp_path)
    with pytest.raises(UserError, match="no folder"):
        write_ablation_report(tmp_path / "nowhere")
    assert not (tmp_path / "report.html").exists()


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path):
    make_run(tmp_path / "a")
    (tmp_path / "figures").write_text("in the way")
    with pytest.raises(UserError, match="cannot write to"):
        write_ablation_report(tmp_path)


def test_one_seed_has_no_interval(tmp_path, capsys):
    make_run(tmp_path / "a", "rssm", final=8.0)
    make_run(tmp_path / "b", "rnn", final=4.0)
    assert main(["report", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "rssm ends with the highest score, 1.00 [n/a]" in text and str(tmp_path / "report.html") in text
    assert "Against rnn nothing can be concluded: one seed on a task gives no interval." in text
    numbers = json.loads((tmp_path / "report.json").read_text())
    assert numbers["cores"]["rssm"]["final"] == {"value": 1.0, "low": None, "high": None}
    assert "1.00 [n/a]" in (tmp_path / "report.html").read_text()


def compared(folder: Path):
    runs = with_distinct_names(find_runs(folder)[0])
    return analyse(runs), runs


def test_aggregates_are_over_the_tasks_of_all_cores(tmp_path):
    """gru has no run of the harder task, which must not raise its score."""
    for seed in range(2):
        for core in CORES:
            make_run(tmp_path / f"{core}{seed}", core, "dmc:cartpole_balance", seed, 500.0)
        make_run(tmp_path / f"hard{seed}", "rssm", "dmc:humanoid_run", seed, 1.0)
    result, _ = compared(tmp_path)
    assert result.compared == ["dmc:cartpole_balance"] and list(result.cells["dmc:humanoid_run"]) == ["rssm"]
    assert [core.final.value for core in result.cores.values()] == [0.5] * 3
    assert [core.runs for core in result.cores.values()] == [2] * 3
    assert "not every core has finished runs of it: dmc:humanoid_run" in " ".join(cautions(result, 0, []))


def test_cores_without_a_common_task_are_not_compared(tmp_path, capsys):
    make_run(tmp_path / "a", "rssm", "toy:copy")
    make_run(tmp_path / "b", "rnn", "toy:counting")
    assert main(["report", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "cannot be compared" in text and (tmp_path / "report.html").is_file()


def test_equal_cores_are_not_told_apart(tmp_path):
    for core, finals in {"rssm": (1.0, 5.0, 9.0), "rnn": (2.0, 5.0, 8.5)}.items():
        for seed, final in enumerate(finals):
            make_run(tmp_path / f"{core}{seed}", core, seed=seed, final=final)
    text = " ".join(verdict(compared(tmp_path)[0]))
    assert "nothing can be concluded about which is better" in text and "lies above" not in text


def test_variants_and_environments_are_experiments_of_their_own(tmp_path):
    gaussian = {"agent.dynamics.latent": "gaussian"}
    make_run(tmp_path / "a", "rssm")
    make_run(tmp_path / "b", "rssm", **gaussian)
    make_run(tmp_path / "c", "gru", **gaussian)  # the only family that it can have
    make_run(tmp_path / "d", "rssm", **{"env.hide": ("velocities",), "env.num_envs": 3})
    make_run(tmp_path / "e", "rssm", **{"agent.dynamics.rssm.stoch": 16})
    _, runs = compared(tmp_path)
    assert [run.core for run in runs] == ["rssm", "rssm:gaussian", "gru", "rssm", "rssm stoch=16"]
    assert [run.task for run in runs] == ["toy:copy"] * 3 + ["toy:copy hide=velocities", "toy:copy"]


def test_shortened_episodes_count_by_the_return_that_they_can_have(tmp_path):
    for seed in range(2):
        make_run(tmp_path / f"whole{seed}", task="dmc:cartpole_balance", seed=seed, final=500.0)
        make_run(tmp_path / f"short{seed}", "rnn", "dmc:cartpole_balance", seed, 200.0, **{"env.time_limit": 250})
    result, runs = compared(tmp_path)
    assert {run.task for run in runs} == {"dmc:cartpole_balance"}
    assert {name: core.final.value for name, core in result.cores.items()} == {"rssm": 0.5, "rnn time_limit=250": 0.8}


def test_longer_episodes_count_by_the_return_that_they_can_have(tmp_path):
    make_run(tmp_path / "long", task="dmc:cartpole_balance", final=1500.0, **{"env.time_limit": 2000})
    kept = {"env.time_limit": 2000, "env.extend_limit": False}  # the task's own limit of 1,000 steps
    make_run(tmp_path / "kept", "rnn", task="dmc:cartpole_balance", final=500.0, **kept)
    _, runs = compared(tmp_path)
    assert {run.path: run.final / run.largest_return for run in runs} == {"kept": 0.5, "long": 0.75}


@pytest.mark.parametrize(("task", "shown"), [("dmc:cartpole_balance", ""), ("toy:copy", " encoding=dtype")])
def test_settings_of_older_runs_make_another_task_only_where_they_change_it(tmp_path, task, shown):
    make_run(tmp_path / "a", task=task, seed=0, **{"env.extend_limit": False, "env.encoding": "dtype"})
    make_run(tmp_path / "b", task=task, seed=1, **{"env.timeout": 90.0, "env.restarts": 7})
    _, runs = compared(tmp_path)
    assert [run.task for run in runs] == [task + shown, task]


def test_the_newest_of_repeated_runs_counts(tmp_path):
    for name, created in (("a", "2026-02-01"), ("b", "2026-03-01"), ("c", "2026-01-01")):
        make_run(tmp_path / name, final=1.0 + ord(name), info={"created": created})
    write_ablation_report(tmp_path)
    numbers = json.loads((tmp_path / "report.json").read_text())
    assert [run["path"] for run in numbers["runs"]] == ["b"]
    assert [entry["place"] for entry in numbers["left_out"]] == ["c", "a"]


def test_settings_that_differ_are_shown_and_warned_of(tmp_path):
    make_run(tmp_path / "a", "rssm")
    make_run(tmp_path / "b", "rnn", **{"loop.replay_ratio": 4.0, "tracking.tensorboard": True})
    write_ablation_report(tmp_path)
    numbers = json.loads((tmp_path / "report.json").read_text())
    assert numbers["settings"] == {"loop.replay_ratio": {"8.0": ["a"], "4.0": ["b"]}}
    assert "Runs of the same task also differ in loop.replay_ratio" in " ".join(numbers["verdict"])


def test_a_report_of_a_report_is_the_same(tmp_path):
    make_run(tmp_path / "deep" / "er" / "a")
    first, second = (json.loads(write_ablation_report(tmp_path)[0].with_suffix(".json").read_text()) for _ in range(2))
    assert first | {"written": ""} == second | {"written": ""} and len(first["runs"]) == 1
