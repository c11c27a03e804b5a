"""Starting, resuming and loading runs: what `import dreamer` offers."""

from __future__ import annotations

import dataclasses
import shlex
import signal
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Literal, get_args

import gymnasium
import torch

import envs
from dreamer import checkpoint, run
from dreamer.agent import Agent
from dreamer.batch import ActionSpec
from dreamer.config import Config, validated
from dreamer.errors import UserError
from dreamer.forecast import forecast, require_room
from dreamer.matching import Spec, match_params, parameter_table, reference
from dreamer.memory import require_memory
from dreamer.redaction import tell
from dreamer.run import RunFolder
from dreamer.session import layout_of
from dreamer.spaces import spec_of
from dreamer.tracking import open_tracker
from dreamer.tracking.curve import draw_curve
from dreamer.tracking.destination import foreign
from dreamer.train import Result, Trainer
from dreamer.trust import check_counters, check_imports, understood

Load = Literal["all", "world_model"]
MakeEnv = Callable[[], gymnasium.Env]
CHANGEABLE = {"steps", "device", "tracking"}


def train(
    config: Config,
    *,
    run_dir: Path | str | None = None,
    make_env: MakeEnv | None = None,
    start_from: Path | str | None = None,
    load: Load = "all",
    match: bool = False,
) -> Result:
    """Train a new agent.

    Args:
        config: the run's configuration, see `dreamer.compose`.
        run_dir: folder to make (default: runs/<task>_...); it must not exist with content.
        make_env: constructor of your own `gymnasium.Env`; `config.task` is then only a name.
        start_from: run folder whose newest checkpoint gives the initial weights.
        load: which weights to take from there.
        match: change the core's width until the agent has as many parameters as with the `rssm` core (within 2 %).

    Raises:
        UserError: for anything the user can put right.
    """
    if start_from is None and load != "all":
        raise UserError(f"--load {load} says what to take from another run: name that run with --from")
    config = validated(config)
    device = run.choose_device(config.device)
    factory = make_factory(config, make_env)
    spec = spec_of_factory(factory)
    if match:
        matched = match_params(config, spec)
        table = parameter_table({"rssm": reference(config), config.agent.dynamics.core: matched}, spec)
        tell(*table.split("\n"))
        config = matched
    agent = dry_run(spec, config)
    place = Path(run_dir) if run_dir is not None else run.default_path(config)
    require_memory(agent, device)
    require_room(forecast(config, layout_of(agent)), place)
    weights = _read_weights(Path(start_from), load, agent) if start_from is not None else None
    origin: dict[str, Any] = {}
    if start_from is not None:
        origin["start_from"] = {"path": str(Path(start_from).resolve()), "load": load}
    if make_env is not None:
        origin["make_env"] = getattr(make_env, "__qualname__", repr(make_env))
    folder = run.create(place, config, device, origin)
    with folder.locked():
        folder.info["parallel"] = choose_parallel(config, factory)
        return _run(folder, factory, None, weights)


def resume(
    path: Path | str,
    *,
    config: Config | None = None,
    make_env: MakeEnv | None = None,
    trusted: Collection[str] = (),
    start_from: Path | str | None = None,
) -> Result:
    """Go on with a run from its newest checkpoint, to the step count in `config` (default: the run's own).

    A run that died before its first checkpoint begins again; one that took its first weights from another run takes
    them from `start_from`, and from nowhere else, since whoever made the folder may have written any path into it.
    `config` may differ from the run's in `steps`, `device` and `tracking`; raises `UserError` for other differences,
    for damaged folders, and when there is nothing left to do. Modules that the run's environments import, and that are
    not imported yet, must be among those `trusted`. W&B gets nothing for an entity or a project that the folder alone
    names, unless `wandb-entity=NAME` or `wandb-project=NAME` are trusted, or `config` changes them.
    """
    folder = run.open_run(Path(path))
    elsewhere = foreign(folder.config.tracking, trusted)
    if config is not None:
        folder.config = _with_allowed_changes(folder.config, validated(config))
        now = foreign(folder.config.tracking)
        elsewhere = {name: value for name, value in elsewhere.items() if now.get(name) == value}
    if folder.config.device != "auto":
        folder.info["device"] = folder.config.device
    folder.info["device"] = run.choose_device(folder.info["device"])
    factory = make_factory_of(folder, make_env, trusted)
    with folder.locked():
        kept = folder.info.get("parallel")
        if not (isinstance(kept, dict) and isinstance(kept.get("on"), bool)):  # it died before it was written
            folder.info["parallel"] = choose_parallel(folder.config, factory)
        if folder.never_began:
            agent = dry_run(spec_of_factory(factory), folder.config)
            return _run(folder, factory, None, _first_weights(folder, start_from, agent), elsewhere)
        if start_from is not None:
            raise UserError(f"--from {start_from}: {path} has begun and has weights of its own; go on without --from")
        step, state, skipped = checkpoint.load(folder.checkpoints)
        for line in skipped:
            tell(line)
        with understood(folder.checkpoints):
            check_counters(state, step)
        folder.info.setdefault("resumed", []).append(run.command_line())
        if step >= folder.config.steps and state["evaluated_at"] == step:
            raise UserError(f"{path} is finished at step {step}; extend it with --steps N, N > {step}")
        with understood(folder.checkpoints):
            layout = layout_of(_agent(folder, state, "meta"))
        require_room(forecast(folder.config, layout), folder.path)
        return _run(folder, factory, state, None, elsewhere)


