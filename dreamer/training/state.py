"""RunState: the parts of a run that a checkpoint keeps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from dreamer.agent import Agent
from dreamer.errors import UserError
from dreamer.experience.collect import Collector
from dreamer.experience.replay import Replay
from dreamer.experience.spaces import spec_of
from dreamer.runs import checkpoint
from dreamer.runs.folder import RunFolder
from dreamer.runs.forecast import rows_between_checkpoints
from dreamer.runs.saved import State, understood
from dreamer.system import ranks
from dreamer.system.machine import keep_freed_memory
from dreamer.system.meters import Clock, Meter
from dreamer.system.randomness import random_states, set_random_states
from dreamer.system.redaction import warn
from dreamer.training.decays import decays_state, load_decays, plan_decays
from dreamer.training.guard import Guard
from dreamer.training.learner import Learner
from dreamer.training.plan import Plan

SHARE = ("step", "episodes", "env_failures", "metrics_offset", "meter", "collector", "replay", "rng")
"""Entries of the state of a run that every rank has for itself; the others are those of rank 0."""


@dataclass
class Progress:
    """Counters of a run, and its last evaluation."""

    step: int = 0
    """Environment steps."""
    episodes: int = 0
    """Finished training episodes."""
    env_failures: int = 0
    """Failures of training environments."""
    evaluation: dict[str, float] = field(default_factory=dict)
    """Metrics of the last evaluation."""
    evaluated_at: int = -1
    """Step of the last evaluation; -1 before the first."""
    best_return: float = -math.inf
    """Highest mean return of an evaluation whose weights are kept as the best checkpoint."""
    best_at: int = -1
    """Step of that evaluation; -1 before the first."""
    evaluation_due: bool = False
    """True from when an evaluation is due until it is finished; a resumed run repeats it."""
    imagination_due: bool = False
    """The same of an open-loop evaluation."""

    def finished(self, steps: int) -> bool:
        """True when a run of `steps` steps has reached the last one and was evaluated there."""
        evaluated = self.evaluated_at == self.step and not (self.evaluation_due or self.imagination_due)
        return self.step >= steps and evaluated

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Progress:
        """The counters in a checkpoint; those that an older version did not write have their defaults."""
        return cls(**{name: state[name] for name in vars(cls()) if name in state})


def agent_spec(agent: Agent) -> dict[str, Any]:
    """Observations and actions of an agent, as a checkpoint keeps them."""
    return {"obs_shapes": agent.obs_shapes, "action": [agent.action.dim, agent.action.discrete]}


class RunState:
    """Agent, collector, replay, learner, guard, meters and counters of a run, and how to save and restore them.

    Where several ranks train one agent, each has its own share of the environments and of replay, and its own random
    numbers.
    """

    def __init__(self, plan: Plan, folder: RunFolder):
        config, loop, self.folder = plan.config, plan.config.loop, folder
        keep_freed_memory()
        torch.manual_seed(config.seed)
        share, rank = config.share, ranks.number()
        indices = list(range(rank * share.env.num_envs, (rank + 1) * share.env.num_envs))
        short = config.env.num_envs // 2
        training = replace(plan.factory, short_limit=config.env.train_time_limit, short_envs=short)
        self.vector = training.vector(indices, folder.info["parallel"]["on"], config.env.timeout)
        found = spec_of(self.vector.single_observation_space, self.vector.single_action_space)
        if found != plan.spec:
            self.vector.close()
            raise UserError(f"{folder.path} was made with {plan.spec}, but its environments now have {found}")
        self.agent = Agent(config.agent, *plan.spec).to(plan.device)
        if rank:
            torch.manual_seed(int(np.random.SeedSequence([config.seed, rank]).generate_state(1, np.uint64)[0] >> 1))
        self.collector = Collector(
            self.agent, self.vector, indices, config.env.restarts, epsilon=loop.epsilon, hold=loop.epsilon_hold
        )
        self.replay = Replay(
            share.replay,
            folder.replay,
            plan.layout,
            len(indices),
            share.loop.batch_size,
            loop.batch_length,
            rows_between_checkpoints(config),
            [config.seed, rank] if rank else config.seed,
            loop.keep_checkpoints,
        )
        self.meter, self.clock = Meter(), Clock()
        self.guard = Guard(config.guard, folder.faults)
        self.learner = Learner(
            self.agent, self.replay, loop, config.planned_updates, self.guard, self.meter, self.clock
        )
        self.progress = Progress()
        self.planned_updates = config.planned_updates

    def begin(self) -> None:
        """Start the first episode of every environment; all ranks begin with the agent of rank 0."""
        ranks.copy_from_first(*self.agent.state_dict().values())
        plan_decays(self.agent, self.planned_updates)
        self.collector.reset()
        self.clock.start(0, 0)

    def state_dict(self) -> dict[str, Any]:
        """State from which a run continues exactly."""
        agent = self.agent
        return {
            **vars(self.progress),
            "updates": self.learner.updates,
            "elapsed": self.clock.elapsed,
            "guard": self.guard.state_dict(),
            "ratio": self.learner.ratio.state_dict(),
            "meter": self.meter.state_dict(),
            "spec": agent_spec(agent),
            "agent": agent.learner_state(),
            "decays": decays_state(agent),
            "collector": self.collector.state_dict(),
            "replay": self.replay.state_dict(),
            "rng": random_states(agent.device),
        }

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned; environments whose open episode cannot be repeated start a new one.

        Raises `UserError` for a state that does not fit.
        """
        with understood(self.folder.checkpoints):
            vars(self.progress).update(vars(Progress.of(state)))
            self.learner.updates = state["updates"]
            self.guard.load_state_dict(state["guard"])
            self.learner.ratio.load_state_dict(state["ratio"])
            self.meter.load_state_dict(state["meter"])
            self.agent.load_learner_state(state["agent"])
            load_decays(self.agent, state.get("decays", {}))
            plan_decays(self.agent, self.planned_updates)
            self.replay.load_state_dict(state["replay"])
            self.collector.load_state_dict(state["collector"])
        lost = self.collector.reopen()
        if lost:
            warn(f"environments {lost} did not replay their open episode identically; they start a new one", own=True)
        with understood(self.folder.checkpoints):
            set_random_states(state["rng"], self.agent.device)
        self.clock.resume(state["elapsed"])
        self.clock.start(self.progress.step, self.learner.updates)

    def own_state(self) -> dict[str, Any]:
        """What a checkpoint of this rank keeps: the whole state in rank 0, and in others their shares."""
        state = self.state_dict()
        return {name: state[name] for name in SHARE if name in state} if ranks.number() else state

    def close(self) -> None:
        """Close the training environments."""
        self.vector.close()


def saved_state(folder: RunFolder, step: int | None = None) -> tuple[int, State]:
    """The newest checkpoint of a run, or the one of `step`; with the share of this rank.

    Raises `UserError` when there is no usable one.
    """
    if ranks.number():
        step = ranks.first(0) if step is None else step
        _, state, _ = checkpoint.load(folder.checkpoints, step)
        share = checkpoint.load(folder.share / "checkpoints", step)[1]
        return step, {**state, **share}
    newest, state, _ = checkpoint.load(folder.checkpoints, step)
    return (newest if step is not None else ranks.first(newest)), state
