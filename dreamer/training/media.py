"""Videos and pictures of a run in training. If one fails, one line says so, and training continues."""

from __future__ import annotations

from dataclasses import replace

from dreamer.agent import Agent
from dreamer.errors import UserError
from dreamer.runs.folder import RunFolder
from dreamer.system.redaction import warn
from dreamer.tracking import Tracker
from dreamer.training.plan import Plan
from dreamer.training.video import record_video


def show_video(plan: Plan, agent: Agent, folder: RunFolder, step: int, tracker: Tracker) -> None:
    """Record an evaluation episode and pass the video to the tracker."""
    path = folder.videos / f"eval_{step:09d}.mp4"
    try:
        path.parent.mkdir(exist_ok=True)  # without its parents: the run folder may have been moved
        record_video(agent, plan.factory, path, plan.config.seed, timeout=plan.config.env.timeout)
    except Exception as error:
        warn(f"no video: {error}")
    else:
        tracker.video(step, "eval/film", path)


def show_curve(folder: RunFolder) -> None:
    """Draw the learning curve of a run."""
    from dreamer.tracking.plotting import draw_curve

    try:
        draw_curve(folder.metrics, folder.path / "curve.png", title=folder.config.task)
    except (OSError, UserError) as error:
        warn(f"no curve.png: {error}")


def show_open_loop(plan: Plan, agent: Agent, folder: RunFolder, step: int, tracker: Tracker) -> None:
    """Evaluate imagined rollouts against held-out episodes and pass metrics, videos and figures to the tracker.

    Nothing is done where the objective has no decoder.
    """
    if not agent.world_model.objective.decodes:
        return
    from dreamer.openloop import folder as files  # matplotlib takes a second to load
    from dreamer.openloop.evaluation import DURING_TRAINING, evaluate
    from dreamer.openloop.record import metrics

    try:
        settings = replace(DURING_TRAINING, seed=plan.config.seed)
        found = evaluate(agent, plan.factory, settings, plan.config.env.timeout)
        files.folder_of(folder.path, step).parent.mkdir(exist_ok=True)  # without its parents
        media = files.write(found, files.folder_of(folder.path, step))
        tracker.log(step, metrics(found))
    except Exception as error:
        warn(f"no open-loop evaluation: {error}")
        return
    for name, path in media.items():
        if path.suffix == ".mp4":
            tracker.video(step, f"imagination/{name}", path)
        else:
            tracker.image(step, f"imagination/{name}", path)
