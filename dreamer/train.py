"""The training loop: collect, learn, log, evaluate, save. Read this second, after `batch.py`."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

import envs
from dreamer import checkpoint
from dreamer.accelerate import accelerated
from dreamer.agent import Agent
from dreamer.collect import Collector
from dreamer.evaluate import Evaluator, film, summarize
from dreamer.forecast import rows_between_checkpoints
from dreamer.machine import keep_freed_memory
from dreamer.meters import Clock, Meter, peak_rss_mb
from dreamer.replay import Replay, RowLayout
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
        self.vector = envs.make_vector(training, indices, config.env.parallel)
        obs_shapes, action = spec_of(self.vector.single_observation_space, self.vector.single_action_space)
        self.agent = Agent(config.agent, obs_shapes, action).to(folder.info["device"])
        self.collector = Collector(self.agent, self.vector, indices)
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
        self.evaluator = Evaluator(make_env, loop.eval_episodes, config.seed)
        self.ratio = ReplayRatio(loop.replay_ratio, loop.batch_size * loop.batch_length)
        self.update = accelerated(self.agent, loop.compile, config.planned_updates)
        self.late_states = LateStates(self.replay.write_states)
        self.meter, self.clock = Meter(), Clock()
        self.step = self.updates = self.episodes = 0
        self.evaluation: dict[str, float] = {}
        self.evaluated_at = -1
        self._tracker: Tracker | None = None
        self.stopping = False

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
        while self.step < self.config.steps and not self.stopping:
            before = self.step
            self.collect()
            for _ in range(self.updates_due()):
                self.learn()
            if self._due(self.config.loop.log_every, before):
                self.log()
            if self._due(self.config.loop.eval_every, before) and self.step < self.config.steps:
                self.evaluate(last=False)
            if self._due(self.config.loop.checkpoint_every, before) or self.replay.must_commit:
                self.save()
        finished = self.step >= self.config.steps
        if finished and self.evaluated_at != self.step:
            self.evaluate(last=True)
        self.save()
        return Result(self.folder.path, "finished" if finished else "interrupted", self.evaluation)

    def collect(self) -> None:
        """One row of every environment: act, store, step."""
        with self.clock("acting"):
            packed = self.collector.act()
        with self.clock("replay"):
            self.replay.append(self.collector.arrived, packed)
        with self.clock("environment"):
            finished = self.collector.advance()
        self.step += self.collector.num_envs * self.repeat
        self.episodes += len(finished)
        for episode in finished:
            self.meter.add({"train/return": episode.reward, "train/length": float(episode.length)})

    def learn(self) -> None:
        """One update: sample, learn, store the new states."""
        with self.clock("replay"):
            batch, windows = self.replay.sample()
            if self.agent.device.type == "cuda":
                batch = batch.pin_memory()
        with self.clock("update"):
            metrics, packed = self.update(batch.to(self.agent.device))
        with self.clock("replay"):
            self.late_states.put(windows, packed)
        self.meter.add(metrics)
        self.updates += 1

    def updates_due(self) -> int:
        """Updates that the replay ratio asks for after the rows just collected."""
        if self.replay.num_starts < self.config.loop.learning_starts:
            return 0
        return self.ratio(self.collector.num_envs)

    def log(self) -> None:
        """Record the means since the last record."""
        values = self.meter.take()
        values |= {"replay/rows": float(self.replay.rows)}
        values |= {"replay/bytes_per_row": float(sum(self.replay.layout.row_bytes))}
        if self.config.env.obs != "state":
            values |= {"env/shadows": float(self.config.env.shadows)}
        values |= {"loop/updates": float(self.updates), "loop/episodes": float(self.episodes)}
        rows = self.step / self.repeat
        values["replay/ratio"] = self.updates * self.ratio.rows_per_update / rows
        values |= self.clock.take(self.step, self.updates) | {"time/peak_rss_mb": peak_rss_mb()}
        with self.clock("tracking"):
            self.tracker.log(self.step, values)

    def evaluate(self, last: bool) -> None:
        """Evaluate with sampled and with mode actions, and film an episode when asked for."""
        with self.clock("evaluation"):
            self.evaluation = summarize(
                self.evaluator.run(self.agent, "sample"), self.evaluator.run(self.agent, "mode")
            )
            self.evaluated_at = self.step
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

    # Saving

    def save(self) -> None:
        """Write a checkpoint from which the run goes on exactly as it would have."""
        with self.clock("saving"):
            self.late_states.flush()
            state = {
                "step": self.step,
                "updates": self.updates,
                "episodes": self.episodes,
                "elapsed": self.clock.elapsed,
                "evaluation": self.evaluation,
                "evaluated_at": self.evaluated_at,
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
            checkpoint.save(self.folder.checkpoints, self.step, state, self.config.loop.keep_checkpoints)
            self.replay.commit()

    def begin(self) -> None:
        """Start from the first row of the first episodes."""
        self.collector.reset()
        self.clock.start(0, 0)

    def restore(self, state: dict[str, Any]) -> int:
        """Go on from a checkpoint's state; returns the length of metrics.jsonl at that point."""
        self.step, self.updates, self.episodes = state["step"], state["updates"], state["episodes"]
        self.evaluation, self.evaluated_at = state["evaluation"], state["evaluated_at"]
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
        self.vector.close()
        self.evaluator.close()

    def _due(self, interval: int, before: int) -> bool:
        return self.step // interval > before // interval


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
