"""A run in progress: what the training loop works with, how a checkpoint keeps it, and how it goes back to one."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

import envs
from dreamer.agent import Agent
from dreamer.batch import Batch
from dreamer.errors import NotFinite
from dreamer.experience.collect import Collector
from dreamer.experience.ratio import ReplayRatio
from dreamer.experience.replay import Replay, RowLayout, Windows
from dreamer.experience.spaces import spec_of
from dreamer.runs import checkpoint
from dreamer.runs.folder import RunFolder
from dreamer.runs.forecast import rows_between_checkpoints
from dreamer.system.machine import keep_freed_memory
from dreamer.system.meters import Clock, Meter
from dreamer.system.randomness import random_states, set_random_states
from dreamer.system.redaction import redact, tell
from dreamer.system.transfer import LateStates
from dreamer.tracking import Tracker
from dreamer.training.accelerate import accelerated
from dreamer.training.evaluate import Evaluator
from dreamer.training.guard import Guard, all_finite


@dataclass(frozen=True)
class Learned:
    """An update whose results are on their way from the device."""

    windows: Windows
    """Where its rows lie in replay."""
    batch: Batch
    """Its rows, on the CPU."""
    metrics: dict[str, torch.Tensor]
    """Its metrics, on the device."""
    updates: int
    """Its number."""
    rng: torch.Tensor
    """State of the CPU's random numbers before it."""


