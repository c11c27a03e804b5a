"""Saver: writes checkpoints while training continues, and returns to the newest one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from dreamer.errors import NotFinite
from dreamer.runs import checkpoint
from dreamer.system import ranks
from dreamer.tracking import Tracker
from dreamer.tracking.progress import phase
from dreamer.training.guard import all_finite
from dreamer.training.state import RunState, agent_spec, saved_state


class Saver:
    """Checkpoints of a run: begin to write one, commit one that is safe, go back to the newest one.

    Several ranks save together: that of rank 0, which counts, is written when those of the other ranks are safe.
    """

    def __init__(self, run: RunState, tracker: Tracker):
        self.run, self.tracker, self.folder = run, tracker, run.folder.share / "checkpoints"
        kept = run.folder.config.loop.keep_checkpoints + bool(ranks.number())  # rank 0 may not have finished the newest
        self.writer = checkpoint.CheckpointWriter(self.folder, kept)
        self._uncommitted = False
        self._best: dict[str, Any] | None = None
        progress = run.progress
        if not checkpoint.keep_best(self.folder, progress.best_at):
            progress.best_return, progress.best_at = -math.inf, -1

    def note_evaluation(self) -> None:
        """Copy the weights of the evaluation just made if it is the best so far; the next save writes them."""
        progress, agent = self.run.progress, self.run.agent
        score = progress.evaluation["eval/return_mean"]
        if self.run.folder.config.loop.keep_best and score > progress.best_return:
            progress.best_return, progress.best_at = score, progress.step
            weights = {"agent": {"modules": agent.state_dict()}, "spec": agent_spec(agent)}
            self._best = checkpoint.snapshot({"step": progress.step, "evaluation": progress.evaluation, **weights})

    def save(self) -> None:
        """Begin to write a checkpoint from which the run continues exactly.

        Raises `NotFinite` instead of saving a broken agent, and `UserError` when the previous one was not written.
        """
        run = self.run
        self.finish()
        run.learner.take_in_late_results(wait=True)
        self.require_finite()
        with run.clock("saving"), phase("saving"):
            if run.folder.numerics.get("compiled", False) and not run.learner.compiled:
                run.folder.numerics["compiled"] = False  # torch.compile failed in the first update
                run.folder.save()
            state = run.own_state() | {"metrics_offset": self.tracker.writer.size}
            if ranks.number() == 0:
                ranks.barrier()
            self.writer.begin(run.progress.step, checkpoint.snapshot(state), self._sync, self._best)
            self._best = None
            self._uncommitted = True
        if ranks.number():
            self.writer.wait()
            ranks.barrier()
        if ranks.count() > 1:
            self.finish()

    def require_finite(self) -> None:
        """Raise `NotFinite` when a parameter is not finite."""
        if not all_finite(self.run.agent):
            raise NotFinite("a parameter is not finite")

    def commit_checkpoint(self) -> None:
        """Commit a checkpoint that is safe by now; wait for one where replay cannot store anything more without it."""
        if self._uncommitted and not self.writer.busy:
            self.finish()
        if self.run.replay.must_commit:
            self.finish()
        if self.run.replay.must_commit:
            self.save()
            self.finish()

    def finish(self) -> None:
        """Wait until the checkpoint being written, if any, is safe; raises `UserError` when it cannot be written."""
        if self._uncommitted:
            with self.run.clock("saving"), phase("saving"):
                self.writer.wait()
                ranks.barrier()
                self.run.replay.commit()
                self._uncommitted = False

    def go_back(self, reason: str) -> None:
        """Restore the newest checkpoint and continue from there with other random numbers."""
        run = self.run
        self.finish()
        self._best = None
        run.learner.late.drop()
        elapsed = run.clock.elapsed
        step, state = saved_state(run.folder)
        times = run.guard.go_back(step, reason)
        run.load_state_dict(state)
        self.tracker.writer.truncate(state["metrics_offset"])
        run.guard.succeed()
        run.clock.resume(elapsed)
        rank = ranks.number()
        fresh = np.random.SeedSequence([run.folder.config.seed, step, times, *([rank] if rank else [])])
        torch.manual_seed(int(fresh.generate_state(1, np.uint64)[0] >> 1))
        run.replay.rng = np.random.default_rng(fresh)

    def _sync(self) -> None:
        """Make everything durable that a checkpoint refers to; called by the thread that writes it."""
        self.run.replay.sync()
        self.tracker.writer.sync()
