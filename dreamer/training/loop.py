"""The training loop: collect, learn, log, evaluate, save. Read this second, after `batch.py`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from dreamer.errors import NotFinite
from dreamer.system.meters import peak_rss_mb
from dreamer.system.redaction import tell
from dreamer.training.evaluate import Stopped, film, summarize
from dreamer.training.session import Learned, Session


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


class Trainer(Session):
    """The loop; `Session` is what it works with and how that is saved."""

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
            if self.config.loop.video == "every" or (last and self.config.loop.video == "end"):
                self.film()

    def film(self) -> None:
        """Film an episode; a machine that cannot render gets one line instead."""
        path = self.folder.videos / f"eval_{self.step:09d}.mp4"
        try:
            film(self.agent, self.make_env, path, self.config.seed, timeout=self.config.env.timeout)
        except Exception as error:  # a film is never worth a run
            tell(f"no film: {error}")
        else:
            self.tracker.video(self.step, "eval/film", path)

    def imagine(self) -> None:
        """Compare what the model imagines with held-out episodes; what goes wrong gets one line.

        Nothing is done where nothing decodes.
        """
        if not self.agent.world_model.objective.decodes:
            return
        from dreamer.openloop import folder  # matplotlib takes a second to load
        from dreamer.openloop.evaluation import DURING_TRAINING, evaluate
        from dreamer.openloop.record import metrics

        with self.clock("imagination"):
            try:
                settings = replace(DURING_TRAINING, seed=self.config.seed)
                seen = evaluate(self.agent, self.make_env, settings, self.config.env.timeout)
                media = folder.write(seen, folder.folder_of(self.folder.path, self.step))
                self.tracker.log(self.step, metrics(seen))
            except Exception as error:  # a picture is never worth a run
                tell(f"no imagination: {error}")
                return
        for name, path in media.items():
            if path.suffix == ".mp4":
                self.tracker.video(self.step, f"imagination/{name}", path)
            else:
                self.tracker.image(self.step, f"imagination/{name}", path)

    def _due(self, interval: int, before: int) -> bool:
        return interval > 0 and self.step // interval > before // interval
