"""Starting and resuming runs."""

from __future__ import annotations

import shlex
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import envs
from dreamer.config import Config, Effect, changes, override, validated
from dreamer.errors import UserError
from dreamer.experience.joining import replay_files
from dreamer.experience.spaces import long_vectors
from dreamer.runs import checkpoint
from dreamer.runs.folder import RunFolder, create_run, default_path, locked, open_run
from dreamer.runs.provenance import command_line
from dreamer.runs.saved import State, require_complete, understood
from dreamer.runs.trust import check_imports
from dreamer.system import ranks
from dreamer.system.device import choose_device
from dreamer.system.redaction import warn
from dreamer.tracking.destination import as_kept, foreign
from dreamer.training.accelerate import wanted
from dreamer.training.load import agent_of, initial_weights, read_weights
from dreamer.training.loop import Result
from dreamer.training.matching import match_params, parameter_table, reference
from dreamer.training.plan import choose_parallel, dry_run, make_plan, spec_of_factory
from dreamer.training.run import complete_again, run_plan
from dreamer.training.state import Progress, saved_state
from dreamer.training.threads import choose_threads, using
from envs.ranges import flag
from envs.worker import end_unguarded_import


def train(
    config: Config,
    *,
    run_dir: Path | str | None = None,
    make_env: envs.BuildEnv | None = None,
    start_from: Path | str | None = None,
    load: str = "all",
    match: bool = False,
) -> Result:
    """Train a new agent, in this process or as one of those that torchrun has started.

    Args:
        config: the run's configuration, see `dreamer.compose`.
        run_dir: folder to create (default: runs/<task>_...); it must not exist with content.
        make_env: constructor of your own `gymnasium.Env`; `config.task` is then only a name. One with an argument
            `num_envs` returns a `gymnasium.vector.VectorEnv`.
        start_from: run folder whose newest checkpoint gives the initial weights.
        load: weights to take from there: "all", "world_model", or names of parts separated by commas
            (`dreamer.training.load.parts_of`). Of parts, tensors that do not fit keep their initial values, and one
            line lists them.
        match: change the core's width until the agent has as many parameters as with the `rssm` core (within 2 %).

    Raises:
        UserError: for everything that the user can correct.
    """
    end_unguarded_import()
    if start_from is None and load != "all":
        raise UserError(f"--load {load} says what to take from another run: name that run with --from")
    config = validated(_for_started_ranks(config))
    device = choose_device(config.device, config.devices)
    ranks.join(device)
    if ranks.number():
        return _follow(make_env)
    factory = make_factory(config, make_env)
    spec = spec_of_factory(factory)
    if match:
        unmatched, config = config, match_params(config, spec)
    agent = dry_run(spec, config)
    path = Path(run_dir) if run_dir is not None else default_path(config)
    plan = make_plan(config, device, factory, agent, path)
    for line in long_vectors(spec):
        warn(line)
    if match:
        table = parameter_table({"rssm": reference(unmatched), config.agent.dynamics.core: config}, spec)
        warn(*table.split("\n"))
    origin: dict[str, Any] = {}
    weights = None
    if start_from is not None:
        weights = read_weights(Path(start_from), load, agent)
        origin["start_from"] = {"path": str(Path(start_from).resolve()), "load": load}
    if make_env is not None:
        origin["make_env"] = getattr(make_env, "__qualname__", repr(make_env))
    folder = create_run(path, config, device, origin, unique=run_dir is None)
    with locked(folder.path):
        folder.info["parallel"] = choose_parallel(config, factory)
        with using(choose_threads(plan, folder)):
            ranks.first((folder, plan.config, torch.get_num_threads(), None))
            return run_plan(plan, folder, weights=weights)


def resume(
    path: Path | str,
    *,
    config: Config | None = None,
    make_env: envs.BuildEnv | None = None,
    trusted: Collection[str] = (),
    start_from: Path | str | None = None,
) -> Result:
    """Resume a run from its newest checkpoint, to the step count in `config` (default: the run's own).

    A run that died before its first checkpoint is restarted. If it took its initial weights from another run, that run
    must be named again by `start_from`, because anybody may have written a path into the folder.
    A finished run only completes what is missing after its last checkpoint. `config` may differ from the run's in the
    settings that `dreamer.config.changeable` names. Raises `UserError` for other differences and for damaged folders.
    Modules that the run's environments import, and that are not imported yet, must be among those `trusted`. W&B gets
    no data for an entity or a project that only the folder names, unless `wandb-entity=NAME` or `wandb-project=NAME` is
    trusted, or `config` changes it.
    """
    end_unguarded_import()
    folder = open_run(Path(path))
    old, changed = folder.config, dict[str, Effect]()
    if config is not None:
        folder.config = validated(config)
        changed = changes(old, folder.config)
    _require_same_ranks(folder)
    own = {flag(name).removeprefix("--tracking.") for name in changed}
    tracking = as_kept(folder.config.tracking, folder.path, {word.partition("=")[0] for word in trusted} | own)
    config = folder.config = replace(folder.config, tracking=tracking)
    elsewhere = {name: value for name, value in foreign(tracking, trusted).items() if name not in own}
    device = choose_device(*_asked(folder, config))
    ranks.join(device)
    if ranks.number():
        return _follow(make_env)
    factory = make_factory_of(folder, make_env, trusted)
    with locked(folder.path):
        if "parallel" not in folder.info or "env.parallel" in changed:  # absent if it died before it was written
            folder.info["parallel"] = choose_parallel(config, factory)
        if folder.never_began:
            agent = dry_run(spec_of_factory(factory), config)
            plan = make_plan(config, device, factory, agent, folder.path)
            weights = initial_weights(folder, start_from, agent)
            with using(choose_threads(plan, folder)):
                ranks.first((folder, plan.config, torch.get_num_threads(), None))
                return run_plan(plan, folder, weights=weights, foreign=elsewhere)
        if start_from is not None:
            raise UserError(f"--from {start_from}: {path} has weights of its own; resume it without --from")
        step, state, _ = checkpoint.load(folder.checkpoints)
        require_complete(state, folder.checkpoints)
        folder.info.setdefault("resumed", []).append(command_line())
        progress = Progress.of(state)
        if progress.finished(config.steps):
            warn(f"{path} is finished at step {step}; extend it with --steps N, N > {step}")
            result = Result(folder.path, "finished", progress.evaluation, step, state["updates"])
            complete_again(folder, result, state, elsewhere)
            return ranks.first(result)
        if step and not replay_files(folder.replay):
            raise UserError(f"{path} has no replay any more and cannot be extended; start a new run with --from {path}")
        with understood(folder.checkpoints):
            agent = agent_of(config.agent, state, "meta")
            plan = make_plan(_compiled_as_before(folder, old), device, factory, agent, folder.path)
            if "schedule" in changed.values() and "decays" not in state:  # an older version wrote it
                _keep_decays(folder, old, step, state)
        with using(choose_threads(plan, folder, resumed=True, changed="threads" in changed)):
            ranks.first((folder, plan.config, torch.get_num_threads(), step))
            return run_plan(plan, folder, state=state, foreign=elsewhere, replanned="schedule" in changed.values())


