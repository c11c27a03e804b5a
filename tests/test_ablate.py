"""Ablations: every run is done once, whatever is killed or fails on the way, and mistakes are told beforehand."""

from __future__ import annotations

import fcntl
import io
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from itertools import product

import pytest
import torch
import yaml
from running import ROOT, timeless, tiny_config, tiny_flags
from tiny import CORES, unchecked
from wandb.sdk.launch.sweeps import utils as sweeps

import dreamer
import envs
from dreamer.cli.main import main
from dreamer.cli.train import arguments as train_arguments
from dreamer.errors import UserError
from dreamer.experiments.ablation import child, grid, jobs, sweep
from dreamer.experiments.ablation.grid import Trial, trials
from dreamer.experiments.ablation.launchers import local
from dreamer.experiments.ablation.manifest import AblateArguments
from dreamer.experiments.report.run_folders import find_runs
from dreamer.runs import folder as run_folder
from dreamer.runs.folder import create_run, open_run
from dreamer.runs.provenance import command_line
from dreamer.system.device import gpu_names
from dreamer.tracking import read


def flags(folder, *given, **changes):
    """The words of `dreamer ablate` for tiny runs."""
    words = tiny_flags(**changes)
    at = words.index("--task")
    return ["ablate", *words[:at], *words[at + 2 :], "--folder", str(folder), *given]


def everything_below(folder):
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


