"""Loading agents and weights from run folders."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from dreamer.agent import Agent, AgentConfig
from dreamer.batch import ActionSpec
from dreamer.errors import UserError
from dreamer.runs import checkpoint as checkpoints
from dreamer.runs.folder import RunFolder, open_run
from dreamer.runs.saved import State, understood
from dreamer.system.device import choose_device
from dreamer.system.redaction import warn
from dreamer.tracking.progress import phase

_Shapes = dict[str, list[int]]
WHOLE = {"all": "", "world_model": "world_model."}
"""Loads that must fit whole -> beginning of the names of their tensors."""
STATISTICS = "world_model.standardizer."
"""Beginning of the names of the running statistics, which belong to the encoder and are loaded whole."""
LISTED = 10
"""Largest number of tensors that a message lists."""


def load(path: Path | str, device: str = "cpu", checkpoint: int | str | None = None) -> Agent:
    """The agent of a run's checkpoint, ready for `agent.act`: the newest, that of a step, or "best" by evaluation.

    Raises `UserError` when the folder holds no usable checkpoint, or not the one that is named.
    """
    return load_with_step(path, device, checkpoint)[0]


def load_with_step(path: Path | str, device: str = "cpu", checkpoint: int | str | None = None) -> tuple[Agent, int]:
    """As `load`, and the environment step of the checkpoint."""
    device, wanted = choose_device(device), _wanted(checkpoint)
    folder = open_run(Path(path))
    with phase("loading"):
        step, state, _ = checkpoints.load(folder.checkpoints, wanted)
        with understood(folder.checkpoints):
            agent = agent_with_weights(folder.config.agent, state)
        return agent.to(device).eval(), step


def _wanted(checkpoint: int | str | None) -> checkpoints.Wanted:
    """The checkpoint that an argument names; raises `UserError` for something else than a step or "best"."""
    if checkpoint is None:
        return None
    if checkpoint == checkpoints.BEST:
        return "best"
    text = str(checkpoint).replace(",", "").replace("_", "")
    if isinstance(checkpoint, bool) or not (text.isascii() and text.isdecimal() and len(text) <= 16):
        raise UserError(f"checkpoint must be a step or best, got {checkpoint!r}")
    return int(text)


def agent_with_weights(config: AgentConfig, state: State) -> Agent:
    """The agent of a checkpoint on the CPU; raises `ValueError` before it takes memory if the weights do not fit."""
    modules = state["agent"]["modules"]
    theirs, own = _shapes(modules), _shapes(agent_of(config, state, "meta").state_dict())
    misfits = [name for name in theirs | own if theirs.get(name) != own.get(name)]
    if misfits:
        raise ValueError(f"its weights have other names or shapes: {misfits[:1]}")
    agent = agent_of(config, state)
    agent.load_state_dict(modules)
    return agent


def agent_of(config: AgentConfig, state: State, device: Literal["cpu", "meta"] = "cpu") -> Agent:
    """A new agent for the environments of a checkpoint; on the meta device it takes no memory."""
    dim, discrete = state["spec"]["action"]
    with torch.device(device):
        return Agent(config, state["spec"]["obs_shapes"], ActionSpec(dim, bool(discrete)))


def parts_of(agent: Agent) -> dict[str, tuple[str, ...]]:
    """The parts of an agent that can be loaded by name -> beginnings of the names of their tensors.

    They are encoder, dynamics, decoder (projector with the objective r2), reward, continue, actor and critic.
    """
    modules = agent.world_model.parts | {"actor": agent.actor_critic.actor, "critic": agent.actor_critic.critic}
    names = {module: f"{name}." for name, module in agent.named_modules()}
    also = {"encoder": (STATISTICS,), "critic": ("actor_critic.slow_critic.",)}
    return {part: (names[module], *also.get(part, ())) for part, module in modules.items()}


def read_weights(path: Path, load: str, agent: Agent) -> dict[str, Any]:
    """Weights of a run's newest checkpoint that fit `agent`; `load` is as in `dreamer.train`.

    Raises `UserError` for an unknown part, for weights that do not fit where all are wanted, and where none fits.
    """
    prefixes = _prefixes(load, agent)
    _, state, _ = checkpoints.load(open_run(path).checkpoints)
    with understood(path):
        weights = {name: value for name, value in state["agent"]["modules"].items() if name.startswith(prefixes)}
        theirs = _shapes(weights)
    ours = {name: shape for name, shape in _shapes(agent.state_dict()).items() if name.startswith(prefixes)}
    misfits = [name for name in theirs | ours if theirs.get(name) != ours.get(name)]
    if any(name.startswith(STATISTICS) for name in misfits):  # a count alone would say that the means are known
        misfits = [name for name in theirs | ours if name in misfits or name.startswith(STATISTICS)]
    differ = [f"{name} is {theirs.get(name, 'missing')} there and {ours.get(name, 'missing')} here" for name in misfits]
    if differ and load in WHOLE:
        parts = ",".join(parts_of(agent))
        raise UserError(
            f"--from {path}: the weights do not fit this task and size: {_listed(differ, 1)}; "
            f"--load {parts} takes the parts of it that fit"
        )
    fitting = {name: value for name, value in weights.items() if name not in misfits}
    if not fitting:
        raise UserError(f"--from {path} --load {load}: nothing to load: {_listed(differ, 1)}")
    if differ:
        warn(f"--from {path} --load {load}: {_left_out(load, agent, fitting, theirs, ours)}")
    return fitting


def _left_out(load: str, agent: Agent, fitting: Collection[str], theirs: _Shapes, ours: _Shapes) -> str:
    """What a load of parts leaves out: parts of which nothing fits, tensors of other shapes, tensors not there."""
    empty = [
        part
        for part in load.replace(" ", "").split(",")
        if not any(name.startswith(_prefixes(part, agent)) for name in fitting)
    ]
    shapes = [
        f"{name} is {theirs[name]} there and {ours[name]} here"
        for name in ours
        if name in theirs and name not in fitting
    ]
    absent = [name for name in ours if name not in theirs]
    lines = [f"{len(fitting)} of {len(ours)} tensors loaded"]
    lines += [f"nothing of {', '.join(empty)}"] if empty else []
    lines += [f"left out: {_listed(shapes, LISTED)}"] if shapes else []
    lines += [f"not there: {_listed(absent, LISTED)}"] if absent else []
    return "; ".join(lines)


def _prefixes(load: str, agent: Agent) -> tuple[str, ...]:
    """Beginnings of the names of the tensors to load."""
    if load in WHOLE:
        return (WHOLE[load],)
    parts = parts_of(agent)
    names = [name.strip() for name in load.split(",")]
    for name in names:
        if name not in parts:
            closest = difflib.get_close_matches(name, parts, n=1)
            hint = f"; did you mean {closest[0]}?" if closest else ""
            raise UserError(f"--load {load}: no part {name!r}{hint} There are all, world_model, {', '.join(parts)}")
    return tuple(prefix for name in names for prefix in parts[name])


def _listed(texts: Sequence[str], most: int) -> str:
    more = len(texts) - most
    return ", ".join(texts[:most]) + (f" and {more} more" if more > 0 else "")


def _shapes(modules: Mapping[str, Any]) -> _Shapes:
    return {name: list(value.shape) for name, value in modules.items()}


def initial_weights(folder: RunFolder, named: Path | str | None, agent: Agent) -> dict[str, Any] | None:
    """Initial weights of a run that never began, from the folder that the user names, never from run.json alone."""
    source = folder.info.get("start_from")
    if source is None and named is not None:
        raise UserError(f"--from {named}: {folder.path} began with weights of its own; resume it without --from")
    if source is None:
        return None
    if named is None:
        other = shlex.quote(source["path"])
        raise UserError(f"{folder.path} began with the weights of another run; if you trust it, add --from {other}")
    folder.info["start_from"] = {"path": str(Path(named).resolve()), "load": source["load"]}
    return read_weights(Path(named), source["load"], agent)
