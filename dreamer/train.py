"""The training loop: collect, learn, log, evaluate, save. Read this second, after `batch.py`."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

import envs
from dreamer import checkpoint
from dreamer.accelerate import accelerated
from dreamer.agent import Agent
from dreamer.batch import Batch
from dreamer.collect import Collector
from dreamer.evaluate import Evaluator, Stopped, film, summarize
from dreamer.forecast import rows_between_checkpoints
from dreamer.guard import Guard, NotFinite, all_finite
from dreamer.machine import keep_freed_memory
from dreamer.meters import Clock, Meter, peak_rss_mb
from dreamer.replay import Replay, RowLayout, Windows
from dreamer.run import RunFolder
from dreamer.spaces import spec_of
from dreamer.tracking import Tracker
from dreamer.transfer import LateStates


@dataclass(frozen=True)
class Result:
    """What a training run leaves."""

    path: Path
    """Run folder."""
    status: Literal["finished", "interrupted"]
    """Whether the run reached its last step."""
    evaluation: dict[str, float]
    """Metrics of the last evaluation."""
    stopped_by: int = 0
    """Signal that asked an interrupted run to stop; 0 when none did."""


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


class Trainer:
    """A run in progress: everything the loop alternates between, and how it is saved."""

    def __init__(self, folder: RunFolder, make_env: envs.EnvFactory):
        self.folder, self.config, self.make_env = folder, folder.config, make_env
        config = self.config
        keep_freed_memory()
        torch.manual_seed(config.seed)
        self.repeat = config.env.repeat
        indices = list(range(config.env.num_envs))
        training = replace(make_env, short_limit=config.env.train_time_limit, short_envs=len(indices) // 2)
        self.vector = envs.make_vector(training, indices, config.env.parallel, config.env.timeout)
        obs_shapes, action = spec_of(self.vector.single_observation_space, self.vector.single_action_space)
        self.agent = Agent(config.agent, obs_shapes, action).to(folder.info["device"])
        self.collector = Collector(self.agent, self.vector, indices, config.env.restarts)
        loop = config.loop
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

    # The loop

    def train(self) -> Result:
        """Alternate interaction and learning until `config.steps`, or until asked to stop."""
        try:
            return self._train()
        finally:
            self.writer.join()

    def _train(self) -> Result:
        if self.step == 0:
            self.save()
            self.finish_saving()  # from now on there is a checkpoint to go back to
        if self.evaluation_due:
            self.evaluate(last=False)
        while self.step < self.config.steps and not self.stop_signal:
            before = self.step
            try:
                self.collect()
                for _ in range(self.updates_due()):
                    self.learn()
                if self._due(self.config.loop.log_every, before):
                    self.log()
                if self._due(self.config.loop.eval_every, before) and self.step < self.config.steps:
                    self.evaluate(last=False)
                if self._due(self.config.loop.imagine_every, before) and self.step < self.config.steps:
                    self.imagine()
                if self._due(self.config.loop.checkpoint_every, before):
                    self.save()
                self.keep_up()
            except NotFinite as reason:
                self.go_back(str(reason))
        if self.step >= self.config.steps and self.evaluated_at != self.step:
            self.evaluate(last=True)
            if self.config.loop.imagine_every:
                self.imagine()
        self.save()
        self.finish_saving()
        finished = self.step >= self.config.steps and self.evaluated_at == self.step
        status: Literal["finished", "interrupted"] = "finished" if finished else "interrupted"
        return Result(self.folder.path, status, self.evaluation, self.stop_signal)

    def collect(self) -> None:
        """One row of every environment: act, store, step; raises `NotFinite` when the agent is broken."""
        with self.clock("acting"):
            packed = self.collector.act()
        with self.clock("replay"):
            self.replay.append(self.collector.arrived, packed)
        try:
            with self.clock("environment"):
                finished = self.collector.advance()
        finally:
            self.report_failures()
        self.step += self.collector.num_envs * self.repeat
        self.episodes += len(finished)
        for episode in finished:
            self.meter.add({"train/return": episode.reward, "train/length": float(episode.length)})

    def learn(self) -> None:
        """One update: sample, learn, store the new states; raises `NotFinite` when too many failed."""
        with self.clock("replay"):
            batch, windows = self.replay.sample()
            if self.agent.device.type == "cuda":
                batch = batch.pin_memory()
        with self.clock("update"):
            rng = torch.get_rng_state()
            metrics, packed = self.update(batch.to(self.agent.device))
        self.updates += 1
        with self.clock("replay"):
            self.late_states.put(Learned(windows, batch, metrics, self.updates, rng), packed, metrics["optim/skipped"])

    def arrive(self, learned: Learned, states: np.ndarray, skipped: bool) -> None:
        """Take in the results of an update: `states` `[batch, time, packed]`, and whether it changed nothing."""
        if not skipped:
            self.replay.write_states(learned.windows, states)
        self.meter.add({"optim/skipped": 1.0} if skipped else learned.metrics)
        if self.guard.after(skipped, self.agent, learned.batch, learned.updates, learned.rng):
            raise NotFinite(f"the loss or a gradient was not finite in {self.guard.in_a_row} updates in a row")

    def updates_due(self) -> int:
        """Updates that the replay ratio asks for after the rows just collected."""
        if self.replay.num_starts < self.config.loop.learning_starts:
            return 0
        return self.ratio(self.collector.num_envs)

    def log(self) -> None:
        """Record the means since the last record."""
        self.late_states.flush()
        values = self.meter.take()
        values |= {"replay/rows": float(self.replay.rows)}
        values |= {"replay/bytes_per_row": float(sum(self.replay.layout.row_bytes))}
        if self.config.env.obs != "state":
            values |= {"env/shadows": float(self.config.env.shadows)}
        values |= {"loop/updates": float(self.updates), "loop/episodes": float(self.episodes)}
        values |= {"loop/env_failures": float(self.env_failures)}
        rows = self.step / self.repeat
        values["replay/ratio"] = self.updates * self.ratio.rows_per_update / rows
        values |= self.clock.take(self.step, self.updates) | {"time/peak_rss_mb": peak_rss_mb()}
        with self.clock("tracking"):
            self.tracker.log(self.step, values)

    def evaluate(self, last: bool) -> None:
        """Evaluate with sampled and with mode actions, and film an episode when asked for.

        When the run is asked to stop meanwhile, the evaluation is done again when it goes on.
        """
        self.evaluation_due = not last
        with self.clock("evaluation"):
            try:
                sampled = self.evaluator.run(self.agent, "sample", lambda: bool(self.stop_signal))
                mode = self.evaluator.run(self.agent, "mode", lambda: bool(self.stop_signal))
            except Stopped:
                return
            self.evaluation = summarize(sampled, mode)
            self.evaluated_at, self.evaluation_due = self.step, False
            self.tracker.log(self.step, self.evaluation | {"loop/updates": float(self.updates)})
            if self.config.loop.film == "every" or (last and self.config.loop.film == "end"):
                self.film()

    def film(self) -> None:
        """Film an episode; a machine that cannot render gets one line instead."""
        path = self.folder.videos / f"eval_{self.step:09d}.mp4"
        try:
            film(self.agent, self.make_env, path, self.config.seed)
        except Exception as error:  # a film is never worth a run
            print(f"no film: {error}", file=sys.stderr)
        else:
            self.tracker.video(self.step, "eval/film", path, fps=25)

    def imagine(self) -> None:
        """Compare what the model imagines with held-out episodes; what goes wrong gets one line.

        Nothing is done where nothing decodes.
        """
        if not self.agent.world_model.objective.decodes:
            return
        from dreamer.openloop import folder  # matplotlib takes a second to load
        from dreamer.openloop.record import metrics
        from dreamer.openloop.study import GLANCE, study

        with self.clock("imagination"):
            try:
                settings = replace(GLANCE, seed=self.config.seed)
                seen = study(self.agent, self.make_env, settings)
                media = folder.write(seen, folder.folder_of(self.folder.path, self.step))
                self.tracker.log(self.step, metrics(seen))
            except Exception as error:  # a picture is never worth a run
                print(f"no imagination: {error}", file=sys.stderr)
                return
        for name, path in media.items():
            if path.suffix == ".mp4":
                self.tracker.video(self.step, f"imagination/{name}", path, fps=folder.FPS)
            else:
                self.tracker.image(self.step, f"imagination/{name}", path)

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
                "rng": torch.get_rng_state(),
                "cuda_rng": torch.cuda.get_rng_state() if self.agent.device.type == "cuda" else None,
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

    def report_failures(self) -> None:
        """Say which environments failed and were made anew, and keep what they said."""
        for index, text in self.collector.told:
            self.env_failures += 1
            reason = text.partition("\n")[0]
            log = self.folder.faults / "environments.log"
            print(f"environment {index} failed: {reason} (see {log})", file=sys.stderr)
            with contextlib.suppress(OSError):  # a full disk has been told, or will be
                self.folder.faults.mkdir(exist_ok=True)
                with open(log, "a") as file:
                    file.write(f"step {self.step}, environment {index}: {text}\n")
        self.collector.told = []

    def begin(self) -> None:
        """Start from the first row of the first episodes."""
        self.collector.reset()
        self.clock.start(0, 0)

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
            print(
                f"environments {lost} did not replay their open episode identically; they start a new one",
                file=sys.stderr,
            )
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] is not None and self.agent.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_rng"])
        self.clock.resume(state["elapsed"])
        self.clock.start(self.step, self.updates)
        return state["metrics_offset"]

    def close(self) -> None:
        """Close environments."""
        self.writer.join()
        self.vector.close()
        self.evaluator.close()

    def _due(self, interval: int, before: int) -> bool:
        return interval > 0 and self.step // interval > before // interval


def layout_of(agent: Agent) -> RowLayout:
    """What a replay row of this agent holds."""
    return RowLayout(agent.obs_shapes, agent.action.dim, agent.world_model.core.packed_dim)


class ReplayRatio:
    """How many updates to do after collecting rows, so that `ratio` rows are trained on per collected row.

    The first call asks for exactly one update and starts the clock: rows collected before accrue no debt.
    """

    def __init__(self, ratio: float, rows_per_update: int):
        self.rows_per_update = rows_per_update
        self.per_row = ratio / rows_per_update
        self.debt: float | None = None

    def __call__(self, rows: int) -> int:
        """Updates due after `rows` more rows."""
        if self.debt is None:
            self.debt = 0.0
            return 1
        self.debt += rows * self.per_row
        due = int(self.debt)
        self.debt -= due
        return due

    def state_dict(self) -> dict[str, Any]:
        """The debt."""
        return {"debt": self.debt}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the debt."""
        self.debt = state["debt"]