def eventually(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def locked(run_dir):
    """Whether a process trains in a run folder."""
    with open(run_dir / ".lock", "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def refused(capsys, *argv):
    assert main([str(word) for word in argv]) == 2
    output = capsys.readouterr()
    assert output.out == "" and output.err.startswith("dreamer: ") and output.err.count("\n") == 1
    return output.err


# Devices


class Child(subprocess.Popen):
    """No process, which ends with success when it is told to."""

    made = ()

    def __init__(self, *_, env=os.environ, **__):
        self.gpu, self.returncode, self.stdin = env.get("CUDA_VISIBLE_DEVICES"), None, io.BytesIO()
        busy = Counter(one.gpu for one in Child.made if one.returncode is None)
        self.fewest = busy[self.gpu] == min(busy[gpu] for gpu in ("5", "GPU-aa", "7"))
        Child.made = (*Child.made, self)

    def poll(self):
        return self.returncode

    def wait(self, timeout=None):
        return self.returncode

    def kill(self):
        self.returncode = -9


def test_jobs_are_dealt_to_the_gpus_with_the_fewest_of_them(tmp_path, monkeypatch):
    def later():
        running = [one for one in Child.made if one.returncode is None]
        most.append(max(Counter(one.gpu for one in running).values(), default=0))
        for one in running[1:2] or running[:1]:  # the second of those that run ends first
            one.returncode = 0

    most = []
    monkeypatch.setattr(Child, "made", ())
    monkeypatch.setattr(child.subprocess, "Popen", Child)
    monkeypatch.setattr(jobs.time, "sleep", lambda _: len(Child.made) >= 4 and later())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5, GPU-aa,7")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert gpu_names() == ["5", "GPU-aa", "7"]
    config, told = tiny_config(), []
    work = [jobs.Job(Trial("toy:copy", "rssm", seed), tmp_path, tmp_path / "log", config) for seed in range(9)]

    def do():
        launcher = local.Local(AblateArguments(config, jobs=4))
        return jobs.do_all(work, launcher, lambda job, place: told.append(place), lambda job, error: None)

    monkeypatch.setattr(local, "choose_device", lambda name: "cuda")
    assert do() == 0
    assert [f"on GPU {one.gpu}" for one in Child.made] == told
    assert [one.gpu for one in Child.made[:4]] == ["5", "GPU-aa", "7", "5"]
    assert len(Child.made) == 9 and all(one.fewest for one in Child.made) and max(most) == 2
    monkeypatch.setattr(Child, "made", ())
    monkeypatch.setattr(local, "choose_device", lambda name: "cpu")
    assert do() == 0
    assert {one.gpu for one in Child.made} == {"5, GPU-aa,7"} and set(told[9:]) == {""}


def test_without_a_list_of_visible_devices_gpus_have_numbers(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for count in (0, 3):
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        assert gpu_names() == ["0", "1", "2"][:count]


def test_an_ablation_names_the_gpus(tmp_path, monkeypatch, capsys):
    def start(order, env):
        given.append(env["CUDA_VISIBLE_DEVICES"])
        (tmp_path / order.log).write_text("dreamer: no\n")
        new = Child()
        Child.made[0].returncode = 2 if len(Child.made) == 2 else None
        new.returncode = Child.made[0].returncode
        return new

    given = []
    monkeypatch.setattr(Child, "made", ())
    monkeypatch.setattr(local, "choose_device", lambda name: "cuda")
    monkeypatch.setattr(local, "gpu_names", lambda: ["0", "1"])
    monkeypatch.setattr(grid, "check_memory", lambda *_: None)
    monkeypatch.setattr(local, "start_child", start)
    (tmp_path / "logs").mkdir()
    monkeypatch.setattr(sweep, "check_target", lambda *_: None)
    assert main(flags(tmp_path, "--tasks", "toy:copy", "--cores", "rssm", "--seeds", "2", "--jobs", "2")) == 1
    said = capsys.readouterr().out
    assert "2 runs on 2 GPUs" in said and given == ["0", "1"]
    assert [line.split("  ")[1:3] for line in said.splitlines() if line.startswith("start")] == [
        [f" toy:copy rssm seed {seed}", f"on GPU {seed}"] for seed in (0, 1)
    ]


# Before anything starts


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
    "": r"name at least one task and one objective, such as --tasks",
    "--tasks toy:cpy": r"unknown task 'toy:cpy'; did you mean toy:copy",
    "--tasks toy:copy,toy:cpoy": r"unknown task 'toy:cpoy'",
    "--tasks gym:Pendulum-v1,gym:Pendulum_v1": r"gym:Pendulum-v1 and gym:Pendulum_v1 would share a folder",
    "--tasks toy:copy --cores rssm,rsm": r"unknown core 'rsm'; choose from rssm, ssm, .*, transformer, or all",
    "--tasks toy:copy --cores rssm:normal": r"--cores rssm:normal: unknown latent 'normal'; choose from auto, cat",
    "--tasks toy:copy --cores rnn:gaussian": r"the rnn core cannot have that latent; use rnn$",
    "--tasks toy:copy --cores gru:categorical": r"the gru core cannot have that latent; use gru$",
    "--tasks toy:copy --seeds 0": r"--seeds: input should be greater than or equal to 1 \(got 0\)",
    "--tasks toy:copy --jobs 0": r"--jobs: input should be greater than or equal to 1 \(got 0\)",
    "--tasks toy:copy --steps 0": r"--steps: input should be greater than or equal to 1",
    "--tasks toy:copy --preset quik": r"unknown preset 'quik'",
    "--tasks toy:copy --stps 4": r"did you mean --steps\?; see `dreamer ablate --help`",
    "--task toy:copy": r"--task: an ablation has several; use --tasks TASK,TASK",
    "--tasks toy:copy --core rssm": r"--core: an ablation has several; use --cores CORE,CORE",
    "--tasks toy:copy --latent=gaussian": r"--latent: an ablation has several; use --cores CORE:LATENT",
    "--tasks toy:copy --agent.dynamics.core gru": r"--agent.dynamics.core: an ablation has several",
    "--tasks toy:copy --seed 3": r"--seed: an ablation has several; use --seeds NUMBER",
    "--tasks toy:copy --agent.behavior.actor-gradient dynamics": r"toy:copy rssm: .*actor-gradient dynamics needs",
    "--tasks toy:copy --env-import no_such_module": r"--env-import no_such_module: No module named",
    "--tasks toy:copy --folder file": r"cannot use file as a folder: Not a directory",
    "--tasks toy:copy --folder file/f": r"cannot use file/f as a folder: Not a directory",
    "--tasks toy:copy --folder full": r"full already exists and is no sweep or ablation; choose another --folder",
    "--folder full": r"no sweep or ablation at full: full/ablation\.json is missing; to start one, name its --tasks",
    "--folder missing": r"no sweep or ablation at missing",
    "--tasks toy:copy --match-params --size 100k --cores mdn_rnn --agent.dynamics.mdn-rnn.components 999": (
        r"toy:copy mdn_rnn: --match-params: no width of the mdn_rnn core gives about [\d,]+ parameters"
    ),
}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_told_in_one_line_before_anything_starts(tmp_path, monkeypatch, capsys, planned, line):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    monkeypatch.chdir(tmp_path)
    before = everything_below(tmp_path)
    assert re.search(MISTAKES[line], refused(capsys, "ablate", *line.split()).rstrip("\n"))
    assert everything_below(tmp_path) == before and len(list(tmp_path.iterdir())) == 2 and not planned


def test_words_may_be_separated_by_commas_and_spaces_and_cores_have_one_name_each(tmp_path, planned):
    given = ["--tasks", "toy:copy,toy:chain", "toy:counting", "--cores", "rssm:categorical,rssm:auto", "rssm:gaussian"]
    assert main(flags(tmp_path / "f", *given, "--seeds", "2")) == 130
    tasks, cores = ["toy:copy", "toy:chain", "toy:counting"], ["rssm", "rssm:gaussian"]
    wanted = [Trial(task, core, seed) for seed, task, core in product((0, 1), tasks, cores)]
    assert [job.trial for job in planned] == wanted == trials(tasks, cores, 2)
    written = json.loads((tmp_path / "f" / "ablation.json").read_text())
    assert (written["format"], written["tasks"], written["cores"], written["seeds"]) == (2, tasks, cores, 2)
    assert written["match_params"] is False and written["config"]["steps"] == 160
    assert {"command", "commit", "created"} <= written.keys()


def test_all_cores_and_three_seeds_unless_told_otherwise(tmp_path, planned):
    assert main(flags(tmp_path / "f", "--tasks", "toy:copy")) == 130
    wanted = product((0, 1, 2), CORES)
    assert [(job.trial.seed, job.trial.core) for job in planned] == list(wanted)


def test_a_run_differs_from_the_shared_settings_in_its_trial_and_its_names_in_wandb(tmp_path, planned):
    words = ["--tasks", "toy:copy", "--cores", "rssm:gaussian,rnn", "--seeds", "2", "--tracking.wandb-tags", "mine"]
    assert main(flags(tmp_path / "my folder", *words)) == 130
    job = planned[2]
    assert job.run_dir == tmp_path / "my folder" / "toy_copy" / "rssm_gaussian" / "seed1"
    names = {
        "wandb_name": str(job.trial),
        "wandb_group": "my folder",
        "wandb_tags": ("mine", "rssm", "gaussian", "toy:copy"),
    }
    changes = {f"tracking.{name}": value for name, value in names.items()}
    own = {"agent.dynamics.latent": "gaussian", "seed": 1}
    assert job.config == tiny_config("toy:copy", **changes, **own)
    assert planned[3].config.tracking.wandb_tags == ("mine", "rnn", "toy:copy")


def test_the_group_of_a_folder_whose_name_is_no_text_is_text(tmp_path, planned):
    assert main(flags(tmp_path / os.fsdecode(b"mine\xff"), "--tasks", "toy:copy", "--seeds", "1")) == 130
    assert {job.config.tracking.wandb_group for job in planned} == {"mine\\udcff"}


def test_matched_agents_are_tabled_and_planned(tmp_path, planned, capsys):
    words = ["--tasks", "toy:copy,toy:chain", "--cores", "gru,rssm", "--seeds", "1", "--match-params"]
    assert main(flags(tmp_path / "f", *words, **{"agent.dynamics.rssm.deter": 64})) == 130
    printed = capsys.readouterr().out
    for task in ("toy:copy", "toy:chain"):
        rows = [line.split() for line in printed.partition(f"parameters on {task}\n")[2].splitlines()[1:3]]
        assert [row[0] for row in rows] == ["rssm", "gru"]
        total, other = (int(row[-4].replace(",", "")) for row in rows)
        assert abs(total - other) <= 0.02 * total
        job = next(job for job in planned if job.trial == Trial(task, "gru", 0))
        assert str(job.config.agent.dynamics.gru.deter) == rows[1][-1] and job.config.task == task


def test_an_ablation_goes_on_with_its_own_settings_alone(tmp_path, planned, capsys):
    folder = tmp_path / "f"
    words = ["--tasks", "toy:copy", "--cores", "rssm,rnn", "--seeds", "2"]
    assert main(flags(folder, *words, **{"loop.batch_size": 3})) == 130
    first = list(planned)
    assert main(["ablate", "--folder", str(folder)]) == 130 and planned == first
    assert main(["ablate", f"--folder={folder}", "--jobs", "2"]) == 130 and planned == first
    planned.clear()
    capsys.readouterr()
    other = refused(capsys, *flags(folder, *words[:-1], "3", steps=20))
    told = [
        "--steps is 160 there and 20 here",
        "--loop.batch-size is 3 there and 2 here",
        "--seeds is 2 there and 3 here",
    ]
    assert other.endswith(f"was started with other settings: {', '.join(told)}\n")
    assert "--steps is 160 there and 8 here" in refused(capsys, "ablate", "--folder", folder, "--steps", "8")
    assert "--cores is rssm rnn there and rnn" in refused(capsys, "ablate", "--folder", folder, "--cores", "rnn")
    assert "--match-params is False there and" in refused(capsys, "ablate", "--folder", folder, "--match-params")
    assert not planned


DAMAGES = {
    "not JSON": (lambda text: text[:40], r"ablation\.json: not JSON: "),
    "a list": (lambda text: "[]", r"ablation\.json: input should be a valid dictionary"),
    "other format": (
        lambda text: text.replace('"format": 2', '"format": 4'),
        r"json: it has format 4, this version reads 2 and 3",
    ),
    "other version": (
        lambda text: text.replace('"steps"', '"stages"'),
        r"written by another version: unknown setting stages",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_folder_of_another_version_is_refused(tmp_path, planned, capsys, damage):
    words = flags(tmp_path / "f", "--tasks", "toy:copy", "--cores", "rssm")
    assert main(words) == 130
    capsys.readouterr()
    path = tmp_path / "f" / "ablation.json"
    path.write_text(DAMAGES[damage][0](path.read_text()))
    for argv in (words, ["ablate", "--folder", tmp_path / "f"]):
        assert re.search(DAMAGES[damage][1], refused(capsys, *argv))


def test_a_folder_is_not_worked_on_twice_at_a_time(tmp_path, planned, capsys):
    words = flags(tmp_path / "f", "--tasks", "toy:copy", "--cores", "rssm")
    assert main(words) == 130
    capsys.readouterr()
    with run_folder.locked(tmp_path / "f"):
        assert refused(capsys, *words).endswith("f is in use by another process\n")


# One run


def test_a_run_without_a_checkpoint_is_started_over(tmp_path):
    path, config = tmp_path / "run", tiny_config(steps=4)
    create_run(path, config, "cpu")
    (path / "metrics.jsonl").write_text('{"step": 2}\n')
    (path / "replay").mkdir()
    for name in ("wandb_id", "wandb_run.json", "wandb_run.json.tmp"):
        (path / name).write_text("{}")
    assert child.start_or_resume(path, config).status == "finished"
    assert [record["step"] for record in read(path / "metrics.jsonl")] == [4]


def test_a_folder_with_work_of_others_is_not_deleted(tmp_path):
    path = tmp_path / "run"
    create_run(path, tiny_config(), "cpu")
    (path / "thesis.tex").write_text("mine")
    with pytest.raises(dreamer.UserError, match="run holds thesis.tex but no checkpoint; delete it to start"):
        child.start_or_resume(path, tiny_config())
    assert (path / "thesis.tex").read_text() == "mine"


def test_a_run_that_another_process_has_begun_is_not_deleted(tmp_path):
    folder = create_run(tmp_path / "run", tiny_config(), "cpu")
    with run_folder.locked(folder.path), pytest.raises(dreamer.UserError, match="in use by another process"):
        child.start_or_resume(folder.path, tiny_config())
    assert (folder.path / "config.json").exists()


def test_an_error_is_one_line(tmp_path):
    log = tmp_path / "log"
    log.write_text("dreamer: old\nTraceback\n  ...\ndreamer: new\nleft behind\n")
    assert child.error_of(0, log, 0) == ""
    assert child.error_of(2, log, 0) == "new"
    assert child.error_of(1, log, log.read_text().index("left")) == "left behind"
    assert child.error_of(1, log, log.stat().st_size) == "exit status 1"
    assert child.error_of(-9, log, 0) == "ended by SIGKILL, perhaps out of memory"


# Real processes


def start(folder, *words, **changes):
    """`dreamer ablate` in a process of its own."""
    command = [sys.executable, "-m", "dreamer", *flags(folder, *words, **changes)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=ROOT, **pipes)


@pytest.mark.slow
def test_an_ablation_is_done_once(tmp_path, capsys):
    words = flags(tmp_path / "f", "--tasks", "toy:copy", "--cores", "rssm,rnn", "--seeds", "2", "--jobs", "2", steps=40)
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert len(re.findall(r"^start   toy:copy (rssm|rnn) seed [01]  output in ", printed, re.M)) == 4
    lines = re.findall(r"^finish  .*  return (-?\d+\.\d)  in 0:0\d:\d\d  (\d) of 4  ETA (\d:\d\d:\d\d)$", printed, re.M)
    assert [done for _, done, _ in lines] == ["1", "2", "3", "4"] and lines[-1][2] == "0:00:00"
    assert printed.endswith(f"next: dreamer report {tmp_path / 'f'}\n")

    runs, failures = find_runs(tmp_path / "f")
    found = [(one.task, one.core, one.seed, one.finished) for one in runs]
    assert found == [("toy:copy", core, seed, True) for core in ("rnn", "rssm") for seed in (0, 1)] and not failures
    assert sorted(line[0] for line in lines) == sorted(f"{one.final:.1f}" for one in runs)
    assert json.loads((tmp_path / "f" / "failures.json").read_text()) == []
    assert len(list((tmp_path / "f" / "logs").iterdir())) == 4
    for one in runs:
        assert one.info["threads"] <= max(1, os.cpu_count() // 2) and one.info["command"].endswith(command_line())

    before, began = everything_below(tmp_path / "f"), time.monotonic()
    for again in (words, ["ablate", "--folder", str(tmp_path / "f")]):
        assert main(again) == 0
        assert "4 runs on cpu, 4 of them finished\nnext: dreamer report" in capsys.readouterr().out
    assert time.monotonic() - began < 10
    before.pop(tmp_path / "f" / "failures.json")
    assert before.items() <= everything_below(tmp_path / "f").items()


@pytest.mark.slow
def test_an_ablation_that_is_stopped_and_killed_goes_on_as_if_nothing_had_happened(tmp_path):
    folder = tmp_path / "f"
    first, second = (folder / "toy_copy" / "rssm" / f"seed{seed}" for seed in (0, 1))
    words = ("--tasks", "toy:copy", "--cores", "rssm", "--seeds", "2")
    changes = {"steps": 480, "loop.eval_every": 240}

    def checkpoints(run_dir):
        return sorted((run_dir / "checkpoints").glob("*.ckpt"))

    parent = start(folder, *words, **changes)
    eventually(lambda: checkpoints(first))
    parent.send_signal(signal.SIGTERM)
    output, _ = parent.communicate(timeout=60)
    assert parent.returncode == 75 and f"stopped; resume with: dreamer ablate --folder {folder}" in output
    assert "SIGTERM received: saving a checkpoint" in (folder / "logs" / "toy_copy_rssm_seed0.log").read_text()
    assert not second.exists() and json.loads((folder / "failures.json").read_text()) == []

    parent = start(folder, *words, **changes)
    eventually(lambda: checkpoints(second))
    finished = everything_below(first)
    assert locked(second) and not locked(first)
    parent.kill()
    parent.communicate()
    eventually(lambda: not locked(second), seconds=5)
    interrupted = everything_below(second)
    assert checkpoints(second)[-1].name < "step_000000000480.ckpt"
    time.sleep(1)
    assert everything_below(second) == interrupted

    assert main(["ablate", "--folder", str(folder)]) == 0
    finished.pop(first / ".lock", None)
    assert finished.items() <= everything_below(first).items()
    for run_dir in (first, second):
        assert len(open_run(run_dir).info["resumed"]) == 1
        with unchecked():
            twin = dreamer.train(open_run(run_dir).config, run_dir=tmp_path / run_dir.name)
        assert timeless(run_dir) == timeless(twin.path)


FRAGILE = """
    import pathlib

    import gymnasium
    from envs.toy import Copy


    class Fragile(Copy):
        def step(self, action):
            if not pathlib.Path("mended").exists():
                raise RuntimeError("the wheel came off\\nand rolled away")
            return super().step(action)


    gymnasium.register("Fragile-v0", Fragile)
"""


@pytest.mark.slow
def test_a_run_that_fails_stops_no_other_and_is_tried_again(tmp_path, monkeypatch, capsys):
    (tmp_path / "fragile_wheels.py").write_text(textwrap.dedent(FRAGILE))
    monkeypatch.chdir(tmp_path)
    words = ["--tasks", "gym:Fragile-v0", "toy:copy", "--cores", "rssm", "--seeds", "1"]
    assert main(flags("f", *words, "--env-import", "fragile_wheels", steps=20)) == 1
    printed = capsys.readouterr().out
    error = "environment 0 failed 4 times without finishing an episode: RuntimeError: the wheel came off"
    assert re.search(rf"^failed  gym:Fragile-v0 rssm seed 0: {error}  in .*  1 of 2  ETA", printed, re.M)
    assert re.search(r"^finish  toy:copy rssm seed 0  return", printed, re.M)
    assert printed.splitlines()[-3] == f"failed  gym:Fragile-v0 rssm seed 0: {error}"
    entry = {"task": "gym:Fragile-v0", "core": "rssm", "seed": 0, "error": error}
    assert json.loads((tmp_path / "f" / "failures.json").read_text()) == [entry]

    (tmp_path / "mended").touch()
    assert main(["ablate", "--folder", "f"]) == 0
    assert json.loads((tmp_path / "f" / "failures.json").read_text()) == []
    assert all(one.finished for one in find_runs(tmp_path / "f")[0])


# The same through W&B


def test_the_sweep_does_runs_that_dreamer_train_accepts():
    described = yaml.safe_load((ROOT / "scripts" / "sweep.yaml").read_text())
    assert (described["method"], described["program"], described["command"][:2]) == (
        "grid",
        "dreamer",
        ["${env}", "${program}"],
    )
    values = {name: parameter["values"] for name, parameter in described["parameters"].items()}
    assert values.keys() == {"task", "core", "seed"} and values["core"] == list(grid.LATENTS)
    known = {task for family in envs.tasks().values() for task in family}
    assert set(values["task"]) <= known
    done = set()
    for point in product(*values.values()):
        arguments = {name: {"value": value} for name, value in zip(values, point, strict=True)}
        replaced = {
            "${env}": [],
            "${program}": [],
            "${args}": sweeps.create_sweep_command_args({"args": arguments})["args"],
        }
        command, *argv = [word for part in described["command"] for word in replaced.get(part, [part])]
        config = train_arguments(argv).config
        assert command == "train" and config == dreamer.compose(
            config.preset, task=point[0], seed=point[2], **{"agent.dynamics.core": point[1]}
        )
        done.add((config.task, config.agent.dynamics.core, config.seed))
    assert len(done) == 2 * len(CORES) * 3


def test_objectives_are_variants_of_every_core():
    """Reconstruction goes without saying; the place of a run has no sign that a file system could refuse."""
    names = grid.with_objectives(["rssm", "rssm:gaussian"], grid.objectives(["reconstruction", "r2"]))
    assert names == ["rssm", "rssm+r2", "rssm:gaussian", "rssm:gaussian+r2"]
    runs = grid.trials(["toy:copy"], names, 1)
    assert [trial.place.parts[1] for trial in runs] == ["rssm", "rssm_r2", "rssm_gaussian", "rssm_gaussian_r2"]
    found = grid.configurations(tiny_config("toy:copy"), runs, "group", match=False)
    dynamics = [(c.agent.dynamics.latent, c.agent.world_model.representation.objective) for c in found.values()]
    assert dynamics == [("auto", "reconstruction"), ("auto", "r2"), ("gaussian", "reconstruction"), ("gaussian", "r2")]
    with pytest.raises(UserError, match="unknown objective 'r3'; choose from reconstruction, r2"):
        grid.objectives(["r3"])
