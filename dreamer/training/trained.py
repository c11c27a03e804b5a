"""Evaluation, open-loop predictions and videos of trained agents, from Python."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import envs
from dreamer.agent import Agent
from dreamer.behavior.acting import ActionMode, check_mode
from dreamer.config import override
from dreamer.errors import UserError, reason
from dreamer.openloop import evaluation, folder
from dreamer.openloop.evaluation import OpenLoopEvaluation, OpenLoopSettings
from dreamer.runs.folder import RunFolder, open_run
from dreamer.runs.trust import check_folder, check_imports
from dreamer.system.redaction import warn
from dreamer.training.evaluate import Evaluation, Evaluator
from dreamer.training.launch import make_factory, make_factory_of
from dreamer.training.load import load
from dreamer.training.video import record_video

Trained = Agent | Path | str
"""An agent, or a run folder, whose newest checkpoint is loaded."""
Env = str | envs.BuildEnv | envs.EnvFactory | None
"""A task by name, the constructor of your own environment, an `envs.EnvFactory`, or None: the environment of the run.

Tasks and constructors are prepared with the settings of the run, such as its action repeat. For an agent they have the
default settings; an `envs.EnvFactory(task, 0, envs.EnvSettings(repeat=4))` has yours.
"""


def evaluate(
    run_or_agent: Trained,
    env: Env = None,
    episodes: int = 10,
    *,
    mode: ActionMode = "sample",
    deterministic: bool = False,
    seed: int = 0,
    video: Path | str | None = None,
    device: str = "cpu",
    checkpoint: int | str | None = None,
) -> Evaluation:
    """Run episodes without learning; `dreamer evaluate` from Python.

    Args:
        run_or_agent: agent or run folder.
        env: environment; a run that was trained with `make_env` needs it here.
        episodes: number of episodes, which run side by side.
        mode: "sample" or "mode" of the policy. The latent is sampled.
        deterministic: take the mode of policy and latent.
        seed: seed of the environments and samples. Training never uses the same initial states.
        video: file for an MP4 of one episode with sampled actions.
        device: device for the agent of a run folder.
        checkpoint: step of the checkpoint of a run folder, or "best" by evaluation; the default is the newest.

    Returns:
        Returns and lengths of the episodes, as numpy arrays.

    Raises:
        UserError: for an environment that does not fit the agent, or whose every episode fails.
    """
    if isinstance(episodes, bool) or not isinstance(episodes, int) or episodes < 1:
        raise UserError(f"episodes must be a whole number of at least 1, got {episodes!r}")
    check_mode(mode)
    agent, factory = _agent_and_factory(run_or_agent, env, device, "evaluate", checkpoint)
    factory = replace(factory, seed=seed)
    with closing(Evaluator(factory, episodes, seed)) as evaluator:
        result = evaluator.run(agent, mode, deterministic=deterministic)
    if video is not None:
        record_video(agent, factory, Path(video), seed)
    return result


def imagine(
    run_or_agent: Trained,
    env: Env = None,
    *,
    write_to: Path | str | None = None,
    device: str = "cpu",
    checkpoint: int | str | None = None,
    **settings: Any,
) -> OpenLoopEvaluation:
    """Predict held-out episodes from their first steps and their actions; `dreamer imagine` from Python.

    Args:
        run_or_agent: agent or run folder.
        env: environment; a run that was trained with `make_env` needs it here.
        write_to: folder for figures, videos and numbers; the default writes none.
        device: device for the agent of a run folder.
        checkpoint: as in `evaluate`.
        settings: fields of `OpenLoopSettings`, such as `horizon=50` and `episodes=8`.

    Returns:
        Truth, samples, imagined rollouts and errors of every observation key and of the reward, as numpy arrays.

    Raises:
        UserError: for settings that do not exist, an agent without a decoder, or an environment that does not fit.
    """
    wanted = override(OpenLoopSettings(), settings)
    target = None if write_to is None else Path(write_to)
    if target is not None:
        check_folder(target)
    agent, factory = _agent_and_factory(run_or_agent, env, device, "imagine", checkpoint)
    seen = evaluation.evaluate(agent, factory, wanted)
    if target is not None:
        try:
            folder.write(seen, target)
        except OSError as error:
            raise UserError(f"cannot write to {target}: {reason(error)}") from None
    return seen


def _agent_and_factory(
    run_or_agent: Trained, env: Env, device: str, function: str, checkpoint: int | str | None
) -> tuple[Agent, envs.EnvFactory]:
    if isinstance(run_or_agent, Agent):
        if checkpoint is not None:
            raise UserError("an agent has its weights: checkpoint= is for a run folder")
        if env is None:
            raise UserError(f"an agent has no environment of its own: name one, as in dreamer.{function}(agent, env)")
        return run_or_agent, _factory(env, None, function)
    run = open_run(Path(run_or_agent))
    factory = _factory(env, run, function)  # before the weights are read
    return load(run_or_agent, device, checkpoint), factory


def _factory(env: Env, run: RunFolder | None, function: str) -> envs.EnvFactory:
    if isinstance(env, envs.EnvFactory):
        return env
    if isinstance(env, str):
        if run is None:
            warn(f"{env} has the default settings here, such as action repeat 1; a run folder brings those of its run")
            return envs.EnvFactory(env, 0)
        check_imports(run.config, (), run.path, (env,))
        return make_factory(replace(run.config, task=env))
    if env is not None and not callable(env):
        raise UserError(f"env must be a task, a constructor of an environment or an envs.EnvFactory, got {env!r}")
    if run is None:
        return envs.EnvFactory("env", 0, custom=env)
    return make_factory_of(run, env, advice=f"dreamer.{function}(path, {{}})")
