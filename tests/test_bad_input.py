"""The corpus of bad input: command lines and damaged run folders, each with the one line that it gets. No traceback.

Adds to the mistakes of test_cli.py what concerns commands on existing runs, and run folders made by somebody else.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys

import pytest
import torch
from running import tiny_config, tiny_flags
from test_cli import everything_below, folder_instead, refused

import dreamer
from dreamer.agent import Agent
from dreamer.cli.main import main
from dreamer.config import to_json
from dreamer.runs import checkpoint
from dreamer.training import load as loading


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    """A run of four steps; copy it before changing it."""
    path = tmp_path_factory.mktemp("small") / "run"
    dreamer.train(tiny_config("toy:copy", steps=4), run_dir=path)
    return path


# Command lines, in a folder with an empty file `file`, an empty folder `empty` and nothing else

LINES = {
    # Commands on runs
    "diagnose": r"missing from dreamer diagnose: PATH Run folder",
    "diagnose missing": r"no run folder at missing: missing/config\.json is missing",
    "diagnose file": r"no run folder at file: it is a file",
    "diagnose empty": r"no run folder at empty: empty/config\.json is missing",
    "diagnose empty --jsn": r"unrecognized options: --jsn; did you mean --json\?",
    "track": r"missing from dreamer track: PATH Run folder",
    "track empty": r"name the tracker: --wandb, --tensorboard or both",
    "track missing --wandb": r"no run folder at missing",
    "track file --tensorboard": r"no run folder at file: it is a file",
    "track empty --tensorbord": r"unrecognized options: --tensorbord; did you mean --tensorboard\?",
    "evaluate missing --video x.mp4": r"no run folder at missing",
    "evaluate empty --device gpu": "--device gpu is not available here; available: ",
    "evaluate empty --flicker much": r"error parsing --flicker: .*'much'",
    "evaluate empty --seed -1.5": r"error parsing --seed: .*'-1\.5'",
    "evaluate empty --episodes": r"missing value for argument '--episodes'",
    # Reports and ablations
    "report": r"missing from dreamer report: PATH Run folder, or folder of run folders",
    "report missing": r"no folder missing",
    "report file": r"no folder file",
    "report empty": r"no finished run below empty: 0 finished",
    "ablate --folder empty": r"no sweep or ablation at empty: empty/ablation\.json is missing; to start one, name",
    "ablate --folder file": r"no sweep or ablation at file: file/ablation\.json is missing",
    "ablate --tasks toy:copy --cores rsm": r"--cores: unknown core 'rsm'; choose from rssm, .*, or all",
    "ablate --tasks toy:copy --seeds 0": r"--seeds",
    "ablate --task toy:copy": r"--task: an ablation has several; use --tasks TASK,TASK",
    "exam --cores lstm": r"unknown core 'lstm'",
    "exam --seeds none": r"error parsing --seeds: .*'none'",
    # Odd words
    "train --task": r"missing value for argument '--task'",
    "train --task ../../etc/passwd": r"unknown task '\.\./\.\./etc/passwd'",
    "train --task gym:../x": r"unknown task 'gym:\.\./x'",
    "train --task gym:no_module:Env-v0": r"'gym:no_module:Env-v0' cannot be built: No module named 'no_module'",
    "train --task <script>alert(1)</script>": r"unknown task",
    "train --task $HOME": r"unknown task '\$HOME'",
    "train --seed 1e3": r"error parsing --seed: .*'1e3'",
    "train --seed 0x10": r"error parsing --seed: .*'0x10'",
    "train --steps 1_0_": r"error parsing --steps: .*'1_0_'",
    "train --run-dir": r"missing value for argument '--run-dir'",
    "train --run-dir /proc/self/run": r"/proc/self",
    "train --run-dir /dev/null": r"/dev/null already exists",
    "train --agent.optimizer.learning-rate 1e999": r"learning-rate: input should be .* to 1000 \(got inf\)",
    "train --env.flicker 1": r"--env\.flicker: .* less than 1 \(got 1\.0\)",
    "train --env.hide nothing-like-it": r"nothing-like-it",
    "train --replay.capacity 1000 --loop.learning-starts 5000": r"leaves room for \d+ sequences, but learning begins",
    "train --preset=": r"invalid choice '' for argument '--preset'",
    "train --size=": r"size ''",
    "--task toy:copy": r"unknown command '--task'; choose from train",
    "evaluat runs/a": r"unknown command 'evaluat'",
    "debug": r"unknown command 'debug'",
    "tasks walker run": r"unrecognized options: run; see `dreamer tasks --help`",
    "bench --agent-steps -3": r"--agent-steps: input should be greater than or equal to 1 \(got -3\)",
    "doctor --json": r"unrecognized options: --json",
}


@pytest.mark.parametrize("line", LINES)
def test_a_bad_command_line_gets_one_line_and_leaves_nothing_behind(tmp_path, monkeypatch, capsys, line):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    before = everything_below(tmp_path)
    assert re.search(LINES[line], refused(capsys, *line.split(" ")))
    assert everything_below(tmp_path) == before


# Damaged runs: the damage, the command, what it says


def text(name, content):
    return lambda run: (run / name).write_text(content)


def link(name, target):
    def replace(run):
        place = run / name
        shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
        place.parent.mkdir(exist_ok=True)
        place.symlink_to(target)

    return replace


def pipe(name):
    def replace(run):
        (run / name).unlink(missing_ok=True)
        os.mkfifo(run / name)

    return replace


def within(name, damage):
    """The damage is done to a folder of the run."""

    def inside(run):
        (run / name).mkdir(parents=True, exist_ok=True)
        damage(run / name)

    return inside


def config(**changes):
    def change(run):
        (run / "config.json").write_text(to_json(tiny_config(**{"task": "toy:copy", "steps": 4} | changes)))

    return change


def forged(change):
    """A checkpoint that is whole and well-formed, and says something else."""

    def forge(run):
        step, state, _ = checkpoint.load(run / "checkpoints")
        changed = change(state)
        checkpoint.save(run / "checkpoints", step, state if changed is None else changed, keep=1)

    return forge


def without(*path):
    def forget(state):
        del _at(state, path[:-1])[path[-1]]

    return forged(forget)


def having(value, *path):
    return forged(lambda state: _at(state, path[:-1]).__setitem__(path[-1], value))


def _at(state, path):
    for key in path:
        state = state[key]
    return state


RESUME = "train --resume run --steps 8"
MISFIT = r"the checkpoint in .*checkpoints does not fit this run: "
DAMAGES = {
    # Links and pipes
    "metrics a link": (
        link("metrics.jsonl", "../outside"),
        RESUME,
        r"metrics\.jsonl is a link to .*outside; links out of run are refused",
    ),
    "replay a link": (link("replay", ".."), RESUME, r"run/replay is a link to"),
    "stream a link": (link("replay/rows.bin", "../../outside"), RESUME, r"rows\.bin is a link to"),
    "config.json.tmp a link": (link("config.json.tmp", "../outside"), RESUME, r"config\.json\.tmp is a link to"),
    "lock a link": (link(".lock", "../outside"), RESUME, r"\.lock is a link to"),
    "film a link": (link("videos/eval_000000008.part.mp4", "../../outside"), RESUME, r"part\.mp4 is a link to"),
    "imagination a link": (link("imagination", ".."), "imagine run", r"run/imagination is a link to"),
    "a step's imagination a link": (
        link("imagination/step_000000004", "../.."),
        "imagine run",
        r"imagination/step_000000004 is a link to",
    ),
    "imagination.json a link": (
        within("imagination/step_000000004", link("imagination.json", "../../../outside")),
        "report run",
        r"step_000000004/imagination\.json is a link to .*outside",
    ),
    "imagination.json a pipe": (
        within("imagination/step_000000004", pipe("imagination.json")),
        "report run",
        r"step_000000004/imagination\.json is neither a file nor a folder",
    ),
    "link to itself": (link("metrics.jsonl", "metrics.jsonl"), RESUME, r"metrics\.jsonl"),
    "names that steer a terminal": (
        text("config.json", json.dumps(json.loads(to_json(tiny_config())) | {"\x1b[2J\n": 1})),
        "diagnose run",
        r"written by another version: unknown setting \?\[2J ",
    ),
    "config a pipe": (pipe("config.json"), "diagnose run", r"run/config\.json is neither a file nor a folder"),
    "metrics a pipe": (
        pipe("metrics.jsonl"),
        "track run --tensorboard",
        r"metrics\.jsonl is neither a file nor a folder",
    ),
    # Code
    "imports": (
        config(**{"env.imports": ("evil",)}),
        RESUME,
        r"run imports evil, which runs its code; .* add --env-import evil",
    ),
    "imports, evaluated": (
        config(**{"env.imports": ("evil",)}),
        "evaluate run",
        r"run imports evil, which runs its code",
    ),
    "imports, imagined": (
        config(**{"env.imports": ("evil",)}),
        "imagine run",
        r"run imports evil, which runs its code",
    ),
    "task in a module": (config(task="gym:evil:Env-v0"), "evaluate run", r"run imports evil, which runs its code"),
    "task in a module, resumed": (config(task="gym:evil:Env-v0"), RESUME, r"run imports evil, which runs its code"),
    # metrics.jsonl
    "metrics damaged": (
        text("metrics.jsonl", '{"step": 1}\n'),
        "diagnose run",
        r"metrics\.jsonl, line 1: not a metrics record",
    ),
    "metrics of words": (
        text("metrics.jsonl", '{"step": 1, "updates": 0, "train/return": "high"}\n'),
        "diagnose run",
        r"line 1: not a metrics record",
    ),
    "metrics of truths": (
        text("metrics.jsonl", '{"step": 1, "updates": 0, "train/return": true}\n'),
        "track run --tensorboard",
        r"line 1: not a metrics record",
    ),
    "metrics damaged, resumed": (text("metrics.jsonl", "{}\n" * 2000), RESUME, r"metrics\.jsonl: not a metrics record"),
    "metrics a folder": (folder_instead("metrics.jsonl"), RESUME, r"cannot write .*metrics\.jsonl: Is a directory"),
    "no metrics": (lambda run: (run / "metrics.jsonl").unlink(), "diagnose run", r"cannot read .*: No such file"),
    # Checkpoints that say something else
    "state empty": (forged(lambda state: {}), "evaluate run", MISFIT + "KeyError"),
    "no weights": (having({}, "agent", "modules"), "evaluate run", MISFIT),
    "weights a list": (having([1], "agent", "modules"), "evaluate run", MISFIT),
    "a weight of another shape": (
        forged(lambda state: state["agent"]["modules"].update({"world_model.reward.output.bias": torch.zeros(3)})),
        "evaluate run",
        MISFIT + r"ValueError: its weights have other names or shapes: \['world_model\.reward\.output\.bias'\]",
    ),
    "a weight missing": (without("agent", "modules", "world_model.reward.output.bias"), "evaluate run", MISFIT),
    "observations without end": (having({"cue": (10**15,)}, "spec", "obs_shapes"), "evaluate run", MISFIT),
    "observations of words": (having({"cue": "many"}, "spec", "obs_shapes"), "evaluate run", MISFIT),
    "action unknown": (having([1], "spec", "action"), "evaluate run", MISFIT),
    "no replay state": (without("replay"), RESUME, MISFIT + "it has no replay"),
    "head negative": (
        having(-1, "replay", "head"),
        RESUME,
        MISFIT + "ValueError: positions of rows must be whole",
    ),
    "head beyond the file": (
        having(10**6, "replay", "head"),
        RESUME,
        r"rows\.bin is missing or shorter",
    ),
    "more environments": (having(9, "replay", "environments"), RESUME, MISFIT + "ValueError: positions must be those"),
    "live slots too few": (having(torch.zeros(0, dtype=torch.uint8), "replay", "live"), RESUME, MISFIT + "ValueError"),
    "heads that differ": (having([3, 4], "replay", "heads"), RESUME, MISFIT + "ValueError: positions must be those"),
    "queue beyond the rows": (
        having([[0, 10**9]], "replay", "queue"),
        RESUME,
        MISFIT + "ValueError: queued sequences must",
    ),
    "queue of other streams": (
        having([[99, 1]], "replay", "queue"),
        RESUME,
        MISFIT + "ValueError: queued sequences must",
    ),
    "replay's randomness": (having("{}", "replay", "rng"), RESUME, MISFIT),
    "replay of another run": (having("other", "replay", "layout"), RESUME, r"replay was recorded with other"),
    "randomness too short": (having(torch.zeros(3, dtype=torch.uint8), "rng"), RESUME, MISFIT),
    "no collector": (without("collector"), RESUME, MISFIT + "it has no collector"),
    "an open episode of words": (having(["a", "b"], "collector", "episodes"), RESUME, MISFIT),
    "optimizer of another kind": (having({}, "agent", "optimizer"), RESUME, MISFIT),
    "step of words": (having("many", "step"), RESUME, MISFIT + "step: input should be a valid integer"),
    "step of another": (having(5, "step"), RESUME, MISFIT + "ValueError: it is of step 5 and not 4"),
    "length of metrics": (
        having(-(2**70), "metrics_offset"),
        RESUME,
        MISFIT + "metrics_offset: input should be greater than or equal to 0",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_run_gets_one_line_and_harms_nothing_outside(small_run, tmp_path, monkeypatch, capsys, damage):
    """Outside lies a file of somebody's, and a module that would tell if it were run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    run = shutil.copytree(small_run, tmp_path / "run")
    (tmp_path / "outside").write_text("mine")
    (tmp_path / "evil.py").write_text("open('ran', 'w')")
    break_it, line, message = DAMAGES[damage]
    break_it(run)
    outside = {
        path: content for path, content in everything_below(tmp_path).items() if run not in (path, *path.parents)
    }
    assert re.search(message, refused(capsys, *line.split(" ")))
    now = {path: content for path, content in everything_below(tmp_path).items() if run not in (path, *path.parents)}
    assert now == outside


