"""The training loop: collect, learn, log, evaluate, save. Read this third, after `batch.py` and `agent.py`.

`Learner.update` (`learner.py`) samples a batch and calls `Agent.update` through `accelerate.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dreamer.errors import NotFinite
from dreamer.runs.folder import RunFolder
from dreamer.system import ranks
from dreamer.system.device import synchronize
from dreamer.system.meters import peak_rss_mb
from dreamer.tracking import Tracker
from dreamer.training.evaluate import Evaluator, Stopped, summarize
from dreamer.training.failures import report_failures, report_lost_streams
from dreamer.training.media import show_open_loop, show_video
from dreamer.training.plan import Plan
from dreamer.training.saver import Saver
from dreamer.training.state import RunState


@dataclass(frozen=True)
class Result:
    """Outcome of a training run."""

    path: Path
    """Run folder."""
    status: Literal["finished", "interrupted"]
    """`finished` when the run reached its last step."""
    evaluation: dict[str, float]
    """Metrics of the last evaluation."""
    step: int
    """Environment step that it has reached."""
    updates: int = 0
    """Updates that it has made."""
    stopped_by: int = 0
    """Signal that asked an interrupted run to stop; 0 without one."""


class Trainer:
    """Runs the loop with the parts of a run: collector, replay, learner, evaluator, saver and tracker.

    Where several ranks train one agent, all of them run the loop and take the same decisions. Rank 0, the only one with
    an evaluator, evaluates while the others wait.
    """

    def __init__(
        self,
        plan: Plan,
        folder: RunFolder,
        run: RunState,
        evaluator: Evaluator | None,
        tracker: Tracker,
        received: Sequence[int] = (),
    ):
        self.plan, self.config, self.folder = plan, plan.config, folder
        self.agent, self.collector, self.replay, self.learner = run.agent, run.collector, run.replay, run.learner
        self.progress, self.meter, self.clock = run.progress, run.meter, run.clock
        self.evaluator, self.tracker = evaluator, tracker
        self.saver = Saver(run, tracker)
        self.reported: set[str] = set()
        """Standard streams that cannot be written, and whose loss is reported."""
        self.received = received
        """Signals that have requested a stop so far."""
        self._agreed_signal = 0

    def train(self) -> Result:
        """Alternate interaction and learning until `config.steps`, or until asked to stop.

        Where a parameter, a loss or a state is not finite, also in the last save, the run returns to its newest
        checkpoint and continues from there.
        """
        try:
            if self.progress.step == 0:
                self.saver.save()
                self.saver.finish()  # a rollback needs a checkpoint
            while True:
                try:
                    self.evaluate_if_due()
                    while not self.done and not self.stop_signal:
                        self._advance()
                    return self._end()
                except NotFinite as reason:
                    self.saver.go_back(str(reason))
        finally:
            self.saver.writer.join()

    def _advance(self) -> None:
        """One step of every environment, and everything that is due after it."""
        progress, loop, before = self.progress, self.config.loop, self.progress.step
        trouble = ""
        try:
            self.collect()
        except NotFinite as reason:  # all ranks must know of it first
            trouble = str(reason)
        self._agree(trouble)
        self.tracker.advance(progress.step, learning=self.learner.updates > 0)
        for _ in range(self.learner.updates_due(self.config.env.num_envs)):
            self.learner.update()
            self.learner.take_in_late_results()
        if self._due(loop.log_every, before):
            self.log()
        progress.evaluation_due |= self._due(loop.eval_every, before)
        progress.imagination_due |= self._due(loop.imagine_every, before)
        if not self.done:
            self.evaluate_if_due()
        if self._due(loop.checkpoint_every, before):
            self.saver.save()
        self.saver.commit_checkpoint()

    def _end(self) -> Result:
        progress = self.progress
        if self.done and progress.evaluated_at != progress.step:
            progress.evaluation_due, progress.imagination_due = True, self.config.loop.imagine_every > 0
        self.evaluate_if_due()
        self._agree()
        self.saver.save()
        self.saver.finish()
        report_lost_streams(self.reported, progress.step, self.folder.faults)
        status: Literal["finished", "interrupted"]
        status = "finished" if progress.finished(self.config.steps) else "interrupted"
        updates, signal = self.learner.updates, self.stop_signal
        return Result(self.folder.path, status, progress.evaluation, progress.step, updates, signal)

    def collect(self) -> None:
        """Take one step in every environment: act, store, advance; raises `NotFinite` if a state is not finite."""
        with self.clock("waiting"):  # acting would wait: it sends observations to the device and fetches actions
            synchronize(self.agent.device)
        with self.clock("acting"):
            packed = self.collector.act()
        with self.clock("replay"):
            self.replay.append(self.collector.arrived, packed)
        try:
            with self.clock("environment"):
                finished = self.collector.advance()
        finally:
            self.progress.env_failures += report_failures(self.collector, self.progress.step, self.folder.faults)
        self.progress.step += self.config.env.num_envs * self.config.env.repeat
        self.progress.episodes += len(finished)
        for episode in finished:
            self.meter.add({"train/return": episode.reward, "train/length": float(episode.length)})

    def log(self) -> None:
        """Record the means since the last record."""
        self.learner.take_in_late_results(wait=True)
        progress, learner = self.progress, self.learner
        if ranks.count() > 1:
            self.meter.merge(ranks.each(self.meter.state_dict()))
        values = self.meter.take()
        values["replay/rows"] = self.replay.rows * ranks.count()
        values["replay/bytes_per_row"] = sum(self.replay.layout.row_bytes)
        if self.config.env.obs != "state":
            values |= {"env/shadows": float(self.config.env.shadows)}
        episodes, env_failures = ranks.total(progress.episodes, progress.env_failures)
        values |= {"loop/updates": learner.updates, "loop/episodes": episodes, "loop/env_failures": env_failures}
        rows = progress.step / self.config.env.repeat
        values["replay/ratio"] = learner.updates * learner.ratio.rows_per_update / rows
        values |= self.clock.take(progress.step, learner.updates) | {"time/peak_rss_mb": peak_rss_mb()}
        with self.clock("tracking"):
            self.tracker.log(progress.step, values)
        report_lost_streams(self.reported, progress.step, self.folder.faults)

    def evaluate_if_due(self) -> None:
        """Evaluate, then evaluate open loop, if that is due. What a requested stop prevents remains due.

        Raises `NotFinite` instead of evaluating a broken agent.
        """
        progress = self.progress
        if progress.evaluation_due and not self.stop_signal:
            self.saver.require_finite()
            self.evaluate()
        if progress.imagination_due and not progress.evaluation_due and not self.stop_signal:
            self.imagine()

    def evaluate(self) -> None:
        """Evaluate with sampled and with mode actions, and record a video if it is configured.

        If a stop is requested during an evaluation, it remains due, and the resumed run repeats it.
        """
        progress, stop = self.progress, lambda: bool(self.received)
        if self.evaluator is None:
            progress.evaluated_at, progress.evaluation_due = progress.step, False
            return
        with self.clock("evaluation"):
            try:
                sampled = self.evaluator.run(self.agent, "sample", stop)
                mode = self.evaluator.run(self.agent, "mode", stop)
            except Stopped:
                return
            progress.evaluation = summarize(sampled, mode)
            progress.evaluated_at, progress.evaluation_due = progress.step, False
            self.saver.note_evaluation()
            self.tracker.log(progress.step, progress.evaluation | {"loop/updates": float(self.learner.updates)})
            if self.config.loop.video == "every" or (self.done and self.config.loop.video == "end"):
                show_video(self.plan, self.agent, self.folder, progress.step, self.tracker)

    def imagine(self) -> None:
        """Compare imagined rollouts with held-out episodes (open-loop evaluation)."""
        with self.clock("imagination"):
            if self.evaluator is not None:
                show_open_loop(self.plan, self.agent, self.folder, self.progress.step, self.tracker)
        self.progress.imagination_due = False

    @property
    def stop_signal(self) -> int:
        """Number of the signal that requested a stop, the same in all ranks; 0 if none did."""
        if ranks.count() > 1:
            return self._agreed_signal
        return self.received[0] if self.received else 0

    def _agree(self, trouble: str = "") -> None:
        """Agree with the other ranks on a stop; raise `NotFinite` in all ranks where one has `trouble`."""
        self._agreed_signal, broken = ranks.largest(self.received[0] if self.received else 0, bool(trouble))
        if broken:
            raise NotFinite(trouble or "a state or an action of another process is not finite")

    @property
    def done(self) -> bool:
        """True once the run has reached its last step."""
        return self.progress.step >= self.config.steps

    def _due(self, interval: int, before: int) -> bool:
        """True when the step has passed a multiple of `interval` since `before`."""
        return interval > 0 and self.progress.step // interval > before // interval
