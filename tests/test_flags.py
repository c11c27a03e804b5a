"""All flags of all verbs: every number has bounds, and no value of any of them gets a traceback.

The options, their types and their choices are those of the parsers, and the bounds those of the fields. A command runs
up to where training or measuring begins. CI tries 200 command lines, always the same. More, which are others:

    DREAMER_FUZZ_EXAMPLES=1000 python -m pytest tests/test_flags.py -k fuzz --timeout 0 --hypothesis-show-statistics
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import math
import os
import re
import shutil
import time
import types
from contextlib import closing
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
import torch
import tyro
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st
from running import tiny_config
from test_cli import everything_below, refused
from tiny import CONTINUOUS, OBS, PIXELS, TINY, make_agent, make_batch, unchecked

import dreamer
from dreamer.agent import Agent
from dreamer.cli.main import COMMANDS, main
from dreamer.cli.parsing import REGISTRY
from dreamer.config import compose, from_json, override, to_json
from dreamer.dynamics import LATENTS
from dreamer.errors import UserError
from dreamer.experiments.exam import exam
from dreamer.runs.folder import open_run
from dreamer.training import launch
from dreamer.training.plan import update_bytes
from dreamer.training.state import RunState
from envs import EnvSettings
from envs.ranges import _bounds, checked, range_of

DMC = "dmc:cartpole_balance"
SECONDS = 20
"""Most time of the processor that a command line may take; the machine may be busy with something else."""


def parsed_by(verb: str) -> tuple[type, Any]:
    """The dataclass that a verb gives its parser, and the default."""
    seen: list[tuple[type, Any]] = []

    def cli(kind: type, default: Any = None, **_: Any) -> None:
        seen.append((kind, default))
        raise SystemExit(0)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(tyro, "cli", cli)
        main([verb])
    return seen[0]


PARSED = {verb: parsed_by(verb) for verb in COMMANDS}
KINDS = {verb: kind for verb, (kind, _) in PARSED.items()}
"""The arguments of every verb."""


# Bounds


def leaves(kind: type, prefix: str = "") -> dict[str, Any]:
    """Dotted path and type of every field of nested dataclasses."""
    found = {}
    hints = get_type_hints(kind, include_extras=True)
    for name, hint in ((field.name, hints[field.name]) for field in dataclasses.fields(kind)):
        bare = get_args(hint)[0] if hasattr(hint, "__metadata__") else hint
        found |= leaves(bare, f"{prefix}{name}.") if dataclasses.is_dataclass(bare) else {f"{prefix}{name}": hint}
    return found


def numbers(hint: Any) -> list[Any]:
    """The numbers within a type, each with the metadata that stands on it."""
    inner = get_args(hint)[0] if hasattr(hint, "__metadata__") else hint
    if inner in (int, float, int | float):
        return [hint]
    if get_origin(inner) in (tuple, Union, types.UnionType):
        return [number for one in get_args(inner) for number in numbers(one)]
    assert inner in (bool, str, Path, type(None), ...) or get_origin(inner) is Literal, (
        f"a type without a rule: {inner}"
    )
    return []


@pytest.mark.parametrize("kind", [*KINDS.values(), EnvSettings])
def test_every_number_has_bounds(kind):
    for path, hint in leaves(kind).items():
        for number in numbers(hint):
            assert re.fullmatch(r"\S+ to \S+|above \S+ to \S+|\S+ to below \S+", range_of(number)), path


def options_of(kind: type, default: Any) -> list[argparse.Action]:
    """Options and positional arguments of the parser of these arguments."""
    with REGISTRY:
        parser = tyro.extras.get_parser(kind, **({} if default is None else {"default": default}))
    return [action for action in parser._actions if action.dest != "help"]


ACTIONS = {verb: options_of(*parsed) for verb, parsed in PARSED.items()}


def path_of(action: argparse.Action) -> str:
    """Dotted path of the field behind an option."""
    return action.dest.replace("-", "_")


def bounds_of(verb: str, action: argparse.Action) -> tuple[float, float] | None:
    """Least and largest value of a number."""
    hint = leaves(KINDS[verb])[path_of(action)]
    if not numbers(hint):
        return None
    entries = {type(entry).__name__: entry for entry in _bounds(hint)}
    low = entries["Ge"].ge if "Ge" in entries else entries["Gt"].gt
    return low, entries["Le"].le if "Le" in entries else entries["Lt"].lt


@pytest.mark.parametrize("verb", COMMANDS)
def test_the_help_shows_the_range_of_every_number(verb):
    """Every option with a number in its metavar is found among the fields, and its range stands beside its default."""
    shown = 0
    for action in ACTIONS[verb]:
        bounds = bounds_of(verb, action)
        assert (bounds is not None) == bool(re.search("INT|FLOAT", str(action.metavar))), action.option_strings
        if bounds:
            shown += 1
            assert re.search(r"\(default: .*; .*\bto\b.*\)", action.help), action.help
    assert shown == sum(bool(numbers(hint)) for hint in leaves(KINDS[verb]).values())


@pytest.mark.parametrize("path", [path for path, hint in leaves(dreamer.Config).items() if numbers(hint)])
def test_a_number_above_its_bound_is_refused_from_python_and_from_a_folder(path):
    hint = numbers(leaves(dreamer.Config)[path])[0]
    huge = 10**400 if int in (hint, *get_args(hint)) else 1e300
    value = (64, huge) if path == "env.image_size" else huge
    with unchecked(), pytest.raises(UserError, match="--" + path.replace("_", "-")) as error:
        compose(**{path: value})
    assert len(str(error.value)) < 300
    with unchecked(), pytest.raises(UserError, match="--" + path.replace("_", "-")):
        from_json(to_json(override(compose(), {path: value})))


def test_settings_of_a_verb_are_checked_from_python():
    with unchecked(), pytest.raises(UserError, match=r"--seeds: .* 1000 \(got 10+\.\.\. of 101 characters\)"):
        exam.exam(exam.ExamArguments(seeds=10**100))
    assert checked(exam.ExamArguments(seeds=1000)) == exam.ExamArguments(seeds=1000)


# Known mistakes, in a folder of its own; `run` is a run of four steps

NINES = "9" * 400
LINES = {
    f"train --steps {NINES}": r"--steps: .* 1000000000000 \(got 9+\.\.\. of 400 characters\)",
    f"train --steps {'9' * 5000}": r"error parsing --steps: ",
    "train --loop.epsilon 0.1 --loop.epsilon-hold 10000000000000000000": r"--loop\.epsilon-hold: ",
    "train --loop.batch-size 9223372036854775807": r"--loop\.batch-size: .* 65536 ",
    f"train --agent.optimizer.decay 1{'0' * 30}": r"--agent\.optimizer\.decay: ",
    "train --agent.behavior.actor.units 2147483648": r"--agent\.behavior\.actor\.units: .* 65536 ",
    "train --agent.world-model.decoder.layers 1000000000000": r"--agent\.world-model\.decoder\.layers: .* 32 ",
    "train --agent.behavior.max-std 1e38": r"--agent\.behavior\.max-std: .* 100 \(got 1e\+38\)",
    "train --agent.optimizer.epsilon 1e-320": r"--agent\.optimizer\.epsilon: ",
    "train --agent.optimizer.momentum nan": r"--agent\.optimizer\.momentum: .*nan",
    f"train --task {'x' * 100_000}": r"unknown task 'x+\.\.\.$",
    f"train --size {'9' * 100_000}": r"unknown size '9+\.\.\.$",
    f"exam --seeds 1{'0' * 30}": r"--seeds: .* 1000 ",
    "exam --effort inf": r"--effort: .* 100 \(got inf\)",
    "ablate --tasks toy:copy --seeds 1001": r"--seeds: .* 1000 ",
    "ablate --tasks toy:copy --jobs 100000": r"--jobs: .* 1000 ",
    "bench --updates 10000000000": r"--updates: .* 65536 ",
    "bench --against '": r"--against ': No closing quotation",
    "evaluate run --episodes 1000000000": r"--episodes: .* 1000 ",
    "evaluate run --flicker nan": r"--flicker: .*nan",
    "evaluate run --obs-noise 1e400": r"--obs-noise: .*inf",
    "imagine run --horizon 1000000000": r"--horizon: .* 65536 ",
    "exam --folder run": r"run already exists and is not an exam; choose another --folder",
    "exam --task dmc:cartpole_jump --folder new": r"unknown task 'dmc:cartpole_jump'",
    # Each in its range, but not together
    "train --task toy:copy --loop.batch-size 65536 --loop.batch-length 65536": r"training updates need at least .* GB",
    "train --task toy:copy --loop.batch-size 65536 --agent.imagination-horizon 65536": r"lower --loop\.batch-size",
    "train --task toy:copy --agent.dynamics.rssm.deter 65536 --agent.dynamics.rssm.hidden 65536": r"million parameters",
    "train --task toy:copy --agent.dynamics.rssm.stoch 65536 --agent.dynamics.rssm.classes 65536": r"million param",
    f"train --task {DMC} --obs pixels --env.image-size 4096 4096": r"(would not fit|need at least)",
    f"train --task {DMC} --obs pixels --agent.world-model.image.depth 1000 --loop.batch-size 9999": r"need at least",
    "train --task toy:copy --match-params --core ssm --agent.dynamics.rssm.blocks 7": r"must be a multiple of its 7",
    "bench --task toy:copy --loop.batch-size 65536 --loop.batch-length 65536": r"training updates need at least",
    "ablate --tasks toy:copy --loop.batch-size 65536 --loop.batch-length 65536": r"training updates need at least",
    "imagine run --episodes 1000 --samples 65536 --context 65536": r"predictions need at least .* lower --episodes",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a run of four steps and a file."""
    path = tmp_path_factory.mktemp("flags")
    dreamer.train(tiny_config("toy:copy", steps=4), run_dir=path / "run")
    (path / "file").write_text("mine")
    return path