def load(path: Path | str, device: str = "cpu") -> Agent:
    """The agent of a run's newest checkpoint, ready for `agent.act`.

    Raises `UserError` when the folder holds no usable checkpoint.
    """
    return load_with_step(path, device)[0]


def load_with_step(path: Path | str, device: str = "cpu") -> tuple[Agent, int]:
    """As `load`, and the environment step of the checkpoint."""
    folder = run.open_run(Path(path))
    step, state, _ = checkpoint.load(folder.checkpoints)
    with understood(folder.checkpoints):
        modules = state["agent"]["modules"]
        misfits = _misfits(modules, _agent(folder, state, "meta"))  # before memory is taken for what the folder claims
        if misfits or not modules:
            raise ValueError(f"its weights are others: {misfits[:1]}")
        agent = _agent(folder, state)
        agent.load_state_dict(modules)
    return agent.to(run.choose_device(device)).eval(), step


def make_factory(config: Config, make_env: MakeEnv | None = None) -> envs.EnvFactory:
    """The recipe for this run's environments."""
    env = config.env
    return envs.EnvFactory(
        config.task,
        config.seed,
        env.repeat,
        env.time_limit,
        hide=env.hide,
        flicker=env.flicker,
        obs_noise=env.obs_noise,
        obs=env.obs,
        image_size=env.image_size,
        camera=env.camera,
        shadows=env.shadows,
        imports=env.imports,
        custom=make_env,
    )


def choose_parallel(config: Config, factory: envs.EnvFactory) -> dict[str, Any]:
    """Whether environments step in parallel ("on"), and what `auto` chose it by, as run.json keeps it.

    A run that has fewer threads than there are cores shares them with others, and counts on no more processes.
    """
    if config.env.parallel != "auto":
        return {"on": config.env.parallel == "on"}
    processes = min(envs.cores(), torch.get_num_threads())
    pace = envs.measure_pace(factory, config.env.num_envs, processes, config.env.timeout)
    if config.tracking.console and processes > 1:
        tell(str(pace))
    seconds = {"step": pace.step, "in_turn": pace.in_turn, "in_parallel": pace.in_parallel}
    return {"on": pace.parallel, "processes": pace.processes, "seconds": seconds}


def make_factory_of(
    folder: RunFolder, make_env: MakeEnv | None = None, trusted: Collection[str] = ()
) -> envs.EnvFactory:
    """The recipe for the environments of an existing run; raises `UserError` when only its user can make them.

    A run folder alone does not make this process import a module: the user must have named it in `trusted`.
    """
    if make_env is None and "make_env" in folder.info:
        name = folder.info["make_env"]
        raise UserError(f"{folder.path} was trained with make_env={name}; use dreamer.resume(path, make_env={name})")
    if make_env is None:
        check_imports(folder.config, trusted, folder.path)
    return make_factory(folder.config, make_env)


def _agent(folder: RunFolder, state: dict[str, Any], device: Literal["cpu", "meta"] = "cpu") -> Agent:
    """A new agent for the environments of a checkpoint; on the meta device it takes no memory."""
    spec = state["spec"]
    with torch.device(device):
        return Agent(folder.config.agent, spec["obs_shapes"], ActionSpec(*spec["action"]))


def _first_weights(folder: RunFolder, named: Path | str | None, agent: Agent) -> dict[str, Any] | None:
    """Weights with which a run begins again, read from the folder that the user names and never from run.json's."""
    source = folder.info.get("start_from")
    if source is None and named is not None:
        raise UserError(f"--from {named}: {folder.path} began with weights of its own; go on without --from")
    if source is None:
        return None
    if not (isinstance(source, dict) and isinstance(source.get("path"), str) and source.get("load") in get_args(Load)):
        raise UserError(f"{folder.path / 'run.json'}: start_from does not say where its first weights come from")
    if named is None:
        other = shlex.quote(source["path"])
        raise UserError(f"{folder.path} began with the weights of another run; if you trust it, add --from {other}")
    folder.info["start_from"] = source | {"path": str(Path(named).resolve())}
    return _read_weights(Path(named), source["load"], agent)