def _for_started_ranks(config: Config) -> Config:
    """The configuration with as many `devices` as torchrun has started processes."""
    started = ranks.started()
    if config.devices not in (1, started):
        start = f"`dreamer train --devices {config.devices}` or torchrun --nproc-per-node {config.devices}"
        raise UserError(f"--devices {config.devices} needs as many processes, and there are {started}: use {start}")
    return replace(config, devices=started)


def _require_same_ranks(folder: RunFolder) -> None:
    """Raise `UserError` unless torchrun has started as many processes as have trained the run so far."""
    before, now = folder.config.devices, ranks.started()
    if before != now:
        start = f"dreamer train --resume {shlex.quote(str(folder.path))}"
        many = f"{before} processes" if before > 1 else "one process"
        raise UserError(f"{folder.path} is trained by {many}, not by {now}; `{start}` without torchrun starts {many}")


def _asked(folder: RunFolder, config: Config) -> tuple[str, int]:
    """Device and number of processes with which a run is resumed.

    Several processes keep only the kind of device, since each has a GPU of its own.
    """
    former = folder.info["device"]
    former = former.partition(":")[0] if config.devices > 1 else former
    return (config.device if config.device != "auto" else former), config.devices


def _follow(make_env: envs.BuildEnv | None) -> Result:
    """Train as another rank than 0 in the run that rank 0 has opened or created."""
    try:
        message: Any = ranks.first(None)
    except ranks.LostRank:  # rank 0 has said why
        raise SystemExit(2) from None
    if isinstance(message, Result):
        return message
    folder, config, threads, step = message
    state = None
    device = choose_device(*_asked(folder, config))
    factory = make_factory(config, make_env)
    if step is None:
        agent = dry_run(spec_of_factory(factory), config)
    else:
        _, state = saved_state(folder, step)
        agent = agent_of(config.agent, state, "meta")
    with using(threads):
        return run_plan(make_plan(config, device, factory, agent, folder.path), folder, state=state)


def make_factory(config: Config, make_env: envs.BuildEnv | None = None) -> envs.EnvFactory:
    """The recipe for this run's environments."""
    return envs.EnvFactory(config.task, config.seed, envs.EnvSettings.of(config.env), config.env.imports, make_env)


def make_factory_of(
    folder: RunFolder,
    make_env: envs.BuildEnv | None = None,
    trusted: Collection[str] = (),
    advice: str = "dreamer.resume(path, make_env={})",
) -> envs.EnvFactory:
    """The constructor of an existing run's environments; raises `UserError` when only its user can make them.

    A run folder alone does not make this process import a module: the user must have named it in `trusted`. `advice` is
    the call from Python that a run made with `make_env` needs, with {} in place of the constructor's name.
    """
    if make_env is None and "make_env" in folder.info:
        name = folder.info["make_env"]
        raise UserError(f"{folder.path} was trained with make_env={name}; use {advice.format(name)}")
    check_imports(folder.config, trusted, folder.path, () if make_env is None else ("the user's own",))
    return make_factory(folder.config, make_env)


def _compiled_as_before(folder: RunFolder, old: Config) -> Config:
    """The configuration, which compiles if the run did: `auto` must not choose again because `steps` changed."""
    config, choice = folder.config, folder.config.loop.compile
    compiled = folder.numerics.setdefault("compiled", wanted(old.loop.compile, old.planned_updates))
    if choice == old.loop.compile and compiled != wanted(choice, config.planned_updates):
        choice = "on" if compiled else "off"
    return override(config, {"loop.compile": choice})


def _keep_decays(folder: RunFolder, old: Config, step: int, state: State) -> None:
    """Add to a checkpoint of an older version how its settings decayed, before config.json forgets it."""
    rate, entropy = old.agent.optimizer.decay, old.agent.behavior.entropy_decay
    lengths = {"learning rate": rate, "entropy bonus": entropy, "learning rate of vision": rate}
    state["decays"] = {name: [0.0, 1.0, float(length)] for name, length in lengths.items()}
    checkpoint.save(folder.checkpoints, step, state, folder.config.loop.keep_checkpoints)
