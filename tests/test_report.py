"""The report of an ablation: its numbers against ones worked out here, its page, and what it leaves out."""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
from pathlib import Path
from urllib.parse import unquote

import pytest
from running import HOSTILE, ROOT, make_run

import dreamer
from dreamer.cli.main import main
from dreamer.config import leaves, size_settings
from dreamer.errors import UserError
from dreamer.experiments.report.ablation_report import write_ablation_report
from dreamer.experiments.report.ablation_verdict import cautions, verdict
from dreamer.experiments.report.analysis import MOST_PAIRED, analyse
from dreamer.experiments.report.arms import differing, with_arms
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
        final, auc = numbers["arms"][core]["final"], numbers["arms"][core]["auc"]
        assert final["value"] == pytest.approx(sum(scores[1:5]) / 4)
        assert scores[0] <= final["low"] < final["value"] < final["high"] <= scores[-1]
        # Area: (0 + 1/2) / 2 * 100 + (1/2 + 1) / 2 * 200 over 300 steps, of the final return.
        assert auc["value"] == pytest.approx(final["value"] * (25 + 150) / 300)
        assert numbers["arms"][core]["runs"] == 6
    assert list(numbers["arms"]) == list(CORES), "in the order of the configuration"


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
    core = numbers["arms"]["rssm"]
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
    assert others == packaged and len(packaged) == 6


