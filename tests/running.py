"""Tiny runs, and what they leave, for the tests of the pipeline and of the run machinery."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from tiny import TINY

import dreamer
from dreamer.runs import checkpoint
from dreamer.runs.folder import create_run, open_run
from dreamer.tracking import JsonlWriter, read
from dreamer.training.launch import make_factory
from dreamer.training.load import agent_of
from dreamer.training.plan import Plan, make_plan
from dreamer.training.state import RunState

ROOT = Path(__file__).resolve().parent.parent

AGENT = {
    **{f"agent.{name}": value for name, value in TINY.items()},
    **{f"agent.world_model.{part}.layers": 1 for part in ("encoder", "decoder", "reward", "cont")},
    **{f"agent.behavior.{part}.layers": 1 for part in ("actor", "critic")},
    "agent.dynamics.rssm.prior_layers": 1,
    "agent.dynamics.transformer.window": 4,
    "agent.imagination_horizon": 2,
}
LOOP = {
    "steps": 160,
    "loop.replay_ratio": 1.0,
    "loop.batch_size": 2,
    "loop.batch_length": 4,
    "loop.learning_starts": 8,
    "loop.log_every": 20,
    "loop.eval_every": 80,
    "loop.checkpoint_every": 40,
    "loop.imagine_every": 0,
    "env.parallel": "off",
    "tracking.wandb": "off",
    "tracking.console": False,
}
PIXELS = {
    "task": "dmc:cartpole_swingup",
    "env.obs": "pixels",
    "env.image_size": (16, 16),
    "env.shadows": False,
}
"""The control suite from frames alone."""

HOSTILE = '<script>alert("x")</script>|`[a](http://b)'
"""Text that would be markup wherever it is not escaped."""


def tiny_config(task: str = "toy:counting", **changes: Any) -> dreamer.Config:
    """The debug preset, shrunk until a run takes seconds."""
    return dreamer.compose("debug", task=task, **(AGENT | LOOP | changes))


def tiny_flags(**changes: Any) -> list[str]:
    """The same as flags of `dreamer train`."""
    settings = {"task": "toy:counting", "preset": "debug"} | AGENT | LOOP | changes
    words: list[str] = []
    for name, value in settings.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            section, _, last = flag.rpartition(".")
            words.append(f"--{section}.{'' if value else 'no-'}{last}")
        else:
            words += [f"--{flag}", *map(str, value if isinstance(value, tuple) else [value])]
    return words


def dreamer_command(*words: str | Path, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `dreamer` in a process of its own."""
    command = [sys.executable, "-m", "dreamer", *map(str, words)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)


def forked(function: Callable[[], str]) -> tuple[int, str]:
    """Call `function` in a copy of this process; returns how that ended (negative: the signal) and the answer."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.write(writer, function().encode())
            code = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(code)
    os.close(writer)
    with open(reader) as answer:
        text = answer.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text


def make_run(path: Path, core="rssm", task="toy:copy", seed=0, final=1.0, until=400, steps=400, info=None, **changes):
    """A run folder as training leaves it, without its checkpoints."""
    changes = {"agent.dynamics.core": core, "env.time_limit": 0} | changes
    config = dreamer.compose("debug", task=task, seed=seed, steps=steps, **changes)
    folder = create_run(path, config, "cpu")
    folder.info |= {"parameters": {"dynamics": 1000, "actor": 234}} | (info or {})
    folder.save()
    writer = JsonlWriter(folder.metrics)
    curve = {100: 0.0, 200: final / 2, 300: None, 400: final}
    for step, value in curve.items():
        if step > until:
            break
        # The clock starts again after step 200, as when a run is resumed; updates begin after step 100.
        times = {"time/elapsed": {100: 10.0, 200: 20.0, 300: 5.0, 400: 15.0}[step]}
        rates = {"time/env_steps_per_second": 20.0, "time/updates_per_second": 0.0 if step == 100 else 4.0}
        writer.write(step, step, times | rates | {"loop/updates": step - 100.0})
        if value is not None:
            writer.write(step, step, {"eval/return_mean": value})
    writer.close()
    return path


def timeless(path: Path) -> list[dict[str, Any]]:
    """The records of a run folder without what depends on the clock; never empty."""
    records = [
        {name: value for name, value in record.items() if not name.startswith("time/")}
        for record in read(path / "metrics.jsonl")
    ]
    assert records
    return records


def newest(path: Path) -> dict[str, Any]:
    """The state in the newest checkpoint of a run folder, none of them damaged."""
    _, state, skipped = checkpoint.load(path / "checkpoints")
    assert not skipped
    return state


def differences(left: Any, right: Any, path: str = "") -> list[str]:
    """Where two nested states differ, bit for bit."""
    if isinstance(left, torch.Tensor):
        return [] if torch.equal(left, right) and left.dtype == right.dtype else [path]
    if isinstance(left, dict):
        found = [f"{path}.{key}" for key in left.keys() ^ right.keys()]
        return found + [
            line for key in left.keys() & right.keys() for line in differences(left[key], right[key], f"{path}.{key}")
        ]
    if isinstance(left, (list, tuple)) and len(left) == len(right):
        return [
            line for i, pair in enumerate(zip(left, right, strict=True)) for line in differences(*pair, f"{path}[{i}]")
        ]
    return [] if left == right else [path]


def plan_of(path: Path, make_env: Callable[[], gymnasium.Env] | None = None) -> Plan:
    """The plan with which a run is resumed."""
    folder = open_run(path)
    agent = agent_of(folder.config.agent, newest(path), "meta")
    return make_plan(folder.config, folder.info["device"], make_factory(folder.config, make_env), agent, path)


def restored(path: Path, make_env: Callable[[], gymnasium.Env] | None = None) -> RunState:
    """The state of a run at its newest checkpoint, none of them damaged; close it."""
    run = RunState(plan_of(path, make_env), open_run(path))
    run.load_state_dict(newest(path))
    return run


def replayed(path: Path) -> list[Any]:
    """Every readable row and state of a run's replay, as the newest checkpoint sees it."""
    run = restored(path)
    try:
        ring = run.replay.ring
        places = np.arange(max(0, ring.head - run.replay.capacity), ring.head) % ring.size
        rows = [ring.rows[name][places].tobytes() for name in ring.rows.dtype.names]
        states = [ring.newest(places, np.full_like(places, env)).tobytes() for env in range(ring.num_envs)]
        return [ring.head, rows, states]
    finally:
        run.close()


def assert_same_run(path: Path, twin: Path) -> None:
    """Two runs have the same metrics (times aside), learner, counters, random numbers and replay."""
    assert timeless(path) == timeless(twin)
    left, right = newest(path), newest(twin)
    for state in (left, right):
        del state["metrics_offset"], state["elapsed"]  # times differ, and have as many digits as they like
        state["replay"].pop("live")  # which of two slots holds a state depends on when checkpoints were made
    assert not differences(left, right)
    assert replayed(path) == replayed(twin)
