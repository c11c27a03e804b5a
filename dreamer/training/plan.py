"""Plan: everything that is decided before a run begins."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch

import envs
from dreamer.agent import Agent
from dreamer.config import Config
from dreamer.errors import UserError
from dreamer.experience.layout import RowLayout
from dreamer.experience.spaces import Spec, spec_of
from dreamer.runs.folder import Parallel
from dreamer.runs.forecast import Forecast, forecast, require_room
from dreamer.system.memory import require_memory
from dreamer.system.redaction import warn
from dreamer.world_model.images import outputs_of

FEW = 500
"""Updates below which a run has learned little."""


@dataclass(frozen=True)
class Plan:
    """Decisions about a run that its parts are built from; made once, by `train` or `resume`."""

    config: Config
    """Full configuration, the core's width matched if that was asked for."""
    device: str
    """Device of the networks."""
    factory: envs.EnvFactory
    """Constructor of the environments."""
    spec: Spec
    """Observations and actions of the environments."""
    layout: RowLayout
    """Layout of a replay row."""
    forecast: Forecast
    """Size of the replay at the end of the run."""


def make_plan(config: Config, device: str, factory: envs.EnvFactory, agent: Agent, folder: Path) -> Plan:
    """The plan of a run in `folder`, which need not exist; `agent` may lie on the meta device.

    Raises `UserError` when the agent, an update or the run's replay does not fit the memory or disk of this machine.
    """
    factory.require_trainable(config.env.train_time_limit)
    check_memory(agent, config.share, device)
    layout = layout_of(agent)
    expected = forecast(config, layout)
    require_room(expected, folder)
    return Plan(config, device, factory, Spec(agent.obs_shapes, agent.action), layout, expected)


def few_updates(config: Config, updates: int = 0, step: int = 0) -> str:
    """A line about a run that makes fewer than `FEW` updates until its end; empty for one with more.

    The run has made `updates` by environment step `step`.
    """
    loop, env = config.loop, config.env
    first = env.repeat * (env.num_envs * loop.batch_length + loop.learning_starts)
    per_step = loop.replay_ratio / (loop.batch_size * loop.batch_length * env.repeat)
    begin = max(step, first)
    total = updates + int(max(0, config.steps - begin) * per_step)
    if total >= FEW:
        return ""
    makes = f"has made {total:,}" if step >= config.steps else f"will make about {total:,}"
    enough = begin + (FEW - updates) / per_step
    unit = 10 ** max(0, int(math.log10(enough)) - 1)
    return (
        f"this run {makes} updates in {config.steps:,} steps, too few to learn much; the first comes after about step "
        f"{first:,}; raise --steps to {math.ceil(enough / unit) * unit} or more"
    )


def check_memory(agent: Agent, config: Config, device: str) -> None:
    """Raise `UserError` unless the memory here holds the agent and what an update of it keeps."""
    require_memory(agent, device, update_bytes(agent, config, device))


def update_bytes(agent: Agent, config: Config, device: str) -> int:
    """The least number of bytes that an update keeps for its backward pass.

    Counted are observations, states, features, and twice (as they are, and normalized) the outputs of linear maps and
    convolutions, for each step of the batch and of the imagined rollouts.
    """
    loop, core, behavior = config.loop, agent.world_model.core, agent.actor_critic
    starts = min(config.agent.imagination_starts or loop.batch_length, loop.batch_length)
    steps = loop.batch_size * loop.batch_length
    imagined = loop.batch_size * starts * config.agent.imagination_horizon
    observed = sum(math.prod(shape) for shape in agent.obs_shapes.values())
    of_step = observed + core.packed_dim + core.feature_dim + 2 * outputs_of(agent.world_model)
    of_imagined = core.feature_dim + 2 * (outputs_of(behavior.actor) + outputs_of(behavior.critic))
    number_bytes = 2 if device.startswith("cuda") or config.agent.precision == "bfloat16" else 4
    return number_bytes * (steps * of_step + imagined * of_imagined)


def layout_of(agent: Agent) -> RowLayout:
    """The layout of this agent's replay rows."""
    return RowLayout(agent.obs_shapes, agent.action.dim, agent.world_model.core.packed_dim)


def spec_of_factory(factory: envs.EnvFactory) -> Spec:
    """The spec of an environment that is made for this purpose, so that mistakes show before a folder exists."""
    env = factory(0)
    try:
        return spec_of(env.observation_space, env.action_space)
    finally:
        env.close()


def dry_run(spec: Spec, config: Config) -> Agent:
    """An agent on the meta device, which takes no memory; raises `UserError` when the configuration allows none."""
    try:
        with torch.device("meta"):
            return Agent(config.agent, spec.obs_shapes, spec.action)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"no such agent can be built: {error}") from error


def choose_parallel(config: Config, factory: envs.EnvFactory) -> Parallel:
    """The choice between one process and several, as run.json keeps it: `on`, and the measurements behind `auto`.

    `auto` counts on at most as many processes as PyTorch has threads before the run sets its own: where there are fewer
    than cores, others use the machine.
    """
    if factory.batched:
        if config.env.parallel == "on":
            raise UserError(f"--env.parallel on: the environments of {config.task} are stepped as one batch; use auto")
        return {"on": False}
    if config.env.parallel != "auto":
        return {"on": config.env.parallel == "on"}
    processes = min(envs.cores(), torch.get_num_threads())
    pace = envs.measure_pace(factory, config.share.env.num_envs, processes, config.env.timeout)
    if config.tracking.console and processes > 1:
        warn(str(pace))
    seconds = {"step": pace.step, "in_turn": pace.in_turn, "in_parallel": pace.in_parallel}
    return {"on": pace.parallel, "processes": pace.processes, "seconds": seconds}