@pytest.mark.parametrize("line", LINES)
def test_an_impossible_number_gets_one_line_and_leaves_nothing_behind(place, monkeypatch, capsys, line):
    monkeypatch.chdir(place)
    before, began = everything_below(place), time.process_time()
    message = refused(capsys, *line.split())
    assert re.search(LINES[line], message) and len(message) < 2100
    assert everything_below(place) == before and time.process_time() - began < SECONDS


@pytest.mark.parametrize("core", LATENTS)
@pytest.mark.parametrize("obs", [OBS, PIXELS])
def test_no_more_memory_is_asked_for_than_an_update_keeps(core, obs):
    """Between a third and all of what autograd keeps, parameters aside, so that no run is refused that would fit."""
    changes = {"dynamics.core": core, "precision": "float32"}
    config = compose("debug", "100k", **{"loop.batch_size": 3, "loop.batch_length": 5})
    config = override(config, {f"agent.{name}": value for name, value in (TINY | changes).items()})
    agent = make_agent(config=config.agent, action=CONTINUOUS, obs=obs)
    kept: dict[int, int] = {}
    own = {param.untyped_storage().data_ptr() for param in agent.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        tensors.append(tensor)
        return tensor

    tensors: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        agent.loss(make_batch(agent, 3, 5))
    assert sum(kept.values()) / 3 < update_bytes(agent, config, "cpu") < sum(kept.values())


# Fuzz


class Started(Exception):
    """Training, or what takes long, would begin now."""


def start(*_: Any, **__: Any) -> None:
    raise Started


def build(plan: Any, folder: Any, **_: Any) -> None:
    """In place of a training: the agent and, of a small run in this process, everything else."""
    config = plan.config
    assert from_json(to_json(config)) == config == open_run(folder.path).config
    agent = launch.dry_run(plan.spec, config)
    small = sum(param.numel() for param in agent.parameters()) < 2e6
    if small and config.env.num_envs <= 8 and not folder.info["parallel"]["on"] and config.env.obs == "state":
        with closing(RunState(plan, folder)) as run:
            run.begin()
            run.collector.act()
    elif small:
        Agent(config.agent, *plan.spec)
    raise Started


ODD = [
    "", "nan", "inf", "-inf", "-0", "-0.0", "1e400", "1e-400", "5e-324", NINES, "-" + NINES, "9" * 5000, "0x10", "1_0",
    "1e3", "٣", "１２", " 5 ", "true", "None", "-1", "0", str(2**31), str(2**63 - 1), str(2**63), "x" * 300, "日本 ü",
    "\udcff", "a\nb", "\x1b[2J", "--", "-", "[1,2]", "${HOME}", "%s", "1,2",
]  # fmt: skip
PATHS = ["run", "file", "missing", "", ".", "new/er/folder", "ñ 日本", "y" * 300, "/dev/null", "/proc/self/x", "run/x"]
WORDS = {
    "task": ["toy:copy", "toy:counting", "toy:push", "gym:CartPole-v1", "gym:Pendulum-v1", DMC, "toy:", "gym:x", "x"],
    "tasks": ["toy:copy", "toy:copy,toy:push", DMC, "toy:nothing", ""],
    "cores": ["all", "rssm", "ssm:gaussian", "gru,rnn", "rsm", "gru:categorical", ""],
    "objectives": ["r2", "reconstruction", "r3", ""],
    "imports": ["json", "no_such_module", "../x", "", "a b"],
    "kwargs": ["size=5", "x=[1,2]", "x", "=", "a=b", "length=9"],
    "hide": ["velocities", "cue", "position", "zzz", ""],
    "against": ["--size 300k", "--loop.batch-size 9", "--x", "'", ""],
}
STARTED = ["--task", "toy:copy", "--size", "100k"]
"""Options in front of the drawn ones, which keep most command lines small."""
FIRST = {"train": STARTED, "bench": STARTED, "ablate": ["--tasks", "toy:copy", "--cores", "rssm", "--size", "100k"]}
VERBS = [*["train"] * 12, *["ablate"] * 3, *["bench", "exam", "evaluate", "imagine"] * 2, "diagnose", "track", "report"]
VERBS += ["debug-batch", "tasks", "doctor"]


def in_range(low: float, high: float, whole: bool) -> st.SearchStrategy[str]:
    """Values within bounds, of every order of magnitude, and the bounds themselves."""
    if whole:
        small = st.integers(int(low), int(min(high, low + 64)))
        scaled = st.floats(0, math.log2(high - low + 1)).map(lambda x: int(low + 2**x - 1))
        return st.one_of(small, scaled, st.sampled_from([int(low), int(high)])).map(str)
    return st.one_of(st.floats(low, min(high, low + 2)), st.floats(low, high), st.sampled_from([low, high])).map(repr)


@functools.cache
def values(verb: str, place: int) -> st.SearchStrategy[list[str]]:
    """Words of one option: its name and values."""
    action = ACTIONS[verb][place]
    bounds, name = bounds_of(verb, action), path_of(action)
    if action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction):
        return st.sampled_from(action.option_strings).map(lambda option: [option])
    if action.choices:
        good = st.sampled_from([str(choice) for choice in action.choices])
    elif bounds:
        good = in_range(*bounds, "FLOAT" not in str(action.metavar))
    elif "PATH" in str(action.metavar):
        good = st.sampled_from(PATHS)
    else:
        good = st.sampled_from(WORDS.get(name.rpartition(".")[2], ["a", "b c"]))
    word = good if name in ("run", "folder", "file", "contains") else st.one_of(*[good] * 6, st.sampled_from(ODD))
    count = max(1, len(re.findall("INT|FLOAT", str(action.metavar)))) if isinstance(action.nargs, int) else 1
    several = st.lists(word, min_size=count, max_size=count)
    if not action.option_strings:
        return several
    option = st.sampled_from(action.option_strings)
    return st.one_of(
        st.tuples(option, several).map(lambda pair: [pair[0], *pair[1]]),
        st.tuples(option, word).map(lambda pair: [f"{pair[0]}={pair[1]}"]),
    )


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    verb = draw(st.sampled_from(VERBS))
    positional = [i for i, action in enumerate(ACTIONS[verb]) if not action.option_strings]
    optional = [i for i in range(len(ACTIONS[verb])) if i not in positional]
    chosen = draw(st.lists(st.sampled_from(optional), max_size=7, unique=True)) if optional else []
    words = [word for i in [*positional, *chosen] for word in draw(values(verb, i))]
    return [verb, *FIRST.get(verb, []), *words]