def test_no_memory_is_taken_for_weights_that_do_not_fit(small_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = shutil.copytree(small_run, tmp_path / "run")
    having({"action": (1,), "cue": (7,)}, "spec", "obs_shapes")(run)
    devices = []

    def build(*arguments):
        devices.append(torch.get_default_device().type)
        return Agent(*arguments)

    monkeypatch.setattr(loading, "Agent", build)
    assert "its weights have other names or shapes" in refused(capsys, "evaluate", run) and devices == ["meta"]


def test_the_user_may_trust_a_module(small_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = shutil.copytree(small_run, tmp_path / "run")
    (tmp_path / "trusted_by_me.py").write_text("open('ran', 'w')")
    config(**{"env.imports": ("trusted_by_me",)})(run)
    assert "add --env-import trusted_by_me" in refused(capsys, "evaluate", run)
    assert main(["evaluate", str(run), "--episodes", "1", "--env-import", "trusted_by_me"]) == 0
    assert (tmp_path / "ran").exists()
    assert main(["evaluate", str(run), "--episodes", "1", "--json"]) == 0  # it is imported already
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["episodes"] == 1


def test_the_last_lines_of_a_training_name_its_modules_in_commands_that_take_them(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "my_envs.py").touch()
    run = tmp_path / "run"
    flags = tiny_flags(task="toy:copy", steps=4)
    assert main(["train", *flags, "--env-import", "my_envs", "--run-dir", str(run)]) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if line.endswith(" --env-import my_envs")]
    assert [line.split("dreamer ")[1].split()[0] for line in told] == ["evaluate", "imagine", "train"]
    for line in told[:2]:
        sys.modules.pop("my_envs", None)
        assert main(shlex.split(line.partition("dreamer ")[2])) == 0
        assert "my_envs" in sys.modules


def an_ablation(folder, **changes):
    """A folder as somebody else's ablation may be."""
    from dreamer.experiments.ablation.manifest import AblateArguments, manifest

    folder.mkdir()
    settings = {"config": tiny_config(), "tasks": ("toy:copy",), "seeds": 1} | changes
    (folder / "ablation.json").write_text(manifest(AblateArguments(**settings)))
    return folder


@pytest.mark.parametrize(
    "named", [{"config": tiny_config(**{"env.imports": ("evil",)})}, {"tasks": ("toy:copy", "gym:evil:Env-v0")}]
)
def test_an_ablation_of_somebody_else_imports_nothing_either(tmp_path, monkeypatch, capsys, named):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    folder = an_ablation(tmp_path / "ablation", **named)
    assert "imports evil, which runs its code" in refused(capsys, "ablate", "--folder", folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("place", ["failures.json.tmp", "logs", "logs/x.log", "toy_copy", "toy_copy/rssm"])
def test_an_ablation_of_somebody_else_leads_nowhere(tmp_path, capsys, place):
    folder = an_ablation(tmp_path / "ablation")
    (folder / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "outside").mkdir()
    (folder / place).symlink_to(tmp_path / "outside")
    assert re.search(rf"{place} is a link to .*outside", refused(capsys, "ablate", "--folder", folder))
    assert not list((tmp_path / "outside").iterdir())


@pytest.mark.parametrize("place", ["failures.json", "report.html.tmp", "figures", "figures/returns.png"])
def test_a_report_on_the_folder_of_somebody_else_leads_nowhere(small_run, tmp_path, capsys, place):
    folder = tmp_path / "folder"
    shutil.copytree(small_run, folder / "run")
    (folder / place).parent.mkdir(exist_ok=True)
    (tmp_path / "outside").mkdir()
    (folder / place).symlink_to(tmp_path / "outside")
    assert re.search(rf"{place} is a link to .*outside", refused(capsys, "report", folder))
    (folder / place).unlink()
    assert main(["report", str(folder)]) == 0


def test_the_corpus_is_large():
    from test_cli import DAMAGES as more_damages
    from test_cli import MISTAKES

    assert len(LINES) + len(DAMAGES) >= 80 and len(LINES) + len(DAMAGES) + len(MISTAKES) + len(more_damages) >= 150
