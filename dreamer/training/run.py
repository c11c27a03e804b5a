"""Running a plan: build the parts of the run, restore them, train, and close everything."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from types import FrameType
from typing import Any

from dreamer.runs.folder import RunFolder
from dreamer.runs.trust import understood
from dreamer.system.redaction import warn
from dreamer.tracking import open_tracker
from dreamer.tracking.plotting import draw_curve
from dreamer.training.evaluate import Evaluator
from dreamer.training.loop import Result, Trainer
from dreamer.training.plan import Plan
from dreamer.training.state import RunState


def run_plan(
    plan: Plan,
    folder: RunFolder,
    *,
    state: dict[str, Any] | None = None,
    weights: dict[str, Any] | None = None,
    foreign: Mapping[str, str] | None = None,
) -> Result:
    """Train from a checkpoint's `state`, or from the beginning with initial `weights`; `foreign` as in `WandbView`."""
    config, loop = plan.config, plan.config.loop
    with closing(RunState(plan, folder)) as run:
        evaluator = Evaluator(plan.factory, loop.eval_episodes, config.seed, loop.eval_limit, config.env.timeout)
        with closing(evaluator):
            if weights is not None:
                run.agent.load_state_dict(run.agent.state_dict() | weights)
            if state is None:
                run.begin()
            else:
                with understood(folder.checkpoints):
                    run.load_state_dict(state)
            _complete(plan, folder, run)
            settings = dataclasses.asdict(config)
            offset = state["metrics_offset"] if state is not None else None
            tracker = open_tracker(config.tracking, folder.path, folder.info, settings, config.steps, offset, foreign)
            trainer = Trainer(plan, folder, run, evaluator, tracker)
            try:
                with _graceful_stop(trainer):
                    result = trainer.train()
            except BaseException:
                tracker.close("failed")
                raise
            tracker.summary(result.evaluation)
            tracker.close(result.status)
            draw_curve(folder.metrics, folder.path / "curve.png", title=config.task)
            return result


def _complete(plan: Plan, folder: RunFolder, run: RunState) -> None:
    """Write config.json and run.json, now with the sizes of agent and replay."""
    expected = plan.forecast
    folder.info["parameters"] = run.agent.parameter_counts()
    folder.info["replay"] = {"bytes_per_row": expected.row_bytes, "rows": expected.rows, "bytes": expected.total}
    if plan.config.tracking.console:
        warn(str(expected))
    folder.save()


@contextmanager
def _graceful_stop(trainer: Trainer) -> Iterator[None]:
    """On SIGINT or SIGTERM finish the step, save and return; a second signal ends the process at once."""

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        warn(f"{signal.Signals(number).name} received: saving a checkpoint, then stopping")
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