class Session:
    """Everything that the loop alternates between, and how it is saved and restored."""

    def __init__(self, folder: RunFolder, make_env: envs.EnvFactory):
        self.folder, self.config, self.make_env = folder, folder.config, make_env
        config = self.config
        keep_freed_memory()
        torch.manual_seed(config.seed)
        self.repeat = config.env.repeat
        indices = list(range(config.env.num_envs))
        training = replace(make_env, short_limit=config.env.train_time_limit, short_envs=len(indices) // 2)
        self.vector = envs.make_vector(training, indices, folder.info["parallel"]["on"], config.env.timeout)
        obs_shapes, action = spec_of(self.vector.single_observation_space, self.vector.single_action_space)
        self.agent = Agent(config.agent, obs_shapes, action).to(folder.info["device"])
        loop = config.loop
        self.collector = Collector(
            self.agent, self.vector, indices, config.env.restarts, epsilon=loop.epsilon, hold=loop.epsilon_hold
        )
        self.replay = Replay(
            config.replay,
            folder.replay,
            layout_of(self.agent),
            len(indices),
            loop.batch_size,
            loop.batch_length,
            rows_between_checkpoints(config),
            config.seed,
            loop.keep_checkpoints,
        )
        self.evaluator = Evaluator(make_env, loop.eval_episodes, config.seed, loop.eval_limit, config.env.timeout)
        self.ratio = ReplayRatio(loop.replay_ratio, loop.batch_size * loop.batch_length)
        self.update = accelerated(self.agent, loop.compile, config.planned_updates)
        self.late_states = LateStates(self.arrive)
        self.meter, self.clock = Meter(), Clock()
        self.guard = Guard(config.guard, folder.faults)
        self.writer = checkpoint.CheckpointWriter(folder.checkpoints, loop.keep_checkpoints)
        self.step = self.updates = self.episodes = self.env_failures = 0
        self.evaluation: dict[str, float] = {}
        self.evaluated_at = -1
        self.evaluation_due = False
        self._tracker: Tracker | None = None
        self.stop_signal = 0
        self._uncommitted = False

    @property
    def tracker(self) -> Tracker:
        """Where metrics go; set once the step to go on from is known."""
        if self._tracker is None:
            raise RuntimeError("set Trainer.tracker before training")
        return self._tracker

    @tracker.setter
    def tracker(self, tracker: Tracker) -> None:
        self._tracker = tracker

    def begin(self) -> None:
        """Start from the first row of the first episodes."""
        self.collector.reset()
        self.clock.start(0, 0)

    def arrive(self, learned: Learned, states: np.ndarray, skipped: bool) -> None:
        """Take in the results of an update: `states` `[batch, time, packed]`, and whether it changed nothing."""
        if not skipped:
            self.replay.write_states(learned.windows, states)
        self.meter.add({"optim/skipped": 1.0} if skipped else learned.metrics)
        if self.guard.after(skipped, self.agent, learned.batch, learned.updates, learned.rng):
            raise NotFinite(f"the loss or a gradient was not finite in {self.guard.in_a_row} updates in a row")

    # Saving

    def save(self) -> None:
        """Begin to write a checkpoint from which the run goes on exactly as it would have.

        Raises `NotFinite` rather than to save a broken agent, and `UserError` when the one before failed to be written.
        """
        self.finish_saving()
        with self.clock("saving"):
            self.late_states.flush()
            if not all_finite(self.agent):
                raise NotFinite("a parameter is not finite")
            state = {
                "step": self.step,
                "updates": self.updates,
                "episodes": self.episodes,
                "elapsed": self.clock.elapsed,
                "evaluation": self.evaluation,
                "evaluated_at": self.evaluated_at,
                "evaluation_due": self.evaluation_due,
                "env_failures": self.env_failures,
                "guard": self.guard.state_dict(),
                "metrics_offset": self.tracker.offset(),
                "ratio": self.ratio.state_dict(),
                "meter": self.meter.state_dict(),
                "spec": {
                    "obs_shapes": self.agent.obs_shapes,
                    "action": [self.agent.action.dim, self.agent.action.discrete],
                },
                "agent": self.agent.learner_state(),
                "collector": self.collector.state_dict(),
                "replay": self.replay.state_dict(),
                "rng": random_states(self.agent.device),
            }
            self.writer.begin(self.step, checkpoint.snapshot(state), self._sync)
            self._uncommitted = True

    def _sync(self) -> None:
        """Make durable what a checkpoint refers to; called by the thread that writes it."""
        self.replay.sync()
        self.tracker.sync()

    def keep_up(self) -> None:
        """Let replay use what a finished checkpoint sets free, and wait for one without which it cannot go on."""
        if self._uncommitted and not self.writer.busy:
            self.finish_saving()
        if self.replay.must_commit:
            self.finish_saving()
        if self.replay.must_commit:
            self.save()
            self.finish_saving()

    def finish_saving(self) -> None:
        """Wait until the checkpoint being written, if any, is safe; raises `UserError` when it cannot be written."""
        if self._uncommitted:
            with self.clock("saving"):
                self.writer.wait()
                self.replay.commit()
                self._uncommitted = False

    def go_back(self, reason: str) -> None:
        """Restore the newest checkpoint and go on from there with other random numbers."""
        self.finish_saving()
        self.late_states.waiting = None
        elapsed = self.clock.elapsed
        step, state, _ = checkpoint.load(self.folder.checkpoints)
        times = self.guard.go_back(step, reason)
        self.tracker.rewind(self.restore(state))
        self.guard.in_a_row = 0
        self.clock.resume(elapsed)
        fresh = np.random.SeedSequence([self.config.seed, step, times])
        torch.manual_seed(int(fresh.generate_state(1, np.uint64)[0] >> 1))
        self.replay.rng = np.random.default_rng(fresh)

    def restore(self, state: dict[str, Any]) -> int:
        """Go on from a checkpoint's state; returns the length of metrics.jsonl at that point."""
        self.step, self.updates, self.episodes = state["step"], state["updates"], state["episodes"]
        self.evaluation, self.evaluated_at = state["evaluation"], state["evaluated_at"]
        self.evaluation_due, self.env_failures = state["evaluation_due"], state["env_failures"]
        self.guard.load_state_dict(state["guard"])
        self.ratio.load_state_dict(state["ratio"])
        self.meter.load_state_dict(state["meter"])
        self.agent.load_learner_state(state["agent"])
        self.replay.load_state_dict(state["replay"])
        lost = self.collector.load_state_dict(state["collector"])
        if lost:
            tell(f"environments {lost} did not replay their open episode identically; they start a new one")
        set_random_states(state["rng"], self.agent.device)
        self.clock.resume(state["elapsed"])
        self.clock.start(self.step, self.updates)
        return state["metrics_offset"]

    def report_failures(self) -> None:
        """Say which environments failed and were made anew, and keep what they said."""
        for index, text in self.collector.told:
            self.env_failures += 1
            reason = text.partition("\n")[0]
            log = self.folder.faults / "environments.log"
            tell(f"environment {index} failed: {reason} (see {log})")
            with contextlib.suppress(OSError):  # a full disk has been told, or will be
                self.folder.faults.mkdir(exist_ok=True)
                with open(log, "a") as file:
                    file.write(redact(f"step {self.step}, environment {index}: {text}\n"))
        self.collector.told = []

    def close(self) -> None:
        """Close environments."""
        self.writer.join()
        self.vector.close()
        self.evaluator.close()


def layout_of(agent: Agent) -> RowLayout:
    """What a replay row of this agent holds."""
    return RowLayout(agent.obs_shapes, agent.action.dim, agent.world_model.core.packed_dim)