@pytest.fixture
def stopped(place, monkeypatch):
    """Nothing trains, records, measures or sends; a run is built and no more."""
    monkeypatch.chdir(place)
    monkeypatch.setattr(launch, "run_plan", build)
    for path in (
        "cli.evaluate.Evaluator",
        "cli.evaluate.record_video",
        "cli.imagine.evaluate",
        "cli.track._to_wandb",
        "cli.track._to_tensorboard",
        "experiments.ablation.sweep.do_all",
        "experiments.bench.costs.choose_parallel",
        "experiments.bench.doctor.doctor",
        "experiments.exam.exam._trained",
        "experiments.exam.exam._speed",
        "experiments.report.run_report.write_run_report",
        "experiments.report.ablation_report.write_ablation_report",
    ):
        monkeypatch.setattr(f"dreamer.{path}", start)


@settings(
    max_examples=int(os.environ.get("DREAMER_FUZZ_EXAMPLES", 200)),
    derandomize="DREAMER_FUZZ_EXAMPLES" not in os.environ,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
    deadline=None,
)
@given(words=command_lines())
def test_fuzz_of_all_flags(place, stopped, capsys, words):
    trouble, ended = trouble_with(words, place, capsys)
    event(f"{words[0]} {ended}")
    assert not trouble, words


def trouble_with(words: list[str], place: Path, capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """Forbidden effect of a command line ("" for none), and its end."""
    before, began = everything_below(place), time.process_time()
    ended: int | str = "started"
    try:
        with unchecked():
            ended = main(words)
    except Started:
        for path in place.iterdir():
            if path.name not in ("run", "file"):
                shutil.rmtree(path)
    except SystemExit as stop:
        ended = stop.code or 0
    except Exception as error:
        return f"{type(error).__name__}: {error}", "failed"
    taken, (out, err) = time.process_time() - began, capsys.readouterr()
    after = everything_below(place)
    for lock in [path for path in {**before, **after} if path.name == ".lock"]:
        before.pop(lock, None), after.pop(lock, None)
    one_line = err.startswith("dreamer: ") and err.count("\n") == 1 and len(err) < 2100 and not out
    found = {
        f"took {taken:.1f} s": taken >= SECONDS,
        f"ended in {ended}": ended not in ("started", 0, 1, 2),
        f"not one line: {out}{err}": ended == 2 and not one_line,
        f"left {set(after) ^ set(before)}": after != before,
    }
    return ", ".join(trouble for trouble, true in found.items() if true), str(ended)