def test_markdown_has_the_same_tables(ablation):
    page, text = (ablation / "report.html").read_text(), (ablation / "report.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("|")]
    tables = sum(line.startswith("| ---") for line in rows)
    assert page.count("<table>") == tables and page.count("<tr>") == len(rows) - tables
    assert {line.count(" | ") for line in rows if "rssm_0" in line} == {1, 3, 7}
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
    assert numbers["arms"]["rssm"]["final"] == {"value": 1.0, "low": None, "high": None}
    assert "1.00 [n/a]" in (tmp_path / "report.html").read_text()


def compared(folder: Path):
    runs, arms = with_arms(find_runs(folder)[0])
    return analyse(runs, arms.values), runs, arms


def test_aggregates_are_over_the_tasks_of_all_cores(tmp_path):
    """gru has no run of the harder task, which must not raise its score."""
    for seed in range(2):
        for core in CORES:
            make_run(tmp_path / f"{core}{seed}", core, "dmc:cartpole_balance", seed, 500.0)
        make_run(tmp_path / f"hard{seed}", "rssm", "dmc:humanoid_run", seed, 1.0)
    result, _, arms = compared(tmp_path)
    assert result.compared == ["dmc:cartpole_balance"] and list(result.cells["dmc:humanoid_run"]) == ["rssm"]
    assert [core.final.value for core in result.arms.values()] == [0.5] * 3
    assert [core.runs for core in result.arms.values()] == [2] * 3
    assert "not every core has finished runs of it: dmc:humanoid_run" in " ".join(cautions(result, arms, 0, []))


def test_cores_without_a_common_task_are_not_compared(tmp_path, capsys):
    make_run(tmp_path / "a", "rssm", "toy:copy")
    make_run(tmp_path / "b", "rnn", "toy:counting")
    assert main(["report", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "cannot be compared" in text and (tmp_path / "report.html").is_file()


def test_cores_that_learned_nothing_are_not_ranked(tmp_path, capsys):
    """The runs make 300 updates. Every core returns nothing, or about nothing."""
    for core, final in {"rssm": 3.0, "rnn": 0.0}.items():
        for seed in range(2):
            make_run(tmp_path / f"{core}{seed}", core, "dmc:cartpole_balance", seed, final)
    assert main(["report", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert text.startswith("Every core ends at a score of at most 0.00 (IQM over 1 task): nothing was learned")
    assert "highest" not in text and "leads" not in text
    assert "4 of 4 runs have made too few updates to learn much: rnn0, rnn1, rssm0 and rssm1." in text
    page = (tmp_path / "report.html").read_text()
    assert "this run has made 300 updates in 400 steps" in page
    assert json.loads((tmp_path / "report.json").read_text())["unhealthy"]["rnn0"] == ["updates"]


def test_a_report_without_links_can_leave_its_folder(tmp_path):
    make_run(tmp_path / "a")
    assert main(["report", str(tmp_path)]) == 0
    assert 'href="./a"' in (tmp_path / "report.html").read_text() and "](./a)" in (tmp_path / "report.md").read_text()
    assert main(["report", str(tmp_path), "--no-links"]) == 0
    page, text = ((tmp_path / f"report.{kind}").read_text() for kind in ("html", "md"))
    assert 'href="./' not in page and "](./" not in text and ">a</td>" in page


def test_a_narrow_screen_scrolls_figures_and_tables(tmp_path):
    make_run(tmp_path / "a")
    main(["report", str(tmp_path)])
    page = (tmp_path / "report.html").read_text()
    narrow = re.search(r"@media \(max-width: 56rem\) \{(.*?\})\s*\}", page, re.DOTALL)
    assert narrow and "figure { overflow-x: auto; }" in narrow[1] and "max-width: none" in narrow[1]
    assert page.count('<div class="scroll"><table>') == page.count("<table") and ".scroll { overflow-x: auto; }" in page


def test_equal_scores_are_named_together(tmp_path, capsys):
    for core in ("rssm", "rnn"):
        make_run(tmp_path / core, core, "dmc:cartpole_balance", 0, 500.0)
    assert main(["report", str(tmp_path)]) == 0
    assert "rssm and rnn end with the highest score, 0.50" in capsys.readouterr().out


def test_equal_cores_are_not_told_apart(tmp_path):
    for core, finals in {"rssm": (1.0, 5.0, 9.0), "rnn": (2.0, 5.0, 8.5)}.items():
        for seed, final in enumerate(finals):
            make_run(tmp_path / f"{core}{seed}", core, seed=seed, final=final)
    result, _, arms = compared(tmp_path)
    text = " ".join(verdict(result, arms))
    assert "nothing can be concluded about which is better" in text and "lies above" not in text


def test_variants_and_environments_are_experiments_of_their_own(tmp_path):
    gaussian = {"agent.dynamics.latent": "gaussian"}
    make_run(tmp_path / "a", "rssm")
    make_run(tmp_path / "b", "rssm", **gaussian)
    make_run(tmp_path / "c", "gru", **gaussian)  # the only family that it can have
    make_run(tmp_path / "d", "rssm", **{"env.hide": ("velocities",), "env.num_envs": 3})
    make_run(tmp_path / "e", "rssm", **{"agent.dynamics.rssm.stoch": 16})
    _, runs, arms = compared(tmp_path)
    variants = ["rssm stoch=32", "rssm:gaussian stoch=32", "gru", "rssm stoch=32", "rssm stoch=16"]
    assert [run.arm for run in runs] == variants and arms.varied == ("core", "agent.dynamics.rssm.stoch")
    assert [run.task for run in runs] == ["toy:copy"] * 3 + ["toy:copy hide=velocities", "toy:copy"]


def test_shortened_episodes_count_by_the_return_that_they_can_have(tmp_path):
    for seed in range(2):
        make_run(tmp_path / f"whole{seed}", task="dmc:cartpole_balance", seed=seed, final=500.0)
        make_run(tmp_path / f"short{seed}", "rnn", "dmc:cartpole_balance", seed, 200.0, **{"env.time_limit": 250})
    result, runs, _ = compared(tmp_path)
    assert {run.task for run in runs} == {"dmc:cartpole_balance"}
    assert {name: core.final.value for name, core in result.arms.items()} == {
        "rssm time_limit=0": 0.5,
        "rnn time_limit=250": 0.8,
    }


def test_longer_episodes_count_by_the_return_that_they_can_have(tmp_path):
    make_run(tmp_path / "long", task="dmc:cartpole_balance", final=1500.0, **{"env.time_limit": 2000})
    kept = {"env.time_limit": 2000, "env.extend_limit": False}  # the task's own limit of 1,000 steps
    make_run(tmp_path / "kept", "rnn", task="dmc:cartpole_balance", final=500.0, **kept)
    _, runs, _ = compared(tmp_path)
    assert {run.path: run.final / run.largest_return for run in runs} == {"kept": 0.5, "long": 0.75}


@pytest.mark.parametrize(("task", "shown"), [("dmc:cartpole_balance", ""), ("toy:copy", " encoding=dtype")])
def test_settings_of_older_runs_make_another_task_only_where_they_change_it(tmp_path, task, shown):
    make_run(tmp_path / "a", task=task, seed=0, **{"env.extend_limit": False, "env.encoding": "dtype"})
    make_run(tmp_path / "b", task=task, seed=1, **{"env.timeout": 90.0, "env.restarts": 7})
    _, runs, _ = compared(tmp_path)
    assert [run.task for run in runs] == [task + shown, task]


def test_the_newest_of_repeated_runs_counts(tmp_path):
    for name, created in (("a", "2026-02-01"), ("b", "2026-03-01"), ("c", "2026-01-01")):
        make_run(tmp_path / name, final=1.0 + ord(name), info={"created": created})
    write_ablation_report(tmp_path)
    numbers = json.loads((tmp_path / "report.json").read_text())
    assert [run["path"] for run in numbers["runs"]] == ["b"]
    assert [entry["place"] for entry in numbers["left_out"]] == ["c", "a"]


def test_settings_that_differ_are_shown_and_warned_of(tmp_path):
    """Settings of cores that a run does not use are not its settings; a setting that goes with a core is warned of."""
    unused = {"agent.dynamics.ssm.hidden": 48, "agent.dynamics.rssm.hidden": 48}
    make_run(tmp_path / "a", "rssm")
    make_run(tmp_path / "b", "rnn", **{"loop.replay_ratio": 4.0, "tracking.tensorboard": True, **unused})
    numbers = written(tmp_path)
    assert numbers["settings"] == {"loop.replay_ratio": {"8.0": ["a"], "4.0": ["b"]}}
    assert list(numbers["arms"]) == ["rssm replay_ratio=8.0", "rnn replay_ratio=4.0"]
    assert "loop.replay_ratio differs between runs of the same task, too" in " ".join(numbers["verdict"])


RATE = "agent.optimizer.learning_rate"


def written(folder: Path) -> dict:
    write_ablation_report(folder)
    return json.loads((folder / "report.json").read_text())


def sweep_of_rates(folder: Path, rates=(4e-4, 1e-4), **changes):
    """Two learning rates x 2 seeds x 2 tasks; the second rate is better on both tasks."""
    for task, best in {"toy:copy": 10.0, "dmc:cartpole_balance": 1000.0}.items():
        for rate in rates:
            for seed in range(2):
                final = best * (0.4 if rate == rates[0] else 0.9) + 0.01 * best * seed
                name = f"{task.replace(':', '_')}_{rate}_{seed}"
                make_run(folder / name, "rssm", task, seed, final, **{RATE: rate}, **changes)


def test_learning_rates_are_arms_and_no_repetitions(tmp_path):
    sweep_of_rates(tmp_path)
    numbers = written(tmp_path)
    assert not numbers["left_out"] and len(numbers["runs"]) == 8
    assert numbers["varied"] == [RATE] and list(numbers["arms"]) == ["0.0001", "0.0004"]
    assert [arm["runs"] for arm in numbers["arms"].values()] == [4, 4]
    assert numbers["arms"]["0.0001"]["final"]["value"] > numbers["arms"]["0.0004"]["final"]["value"]
    assert "learning_rate=0.0001 ends with the highest score" in numbers["verdict"][0]
    assert "above that of learning_rate=0.0004" in " ".join(numbers["verdict"])
    page = (tmp_path / "report.html").read_text()
    assert f"<title>{RATE} compared: {tmp_path.name}</title>" in page and "What varies" in page
    assert not re.search(r"\bcores?\b", re.sub(r"of the core|task, core and seed", "", page))


def test_initial_weights_and_lengths_tell_runs_apart(tmp_path):
    sweep_of_rates(tmp_path)
    source = {"start_from": {"path": "/somewhere/pretrained", "load": "world_model"}}
    begun = {"task": "toy:copy", "seed": 0, RATE: 1e-4}
    make_run(tmp_path / "from", info=source, **begun)
    make_run(tmp_path / "long", steps=300, **begun)
    runs, arms = with_arms(find_runs(tmp_path)[0])
    assert arms.varied == ("from", "steps", RATE)
    names = {run.path: run.arm for run in runs}
    assert names["from"] == "from=pretrained (world_model) steps=400 learning_rate=0.0001"
    assert names["long"] == "from=none steps=300 learning_rate=0.0001"
    assert arms.values[names["long"]] == {"from": "none", "steps": "300", RATE: "0.0001"}
    assert len({(run.task, run.arm, run.seed) for run in runs}) == len(runs) == 10
    make_run(tmp_path / "other", info={"start_from": {"path": "/elsewhere/pretrained", "load": "all"}}, **begun)
    runs, _ = with_arms(find_runs(tmp_path)[0])
    assert len({(run.task, run.arm, run.seed) for run in runs}) == len(runs) == 11


@pytest.mark.parametrize(
    "change",
    [
        {"env.num_envs": 3},
        {"env.repeat": 2},
        {"loop.batch_size": 3},
        {"loop.eval_episodes": 3},
        {"agent.imagination_horizon": 7},
        {"agent.world_model.scales.rep": 0.2},
        {"agent.dynamics.rssm.hidden": 48},
        {"replay.capacity": 12_345},
    ],
)
def test_what_changes_learning_or_evaluation_makes_an_arm(tmp_path, change):
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", **change)
    _, arms = with_arms(find_runs(tmp_path)[0])
    assert arms.varied == tuple(change) and len(arms.values) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"agent.dynamics.gru.deter": 48},
        {"agent.dynamics.latent": "categorical"},  # what auto means
        {"agent.world_model.representation.r2.redundancy": 0.1},
        {"device": "cpu", "loop.log_every": 7, "env.parallel": "off", "tracking.wandb_name": "x"},
    ],
)
def test_what_changes_nothing_makes_a_repetition(tmp_path, change):
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", **change)
    runs, arms = with_arms(find_runs(tmp_path)[0])
    assert arms.varied == () and [run.arm for run in runs] == ["rssm", "rssm"]


def test_sizes_differ_in_their_size_alone(tmp_path):
    make_run(tmp_path / "a")
    config = dreamer.compose("debug", "1m")
    sized = {path: value for path, value in leaves(dataclasses.asdict(config)) if path in size_settings(config)}
    make_run(tmp_path / "b", size="1m", **sized)
    _, arms = with_arms(find_runs(tmp_path)[0])
    assert arms.varied == ("size",) and list(arms.values) == ["100k", "1m"]


def test_widths_that_are_matched_on_each_task_are_one_arm(tmp_path):
    """`--match-params` gives a core another width on every task."""
    for task, width in {"toy:copy": 72, "toy:chain": 80}.items():
        make_run(tmp_path / f"{width}", "rssm", task)
        make_run(tmp_path / f"gru{width}", "gru", task, **{"agent.dynamics.gru.deter": width})
    runs, arms = with_arms(find_runs(tmp_path)[0])
    assert arms.varied == ("core",) and sorted(run.arm for run in runs) == ["gru", "gru", "rssm", "rssm"]
    assert differing(runs) == {"agent.dynamics.gru.deter": {"72": ["gru72"], "80": ["gru80"]}}


def test_many_arms_are_compared_with_the_best_alone(tmp_path):
    for number in range(MOST_PAIRED + 1):
        make_run(tmp_path / str(number), final=float(number), **{RATE: 1e-4 * (number + 1)})
    result, _, arms = compared(tmp_path)
    best, worst = (f"{1e-4 * number}" for number in (MOST_PAIRED + 1, 1))
    assert len(result.improvement[best]) == MOST_PAIRED and list(result.improvement[worst]) == [best]
    assert "and 4 more" in " ".join(verdict(result, arms))


def test_arms_are_in_the_order_of_their_values(tmp_path):
    for value in (100, 5, 20):
        make_run(tmp_path / str(value), **{"agent.imagination_horizon": value})
    assert list(with_arms(find_runs(tmp_path)[0])[1].values) == ["5", "20", "100"]


def test_a_report_of_a_report_is_the_same(tmp_path):
    make_run(tmp_path / "deep" / "er" / "a")
    first, second = (json.loads(write_ablation_report(tmp_path)[0].with_suffix(".json").read_text()) for _ in range(2))
    assert first | {"written": ""} == second | {"written": ""} and len(first["runs"]) == 1