def _run(
    folder: RunFolder,
    factory: envs.EnvFactory,
    state: dict[str, Any] | None,
    weights: dict[str, Any] | None,
    elsewhere: Mapping[str, str] | None = None,
) -> Result:
    trainer = Trainer(folder, factory)
    try:
        if weights is not None:
            trainer.agent.load_state_dict(trainer.agent.state_dict() | weights)
        if state is None:
            trainer.begin()
        with understood(folder.checkpoints):
            offset = trainer.restore(state) if state is not None else None
        folder.info["parameters"] = trainer.agent.parameter_counts()
        expected = forecast(folder.config, trainer.replay.layout)
        folder.info["replay"] = {"bytes_per_row": expected.row_bytes, "rows": expected.rows, "bytes": expected.total}
        if folder.config.tracking.console:
            tell(str(expected))
        folder.save()
        config = dataclasses.asdict(folder.config)
        tracker = open_tracker(
            folder.config.tracking, folder.path, folder.info, config, folder.config.steps, offset, elsewhere
        )
        trainer.tracker = tracker
        try:
            with _graceful_stop(trainer):
                result = trainer.train()
        except BaseException:
            tracker.close("failed")
            raise
        tracker.summary(result.evaluation)
        tracker.close(result.status)
        draw_curve(folder.metrics, folder.path / "curve.png", title=folder.config.task)
        return result
    finally:
        trainer.close()


@contextmanager
def _graceful_stop(trainer: Trainer) -> Iterator[None]:
    """On SIGINT or SIGTERM finish the step, save and return; a second signal ends the process at once."""

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        tell(f"{signal.Signals(number).name} received: saving a checkpoint, then stopping")
        trainer.stop_signal = number

    try:
        previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: the caller owns the signals
        previous = {}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def spec_of_factory(factory: envs.EnvFactory) -> Spec:
    """Make one environment to learn its spaces, so that mistakes are told before a folder exists."""
    env = factory(0)
    try:
        return Spec(*spec_of(env.observation_space, env.action_space))
    finally:
        env.close()


def dry_run(spec: Spec, config: Config) -> Agent:
    """An agent that takes no memory; raises `UserError` when none can be built."""
    try:
        with torch.device("meta"):
            return Agent(config.agent, spec.obs_shapes, spec.action)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"no such agent can be built: {error}") from error


def _with_allowed_changes(old: Config, new: Config) -> Config:
    changed = [f.name for f in dataclasses.fields(old) if getattr(old, f.name) != getattr(new, f.name)]
    refused = sorted(set(changed) - CHANGEABLE)
    if refused:
        allowed = ", ".join(f"--{name}" for name in sorted(CHANGEABLE))
        raise UserError(f"a resumed run cannot change {', '.join(refused)}; only {allowed}. Use --from for a new run")
    return new


def _read_weights(path: Path, load: Load, agent: Agent) -> dict[str, Any]:
    """Weights of a run's newest checkpoint that fit `agent`; raises `UserError` when one does not."""
    _, state, _ = checkpoint.load(run.open_run(path).checkpoints)
    prefix = "world_model." if load == "world_model" else ""
    with understood(path):
        weights = {name: value for name, value in state["agent"]["modules"].items() if name.startswith(prefix)}
        theirs = {name: list(value.shape) for name, value in weights.items()}
    ours = {name: list(value.shape) for name, value in agent.state_dict().items() if name.startswith(prefix)}
    misfits = [name for name in {**theirs, **ours} if theirs.get(name) != ours.get(name)]
    if misfits:
        name, more = misfits[0], f" and {len(misfits) - 1} more differ" if len(misfits) > 1 else ""
        shapes = f"{name} is {theirs.get(name, 'missing')} there and {ours.get(name, 'missing')} here"
        raise UserError(f"--from {path}: the weights do not fit this task and size: {shapes}{more}")
    return weights


def _misfits(weights: Mapping[str, torch.Tensor], agent: Agent) -> list[str]:
    """Names of weights that the agent has not, or in another shape."""
    own = {name: list(value.shape) for name, value in agent.state_dict().items()}
    return [name for name, value in weights.items() if own.get(name) != list(value.shape)]
