"""The command line: every mistake is one line on standard error and exit code 2, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from nursery import run
from running import ROOT, dreamer_command, tiny_config, tiny_flags

import dreamer
from dreamer.__main__ import SLOW
from dreamer.agent import Agent
from dreamer.cli.configuration import with_current_names
from dreamer.cli.help import ALIASES, COMMON, EXAMPLES, actions_of
from dreamer.cli.main import COMMANDS, main
from dreamer.cli.parsing import REGISTRY
from dreamer.cli.sweep import INSTEAD
from dreamer.cli.train import TrainArguments
from dreamer.cli.train import arguments as train_arguments
from dreamer.experiments.ablation.manifest import AblateArguments
from dreamer.experiments.bench import doctor
from dreamer.presets import PRESETS
from dreamer.runs import checkpoint
from dreamer.runs.folder import open_run
from dreamer.training import accelerate, launch, loop


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    """A run of four steps; copy it before changing it."""
    path = tmp_path_factory.mktemp("small") / "run"
    dreamer.train(tiny_config(steps=4), run_dir=path)
    return path


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with a file, a folder with content and nothing else."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def everything_below(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def refused(capsys, *argv):
    """The one line that a mistake gets."""
    assert main([str(word) for word in argv]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("dreamer: ") and output.err.endswith("\n") and output.err.count("\n") == 1
    assert not re.search(r"(:|: None)$", output.err), "a message that leaves out its reason"
    return output.err.removeprefix("dreamer: ").rstrip("\n")


MISTAKES = {
    # Tasks
    "train --task dmc:walker_wlak": r"unknown task 'dmc:walker_wlak'; did you mean dmc:walker_walk, .*`dreamer tasks`",
    "train --task gym:Pendulm-v1": r"unknown task 'gym:Pendulm-v1'; did you mean gym:Pendulum-v1",
    "train --task walker_walk": r"unknown task 'walker_walk'; did you mean dmc:walker_walk\?",
    "train --task nonsense": r"a task is dmc:<domain>_<task>, gym:<id> or toy:<name>",
    "train --task gym:Blackjack-v1": r"Tuple\(.* is not supported; supported observations: Box, Discrete, and Dict",
    "train --env-import no_such_module": r"--env-import no_such_module: No module named 'no_such_module'",
    # Flags
    "train --tsk toy:copy": r"unrecognized options: --tsk, toy:copy; did you mean --task\?",
    "train --loop.replay-ration 3": r"unrecognized options: .*; did you mean --loop\.replay-ratio\?",
    "train --stps 3 --tsk x": r"did you mean (--steps, --task|--task, --steps)\?",
    "train --lr 1e-4": r"did you mean --agent\.optimizer\.learning-rate\?",
    "train --batch-size 8 --gamma 0.99": r"did you mean --loop\.batch-size, --agent\.world-model\.discount-horizon\?",
    "train --env x --total-timesteps 9": r"did you mean --task, --steps\?",
    "ablate --env-id x --learning_rate 1": r"did you mean --tasks, --agent\.optimizer\.learning-rate\?",
    "train extra": r"unrecognized options: extra; see `dreamer train --help`",
    "train --resume": r"missing value for argument '--resume'",
    "train --core rsm": r"invalid choice 'rsm' for argument '--core'.*one of \('rssm',",
    "train --device tpu": "--device tpu is not available here; available: ",
    "train --load actor": r"--load actor says what to take from another run: name that run with --from",
    "clean": r"name the run folders to clean",
    "clean missing": r"no run folder at missing: missing/config\.json is missing",
    "clean full": r"no run folder at full: full/config\.json is missing",
    "train --tracking.wandb sometimes": r"invalid choice 'sometimes' .*'auto', 'online', 'offline', 'off'",
    "train --preset quik": r"unknown preset 'quik'; choose from quick, dmc_fast, ablation, pixels_quick,",
    "train --size 2m": r"unknown size '2m'; choose from 100k, 300k, 1m, 12m, 25m, 50m, 100m, 200m, 400m",
    # Values
    "train --steps 0": r"--steps: input should be greater than or equal to 1 \(got 0\)",
    "train --steps many": r"error parsing --steps: .*'many'",
    "train --seed -1": r"--seed: input should be greater than or equal to 0 \(got -1\)",
    "train --seed 9223372036854775808": r"--seed: input should be less than 9223372036854775808 \(got",
    "evaluate full --seed 18446744073709551616": r"--seed: input should be less than 9223372036854775808",
    "train --obs pixels --env.image-size -16 64": r"--env\.image-size\.0: input should be greater than or equal to 16",
    "train --env.num-envs 0": r"--env\.num-envs: .* 1 \(got 0\)",
    "train --env.repeat 0": r"--env\.repeat: .* 1 \(got 0\)",
    "train --env.time-limit -1": r"--env\.time-limit: .* 0 \(got -1\)",
    "train --loop.batch-size 0": r"--loop\.batch-size: .* 1 \(got 0\)",
    "train --loop.batch-length 1": r"--loop\.batch-length: .* 2 \(got 1\)",
    "train --loop.replay-ratio 0": r"--loop\.replay-ratio: input should be greater than 0 \(got 0\.0\)",
    "train --loop.replay-ratio nan": r"--loop\.replay-ratio: .*nan",
    "train --loop.replay-ratio inf": r"--loop\.replay-ratio: input should be less than or equal to 1000000 \(got inf\)",
    "train --threads 0": r"--threads: it must be auto or a number from 1 to 1024 \(got '0'\)",
    "ablate --tasks toy:copy --threads many": r"--threads: it must be auto or a number from 1 to 1024 \(got 'many'\)",
    "train --replay.capacity 10": r"--replay\.capacity: .* 1000 \(got 10\)",
    "train --agent.optimizer.learning-rate -1": r"--agent\.optimizer\.learning-rate: .* 0 \(got -1\.0\)",
    "train --agent.dynamics.rssm.blocks 7": r"deter 256 must be a multiple of its 7 blocks",
    "train --agent.behavior.actor-gradient dynamics": r"needs --latent gaussian; or use reinforce",
    # Folders
    "train --run-dir file": r"file already exists; continue it with `dreamer train --resume file` or pick another",
    "train --run-dir full": r"full already exists; continue it with `dreamer train --resume full` or pick another",
    "train --run-dir file/run": r"cannot write to file/run: Not a directory",
    f"train --run-dir {'long' * 80}": r"cannot write to (long)+: File name too long",
    "train --resume missing": r"no run folder at missing: missing/config\.json is missing",
    "train --resume full": r"no run folder at full: full/config\.json is missing",
    "train --resume file": r"no run folder at file: it is a file$",
    "train --from file": r"no run folder at file: it is a file$",
    "train --from missing": r"no run folder at missing",
    "train --load world_model": r"--load world_model says what to take from another run: name that run with --from",
    # Other commands
    "traen --task toy:copy": r"unknown command 'traen'; choose from train, evaluate, imagine, tasks",
    "evaluate": r"missing from dreamer evaluate: PATH Run folder",
    "evaluate missing": r"no run folder at missing",
    "evaluate full --mode greedy": r"invalid choice 'greedy' .*'sample', 'mode', 'both'",
    "evaluate full --film x.mp4 --episodes 0": r"--episodes: input should be greater than or equal to 1 \(got 0\)",
    "evaluate full --episodes 0": r"--episodes: input should be greater than or equal to 1 \(got 0\)",
    "tasks zzz": r"no task contains 'zzz'",
    "bench --updates 0": r"--updates: input should be greater than or equal to 1 \(got 0\)",
    "bench --task dmc:walker": r"unknown task 'dmc:walker'; did you mean dmc:walker_run",
    "doctor now": r"unrecognized options: now; see `dreamer doctor --help`",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_told_in_one_line_and_leaves_nothing_behind(here, capsys, line):
    before = everything_below(here)
    assert re.search(MISTAKES[line], refused(capsys, *line.split(" ")))
    assert everything_below(here) == before


def test_a_mistake_in_a_process_whose_output_is_ascii(tmp_path):
    """The parser then draws its message in another way."""
    done = dreamer_command("train", "--stps", "3", cwd=tmp_path, PYTHONIOENCODING="ascii")
    expected = "dreamer: unrecognized options: --stps, 3; did you mean --steps?; see `dreamer train --help`\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", expected)
    assert not list(tmp_path.iterdir())


# Damaged run folders


def edit_config(**changes):
    def edit(path):
        config = json.loads((path / "config.json").read_text())
        for name, value in changes.items():
            section, _, field = name.partition("__")
            if value is None:
                del config[section]
            elif field:
                config[section][field] = value
            else:
                config[section] = value
        (path / "config.json").write_text(json.dumps(config))

    return edit


def write(name, content):
    return lambda path: (path / name).write_bytes(content)


def other_format(path):
    newest = max((path / "checkpoints").iterdir())
    newest.write_bytes(newest.read_bytes().replace(b'"format": 1', b'"format": 7', 1))


def half_written(path):
    for file in (path / "checkpoints").glob("*.ckpt"):
        os.truncate(file, 1000)


def folder_instead(name):
    def replace(path):
        (path / name).unlink()
        (path / name).mkdir()

    return replace


DAMAGES = {
    "config not JSON": (write("config.json", b"not json\nat all"), r"config\.json: .*not JSON: expected ident"),
    "config empty": (write("config.json", b""), r"config\.json: .*not JSON: EOF while parsing"),
    "config not text": (write("config.json", b"\xff\xfe\x00"), r"config\.json: .*not JSON: expected value"),
    "config too deep": (write("config.json", b"[" * 100_000), r"config\.json: .*recursion"),
    "config a list": (write("config.json", b"[]"), r"config\.json: .*not a JSON object"),
    "config with more": (edit_config(loop__new=1), r"config\.json: .*written by another version: unknown .* loop\.new"),
    "config with less": (edit_config(steps=None), r"config\.json: the configuration has no steps, which every"),
    "config impossible": (edit_config(loop__batch_size=0), r"config\.json: --loop\.batch-size: .* 1 \(got 0\)"),
    "config of other type": (edit_config(steps="lots"), r"config\.json: --steps: .*valid integer.*'lots'"),
    "config a folder": (folder_instead("config.json"), r"run is not a run folder: .*Is a directory"),
    "run.json empty": (write("run.json", b"{}"), r"run\.json: device: field required"),
    "run.json a list": (
        write("run.json", b"[]"),
        r"run is not a run folder: .*run\.json: input should be a valid dictionary",
    ),
    "run.json of nowhere": (write("run.json", b'{"device": "abacus"}'), r"--device abacus is not available here"),
    "no run.json": (lambda path: (path / "run.json").unlink(), r"run\.json is missing"),
    "no checkpoints": (lambda path: shutil.rmtree(path / "checkpoints"), r"no usable checkpoint in .*checkpoints$"),
    "half-written checkpoint": (half_written, r"no usable checkpoint in .*checksum does not match"),
    "other format": (other_format, r"has format 7, this version reads format 1; use the version .* in run\.json"),
    "no replay": (lambda path: shutil.rmtree(path / "replay"), r"has no replay any more and cannot be extended"),
    "no rows": (lambda path: (path / "replay" / "rows.bin").unlink(), r"replay file .*rows\.bin is missing"),
    "lock not writable": (folder_instead(".lock"), r"cannot lock .*: Is a directory"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_run_folder_is_refused_in_one_line(small_run, tmp_path, capsys, damage):
    path = shutil.copytree(small_run, tmp_path / "run")
    break_it, message = DAMAGES[damage]
    break_it(path)
    kept = {name: content for name, content in everything_below(path).items() if name.parent.name == "checkpoints"}
    assert re.search(message, refused(capsys, "train", "--resume", path, "--steps", "8"))
    assert kept.items() <= everything_below(path).items()


def test_resume_does_not_mix_with_flags_of_new_runs(small_run, tmp_path, capsys):
    message = refused(capsys, "train", "--resume", small_run, "--run-dir", tmp_path / "other")
    assert message == "--resume keeps the run as it is and takes no --run-dir, --load or --match-params"
    assert refused(capsys, "train", "--resume", small_run, "--load", "world_model") == message


def test_a_run_made_with_a_users_own_environment_says_how_to_go_on(tmp_path, capsys):
    from envs.toy import Counting

    path = dreamer.train(tiny_config(steps=4), run_dir=tmp_path / "run", make_env=Counting).path
    advice = {
        ("train", "--resume", path, "--steps", "8"): "dreamer.resume(path, make_env=Counting)",
        ("evaluate", path): "dreamer.evaluate(path, Counting) in Python",
        ("evaluate", path, "--video", "a.mp4"): "dreamer.evaluate(path, Counting, video='a.mp4') in Python",
        ("imagine", path): "dreamer.imagine(path, Counting) in Python",
    }
    for command, call in advice.items():
        assert refused(capsys, *command).endswith(f"was trained with make_env=Counting; use {call}")


@pytest.mark.slow
@pytest.mark.parametrize(("limit", "what"), [(30_000, "write checkpoint"), (2_600_000, "reserve")])
def test_a_full_disk_ends_a_run_in_one_line(tmp_path, limit, what):
    """30 kB is too small for the first checkpoint, 2.6 MB for the second part of replay; rows up to there are kept."""
    path = tmp_path / "run"
    settings = {
        "loop.replay_ratio": 0.01,
        "loop.log_every": 5000,
        "loop.eval_every": 20_000,
        "loop.checkpoint_every": 2000,
    }
    flags = [*tiny_flags(steps=20_000, **settings), "--run-dir", str(path)]

    def limit_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    command = [sys.executable, "-m", "dreamer", "train", *flags]
    done = subprocess.run(command, cwd=ROOT, preexec_fn=limit_files, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and re.fullmatch(rf"dreamer: cannot {what} .*\n", done.stderr), done.stderr
    if limit > 1_000_000:
        step, _, skipped = checkpoint.load(path / "checkpoints")
        assert step == 8000 and not skipped
        assert dreamer.resume(path, config=tiny_config(steps=8100, **settings)).status == "finished"


# What works


@pytest.mark.parametrize(
    ("words", "absent"),
    [
        (["--help"], {"torch", "scipy", "matplotlib", "wandb", "dm_control", "pydantic"}),
        (["tasks", "toy:copy"], {"torch", "scipy.stats", "matplotlib", "wandb", "pydantic"}),
        (["train", "--stps", "3"], {"scipy.stats", "matplotlib", "wandb", "dm_control"}),
        (["train", *tiny_flags(steps=20), "--run-dir", "RUN"], {"torch._dynamo", "sympy", "scipy.stats", "wandb"}),
    ],
)
def test_a_command_loads_nothing_that_it_does_not_use(words, absent, run_dir):
    words = [str(run_dir) if word == "RUN" else word for word in words]
    code = f"import sys; from dreamer.cli.main import main; main({words}); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and absent.isdisjoint(done.stderr.split()), done.stderr[-1000:]
    assert (words[0] == "train" and "--stps" not in words) == (run_dir / "curve.png").exists()


def test_a_slow_command_says_that_it_starts_before_anything_is_imported():
    code = """if True:
        import sys, dreamer.__main__ as entry
        class Terminal(type(sys.stderr)):
            def isatty(self):
                return True
            def write(self, text):
                early = not {"numpy", "torch", "tyro", "dreamer.cli.main"} & set(sys.modules)
                return super().write(f"{'early' if early else 'late'} {text}")
        sys.stderr = Terminal(sys.stderr.buffer)
        sys.argv[1:] = WORDS
        entry.main()
    """
    starts = ["early dreamer train: starting", "late dreamer: unrecognized"]
    for words, lines in ((["train", "--stps"], starts), (["tasks"], [])):
        code_of = code.replace("WORDS", str(words))
        done = subprocess.run([sys.executable, "-c", code_of], cwd=ROOT, capture_output=True, text=True, timeout=300)
        said = done.stderr.splitlines()
        assert all(line.startswith(start) for line, start in zip(said, lines, strict=True)), done.stderr
    assert set(SLOW) <= set(COMMANDS)


def test_the_public_names_are_those_of_the_package():
    assert dreamer.train is launch.train and dreamer.Result is loop.Result
    assert {name: getattr(dreamer, name).__name__ for name in dreamer.__all__} == {n: n for n in dreamer.__all__}
    assert dir(dreamer) == sorted(dreamer.__all__)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = dreamer.trian


def test_help_lists_every_command(capsys):
    assert main(["--help"]) == 0
    listed = capsys.readouterr().out
    assert all(f"  {name} " in listed for name in COMMANDS)
    assert main([]) == 2


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(capsys, command):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert not stop.value.code
    text = capsys.readouterr().out
    assert text.startswith(f"usage: dreamer {command}") and "None" not in text.splitlines()[0]


def help_text(capsys, *words):
    with pytest.raises(SystemExit) as stop:
        main(list(words))
    assert not stop.value.code
    return capsys.readouterr().out


def test_the_help_of_train_is_one_screen_of_common_options_presets_and_examples(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    text = help_text(capsys, "train", "--preset", "dmc_fast", "--help")
    scripts = re.findall(r"\S+", "preset task core size seed steps run-dir resume from load device env-import")
    assert not [flag for flag in scripts if not re.search(rf"^  --{flag}\b", text, re.M)]
    assert len(text.splitlines()) <= 54 and max(map(len, text.splitlines())) <= 100
    assert 15 <= len(re.findall(r"^  --", text, re.M)) <= 20 and "[dmc_fast]" in text and "[100000]" in text
    assert all(re.search(rf"^  {name}  ", text, re.M) for name in PRESETS) and "  dreamer train --resume runs/a" in text
    assert "--loop.batch-size" not in text and "--loop.batch-size INT" in help_text(capsys, "train", "--help-all")


@pytest.mark.parametrize("option", ["--help", "--help-all"])
def test_the_help_of_ablate_lists_nothing_that_it_refuses(capsys, option):
    listed = set(re.findall(r"--[a-z][\w.-]*", help_text(capsys, "ablate", option)))
    assert {"--tasks", "--cores", "--seeds", "--steps"} <= listed and not listed & {*INSTEAD, "--core", "--seed"}


def test_sentences_of_the_help_break_only_at_the_end_of_its_lines(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = help_text(capsys, "train", "--help-all")
    assert "weights. With --resume, it names again where a run that never began  " in text


@pytest.mark.parametrize("command", EXAMPLES)
def test_the_sentences_of_the_short_help_are_whole(capsys, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "110")
    options = re.sub(r"\n {28}", " ", help_text(capsys, command, "--help")).split("presets:")[0].strip().splitlines()
    assert len(options) >= 15 and not [line for line in options if re.search(r"[,(:]( +\[.*\])?$", line)]
    assert command != "ablate" or any("Number of seeds, which are 0, 1, ... [3]" in line for line in options)


def test_examples_are_of_commands_and_aliases_of_options_that_exist():
    defaults = {"train": TrainArguments(dreamer.compose()), "ablate": AblateArguments(dreamer.compose())}
    with REGISTRY:
        known = {name for one in actions_of(TrainArguments, defaults["train"]) for name in one.option_strings}
        known |= {name for one in actions_of(AblateArguments, defaults["ablate"]) for name in one.option_strings}
    assert {*ALIASES.values(), *COMMON} <= known and not known & set(ALIASES) and set(EXAMPLES) <= set(COMMANDS)
    train_arguments(shlex.split(EXAMPLES["train"][0])[2:])


def test_tasks_are_listed_and_searched(capsys):
    assert main(["tasks", "cartpole_balance"]) == 0
    assert capsys.readouterr().out.split() == ["dmc:cartpole_balance", "dmc:cartpole_balance_sparse"]


def test_doctor_prints_environment_information(capsys):
    assert main(["doctor"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["python"].startswith(".".join(map(str, sys.version_info[:3])))
    assert "torch 2" in lines["packages"] and "GB free" in lines["disk"]
    assert {"code", "cores", "device", "compiler", "rendering", "W&B"} <= lines.keys()


def test_doctor_names_every_gpu_its_driver_and_what_compiles(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 570.86.15\necho 570.86.15\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(doctor, "choose_device", lambda name: "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    gpus = [SimpleNamespace(name="NVIDIA H100", major=9, minor=0), SimpleNamespace(name="Tesla T4", major=7, minor=5)]
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda number: SimpleNamespace(**vars(gpus[number]), total_memory=16e9)
    )
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda number: (15e9 - number * 1e9, 16e9))
    assert doctor.devices() == [
        "device      auto takes cuda; torch is built for CUDA 12.8; NVIDIA driver 570.86.15",
        "cuda:0      NVIDIA H100, capability 9.0, 16.0 GB, 15.0 free, bfloat16",
        "cuda:1      Tesla T4, capability 7.5, 16.0 GB, 14.0 free, no bfloat16",
    ]
    monkeypatch.setattr(accelerate, "has_triton", lambda: False)
    assert doctor.compilers().startswith("compiler    torch.compile: Triton is not installed here, or does not support")
    monkeypatch.setattr(doctor, "choose_device", lambda name: "cpu")
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("PATH", "")
    assert doctor.driver() == "none"
    assert re.fullmatch(
        r"compiler    torch.compile finds no C\+\+ compiler here .*; C none, C\+\+ none, Python.h \w+, Triton .+",
        doctor.compilers(),
    )


def test_a_run_ends_with_its_results_and_what_to_do_next(tmp_path, capsys):
    path = tmp_path / "my run"
    assert main(["train", *tiny_flags(steps=4), "--run-dir", str(path)]) == 0
    text = capsys.readouterr().out
    assert "final evaluation over 2 episodes: return 55.0 +- 0.0 with sampled actions" in text
    assert f"dreamer evaluate '{path}' --episodes 20" in text
    assert f"dreamer train --resume '{path}' --steps 8" in text
    assert Path(re.search(r"^curve +(.+)$", text, re.M)[1]).is_file()


def test_a_run_that_its_sweep_starts_again_is_resumed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_SWEEP_ID", "s1")
    monkeypatch.setenv("WANDB_RUN_ID", "a/b")
    flags = ["train", *tiny_flags(task="toy:copy", steps=4), "--match-params=True", "--tracking.video=False"]
    assert main(flags) == 0 and main(flags) == 0
    (run,) = (tmp_path / "runs").iterdir()
    assert run.name == "toy_copy_rssm_100k_seed0_a_b"
    resumed, finished = capsys.readouterr().err.splitlines()[-2:]
    assert resumed == f"resuming runs/{run.name}, which belongs to this run of the sweep"
    assert finished.startswith(f"runs/{run.name} is finished at step 4")
    assert open_run(run).config.tracking.video is False


@pytest.mark.parametrize("words", [["--env.shadows=False"], ["--env.shadows", "FALSE"], ["--env.no_shadows=true"]])
def test_booleans_take_true_and_false_in_any_case(words):
    others = ["--match-params", "true", "--no-match-params=false", "--tracking.wandb-name", "true", "--seed", "1"]
    given = train_arguments([*words, *others])
    assert given.config.env.shadows is False and given.match_params is True
    assert given.config.tracking.wandb_name == "true" and given.config.seed == 1


def test_flags_reach_the_configuration(tmp_path):
    flags = [
        *tiny_flags(task="toy:copy", steps=4, seed=3, **{"env.parallel": "on"}),
        "--core",
        "rssm",
        "--latent",
        "gaussian",
    ]
    assert main(["train", *flags, "--run-dir", str(tmp_path / "run")]) == 0
    written = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (written["task"], written["steps"], written["seed"], written["preset"]) == ("toy:copy", 4, 3, "debug")
    assert written["env"]["parallel"] == "on" and written["agent"]["dynamics"]["latent"] == "gaussian"
    assert written["agent"]["dynamics"]["rssm"]["deter"] == 16


def test_options_have_their_place_in_the_configuration_as_a_name_too():
    short = train_arguments(["--core", "gru", "--latent", "gaussian", "--obs", "both", "--objective", "r2"])
    long = train_arguments(
        [
            *("--agent.dynamics.core", "gru", "--agent.dynamics.latent", "gaussian", "--env.obs", "both"),
            *("--agent.world-model.representation.objective", "r2"),
        ]
    )
    assert short.config == long.config != dreamer.compose("quick")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (["--agent.behavior.saturation", "0.25"], ["--agent.behavior.tanh-penalty", "0.25"]),
        (["--agent.behavior.slow-rate=0.25"], ["--agent.behavior.slow-critic-tau=0.25"]),
        (["--agent.behavior.return_rate", "0.25"], ["--agent.behavior.return-ema-rate", "0.25"]),
        (["--loop.film", "never"], ["--loop.video", "never"]),
    ],
)
def test_renamed_options_are_accepted_under_their_old_names(capsys, old, new):
    assert train_arguments(old).config == train_arguments(new).config != dreamer.compose("quick")
    assert with_current_names(old) == new and capsys.readouterr() == ("", "")


def test_renamed_switches_and_sections_keep_their_negations_and_settings():
    renamed = {"tracking.console": "tracking.progress_bar", "quiet": "silent", "world": "model.world_model"}
    old = ["--tracking.no-console", "--no-quiet", "--tracking.no_console=x", "--world.units=3", "--worlds", "quiet"]
    new = ["--tracking.no-progress-bar", "--no-silent", "--tracking.no-progress-bar=x", "--model.world-model.units=3"]
    assert with_current_names(old, renamed) == [*new, "--worlds", "quiet"]


def test_an_older_run_evaluates_and_resumes_with_one_line_about_what_it_lacks(small_run, tmp_path):
    path = shutil.copytree(small_run, tmp_path / "run")
    config = json.loads((path / "config.json").read_text())
    config["loop"]["film"] = config["loop"].pop("video")
    config["agent"]["behavior"]["slow_rate"] = config["agent"]["behavior"].pop("slow_critic_tau")
    del config["loop"]["compile"]
    (path / "config.json").write_text(json.dumps(config))
    line = 'the run\'s configuration has no loop.compile: using "off", as before it existed\n'
    evaluated = run("evaluate", path, "--episodes", "1")
    assert (evaluated.code, evaluated.errors) == (0, line)
    resumed = run("train", "--resume", path, "--steps", "8")
    assert resumed.code == 0 and resumed.errors.count(line) == 1, resumed.errors
    written = json.loads((path / "config.json").read_text())
    assert (written["loop"]["compile"], written["loop"]["video"]) == ("off", "never")


def test_a_run_of_another_version_names_the_commit_that_opens_it(small_run, tmp_path, capsys):
    path = tmp_path / "run"
    shutil.copytree(small_run, path)
    edit_config(loop__new=1)(path)
    info = json.loads((path / "run.json").read_text())
    for commit, ending in (
        ("0123456789abcdef" * 2 + "01234567", "; the run was made at commit 0123456789ab"),
        ("<b>", ""),
    ):
        (path / "run.json").write_text(json.dumps(info | {"commit": commit}))
        assert main(["evaluate", str(path)]) == 2
        assert capsys.readouterr().err.endswith(f"unknown setting loop.new{ending}\n")


def test_evaluate_takes_the_modes_of_policy_and_latent(small_run, capsys, monkeypatch):
    given = []
    act = Agent.act
    monkeypatch.setattr(Agent, "act", lambda self, *args: given.append(args[3:]) or act(self, *args))
    assert main(["evaluate", str(small_run), "--episodes", "3", "--deterministic"]) == 0
    shown = "deterministic actions: return 55.0 +- 0.0 over 3 episodes (worst 55.0, best 55.0), step 4\n"
    assert capsys.readouterr().out == shown and set(given) == {("mode", True)}
    assert "leave out --mode sample" in refused(capsys, "evaluate", small_run, "--mode", "sample", "--deterministic")


def test_evaluate_prints_both_kinds_of_actions_or_one_json_object(small_run, capsys):
    assert main(["evaluate", str(small_run), "--episodes", "3"]) == 0
    text = capsys.readouterr().out
    assert text.splitlines() == [
        "sample actions: return 55.0 +- 0.0 over 3 episodes (worst 55.0, best 55.0), step 4",
        "  mode actions: return 55.0 +- 0.0 over 3 episodes (worst 55.0, best 55.0), step 4",
    ]
    assert main(["evaluate", str(small_run), "--episodes", "3", "--mode", "mode", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["task"] == "toy:counting" and report["mode"]["returns"] == [55.0] * 3 and "sample" not in report
    assert report["step"] == 4


def test_whatever_reads_a_checkpoint_says_which_one_was_damaged(small_run, tmp_path, capsys):
    path = shutil.copytree(small_run, tmp_path / "run")
    damaged = path / "checkpoints" / "step_000000000008.ckpt"
    damaged.write_bytes(b"half")
    line = f"skipped damaged checkpoint {damaged}: "
    imagine = ["imagine", path, "--context", "1", "--horizon", "1", "--episodes", "1", "--shown", "1", "--json"]
    for words in (["evaluate", path, "--episodes", "1", "--json"], imagine):
        assert main(list(map(str, words))) == 0
        output = capsys.readouterr()
        assert json.loads(output.out)["step"] == 4 and output.err.count(line) == 1
    dreamer.load(path)
    assert capsys.readouterr().err.count(line) == 1
    dreamer.resume(path, config=tiny_config(steps=8))
    assert capsys.readouterr().err.count(line) == 1
