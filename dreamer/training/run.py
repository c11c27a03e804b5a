"""Running a plan: build the parts of the run, restore them, train, and close everything."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from types import FrameType
from typing import Any

import torch

from dreamer.config import group_name, override, used_tree
from dreamer.runs import checkpoint
from dreamer.runs.folder import RunFolder
from dreamer.runs.saved import State
from dreamer.system import ranks
from dreamer.system.redaction import show, warn
from dreamer.tracking import Tracker, open_tracker
from dreamer.tracking.progress import phase
from dreamer.training.decays import plan_decays
from dreamer.training.evaluate import Evaluator
from dreamer.training.loop import Result, Trainer
from dreamer.training.media import show_curve
from dreamer.training.plan import Plan, few_updates
from dreamer.training.state import RunState
from envs.process import INSISTENT, stop_signals


def run_plan(
    plan: Plan,
    folder: RunFolder,
    *,
    state: State | None = None,
    weights: dict[str, Any] | None = None,
    foreign: Mapping[str, str] | None = None,
    replanned: bool = False,
) -> Result:
    """Train from a checkpoint's `state`, or from the beginning with initial `weights`; `foreign` as in `WandbView`.

    With `replanned`, one line says how settings that decay continue, because their plan has changed.
    """
    config, loop = plan.config, plan.config.loop
    with ExitStack() as stack:
        received = stack.enter_context(_graceful_stop())
        run = stack.enter_context(closing(RunState(plan, folder)))
        evaluator = None
        if ranks.number() == 0:
            evaluator = Evaluator(plan.factory, loop.eval_episodes, config.seed, loop.eval_limit, config.env.timeout)
            stack.callback(evaluator.close)
        if weights is not None:
            run.agent.load_state_dict(run.agent.state_dict() | weights)
        if state is None:
            run.begin()
        else:
            run.load_state_dict(state)
        if replanned and (courses := plan_decays(run.agent, config.planned_updates)):
            warn(f"of {config.planned_updates:,} planned updates: {'; '.join(courses)}")
        _describe(plan, folder, run, resumed=state is not None)
        tracker = _open_tracker(folder, state["metrics_offset"] if state is not None else None, foreign)
        trainer = Trainer(plan, folder, run, evaluator, tracker, received)
        try:
            result = ranks.first(trainer.train())
        except BaseException:
            tracker.close("failed")
            raise
        if ranks.number():
            tracker.close(result.status)
        else:
            complete(folder, tracker, result)
        ranks.barrier()  # a process that ends before the others would end them
        return result


def complete(folder: RunFolder, tracker: Tracker, result: Result) -> None:
    """Do what follows the last checkpoint. A run that is killed meanwhile does it again when it is resumed."""
    tracker.summary(result.evaluation)
    wanted = folder.config.tracking.wandb_artifact
    if wanted != "off" and result.status == "finished" and (file := checkpoint.file_of(folder.checkpoints, wanted)):
        files = {name: folder.path / name for name in ("config.json", "run.json")}
        tracker.artifact(checkpoint.step_of(file), wanted, files | {f"checkpoints/{file.name}": file})
    try:
        with phase("drawing"):
            show_curve(folder)
    finally:
        tracker.close(result.status)
    if result.status == "finished":
        folder.info["complete"] = result.step
        folder.save()


def complete_again(
    folder: RunFolder, result: Result, state: Mapping[str, Any], foreign: Mapping[str, str] | None
) -> None:
    """Do what a finished run has not done because it was killed after its last checkpoint, with that one's `state`."""
    known = "imagination_due" in state  # older versions did not note that they had come to the end
    if known and folder.info.get("complete") != result.step:
        complete(folder, _open_tracker(folder, state["metrics_offset"], foreign), result)
    elif not (folder.path / "curve.png").exists():
        show_curve(folder)


def _open_tracker(folder: RunFolder, offset: int | None, foreign: Mapping[str, str] | None) -> Tracker:
    config, group = folder.config, group_name(folder.config, folder.info.get("start_from"))
    if ranks.number():  # its share of the records, in its own file
        config = override(config, {"tracking.wandb": "off", "tracking.tensorboard": False, "tracking.console": False})
    return open_tracker(
        config.tracking, folder.share, folder.info, used_tree(config), config.steps, offset, foreign, group
    )


def _describe(plan: Plan, folder: RunFolder, run: RunState, resumed: bool) -> None:
    """Write config.json and run.json, now with the sizes of agent and replay, and all that rounding depends on."""
    expected, compiled, torch_version = plan.forecast, run.learner.compiled, str(torch.__version__)
    now: dict[str, str | int | bool] = {"device": plan.device, "threads": torch.get_num_threads()}
    now |= {"compiled": compiled, "torch": torch_version}
    former = folder.numerics if resumed else now
    differ = [f"{name} {former[name]} -> {value}" for name, value in now.items() if former.get(name, value) != value]
    if differ:
        warn(f"{', '.join(differ)}: from here on, rounding differs from that of a run that was never interrupted")
    folder.info |= {"device": plan.device, "numerics": now}
    folder.info["parameters"] = run.agent.parameter_counts()
    folder.info["replay"] = {"bytes_per_row": expected.row_bytes, "rows": expected.rows, "bytes": expected.total}
    folder.save()
    if plan.config.tracking.console:
        show(*_header(plan, folder, run, resumed))
        few = few_updates(plan.config, run.learner.updates, run.progress.step)
        warn(*[f"warning: {few}"] * bool(few))


def _header(plan: Plan, folder: RunFolder, run: RunState, resumed: bool) -> list[str]:
    """Lines about the run that starts or resumes."""
    config, source = plan.config, folder.info.get("start_from")
    core, env, threads = config.agent.dynamics.core, config.env, torch.get_num_threads()
    agent = f"{core}, {sum(folder.info['parameters'].values()):,} parameters"
    beginning = f"weights of {source['path']} ({source['load']})" if source else "new weights"
    if resumed:
        beginning = f"resumed at step {run.progress.step:,}, with {run.learner.updates:,} updates made"
    return [
        f"task        {config.task}, {env.num_envs} environment{'s' * (env.num_envs > 1)}, action repeat {env.repeat}",
        f"agent       {agent}, preset {config.preset}, size {config.size}, seed {config.seed}",
        f"device      {plan.device}, {threads} thread{'s' * (threads > 1)}",
        f"steps       {config.steps:,}, {beginning}",
        f"run folder  {folder.path}",
        f"replay      {plan.forecast}",
    ]


@contextmanager
def _graceful_stop() -> Iterator[list[int]]:
    """Context in which a stop signal is received as a request; a second SIGINT or SIGTERM ends the process at once."""
    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if number in INSISTENT:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        if not received:
            received.append(number)
            with suppress(RuntimeError):  # it came while the same stream was being written
                warn(f"{signal.Signals(number).name} received: saving a checkpoint, then stopping")

    with stop_signals(stop):
        yield received
