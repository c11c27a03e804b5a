"""Learner: samples batches from replay, updates the agent, and writes the new core states back."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch

from dreamer.agent import Agent
from dreamer.batch import Batch
from dreamer.config import LoopConfig
from dreamer.experience.ratio import ReplayRatio
from dreamer.experience.replay import Positions, Replay
from dreamer.system import ranks
from dreamer.system.meters import Clock, Meter
from dreamer.system.transfer import LateResults
from dreamer.training.accelerate import accelerated
from dreamer.training.guard import Guard


@dataclass(frozen=True)
class PendingUpdate:
    """An update whose results are on their way from the device."""

    positions: Positions
    """Positions of its sequences in replay."""
    batch: Batch
    """Its batch, on the CPU."""
    metrics: dict[str, torch.Tensor]
    """Its metrics, on the device."""
    number: int
    """Its number, from 1."""
    rng: torch.Tensor
    """State of the CPU's random generator before it."""


class Learner:
    """Updates the agent from replay, as often as the replay ratio asks for."""

    def __init__(
        self,
        agent: Agent,
        replay: Replay,
        config: LoopConfig,
        planned_updates: int,
        guard: Guard,
        meter: Meter,
        clock: Clock,
    ):
        self.agent, self.replay = agent, replay
        self.guard, self.meter, self.clock = guard, meter, clock
        self.learning_starts = config.learning_starts
        self.ratio = ReplayRatio(config.replay_ratio, config.batch_size * config.batch_length)
        self.updates = 0
        self._update = accelerated(agent, config.compile, planned_updates, config.graph)
        self.late = LateResults[PendingUpdate]()
        """Results on their way from the device."""

    @property
    def compiled(self) -> bool:
        """True while updates run compiled steps."""
        return self._update.compiled

    def updates_due(self, rows: int) -> int:
        """Updates to do after all ranks together have collected `rows` more rows."""
        if self.replay.num_starts * ranks.count() < self.learning_starts:  # each rank has as many
            return 0
        return self.ratio(rows)

    def update(self) -> None:
        """Sample a batch and take one gradient step on it; its results arrive later."""
        with self.clock("replay"):
            batch, positions = self.replay.sample()
            if self.agent.device.type == "cuda":
                batch = batch.pin_memory()
        with self.clock("update"):
            rng = torch.get_rng_state()
            metrics, packed = self._update(batch.to(self.agent.device))
        self.updates += 1
        with self.clock("replay"):
            pending = PendingUpdate(positions, batch, metrics, self.updates, rng)
            self.late.send(pending, packed, metrics["optim/skipped"])

    def take_in_late_results(self, wait: bool = False) -> None:
        """Apply the updates whose results have arrived, or with `wait` all of them.

        Several ranks always wait, so that all of them apply the same ones.
        Raises `NotFinite` when too many updates in a row were skipped.
        """
        with self.clock("waiting"):
            arrived = list(self.late.arrived(wait or ranks.count() > 1))
        with self.clock("replay"):
            for pending, states, skipped in arrived:
                self.apply_update(pending, states, skipped)

    def apply_update(self, update: PendingUpdate, states: np.ndarray, skipped: bool) -> None:
        """Write the new core states `[batch, time, packed]` back to replay, and count the metrics.

        A skipped update changed no trained parameter, because its loss or a gradient was not finite. Its states are not
        stored.
        """
        if skipped:
            self.meter.add({"optim/skipped": 1.0})
            self.guard.skip(update.number, self._evidence(update))
        else:
            self.replay.write_states(update.positions, states)
            self.meter.add(update.metrics)
            self.guard.succeed()

    def _evidence(self, update: PendingUpdate) -> dict[str, Any]:
        """Content of a kept batch: everything needed to repeat the update."""
        columns = {field.name: getattr(update.batch, field.name) for field in fields(update.batch)}
        agent = self.agent
        evidence = {"batch": columns, "modules": agent.state_dict(), "discrete": agent.action.discrete}
        return evidence | {"rng": update.rng, "device": agent.device.type}
