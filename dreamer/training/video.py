"""Videos of evaluation episodes."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from dreamer.agent import Agent
from dreamer.errors import UserError, first_line
from dreamer.system.randomness import own_randomness
from dreamer.tracking.progress import phase
from dreamer.tracking.video import write_mp4
from envs import EVAL_INDEX, MakeEnv
from envs.guarded import Guarded
from envs.rendering import select_backend

VIDEO_FPS = 25
"""Most frames per second of a video."""


def record_video(
    agent: Agent, make_env: MakeEnv, path: Path, seed: int, max_seconds: float = 40.0, timeout: float = 0.0
) -> Path:
    """Write an MP4 of one evaluation episode with sampled actions, at real speed and at most 25 frames per second.

    Raises `UserError` when the environment fails (`timeout` as in `Evaluator`), when this machine cannot render it, or
    when `path` cannot be written.
    """
    select_backend()  # Gymnasium's own MuJoCo environments need to be told how to render here
    with (
        phase("filming", unit="steps") as show,
        closing(Guarded(partial(make_env, EVAL_INDEX), timeout)) as env,
        own_randomness(agent.device, seed),
    ):
        fps = float(env.metadata.get("render_fps") or 30)
        every = max(1, round(fps / VIDEO_FPS))
        frames: list[np.ndarray] = []
        obs, info = env.reset()
        carry, done, step = None, False, 0
        while not done and len(frames) < max_seconds * VIDEO_FPS:
            if "failure" in info:
                raise UserError(f"the environment failed: {first_line(info['failure'])}")
            if step % every == 0:
                frames.append(_frame(env))
            action, carry = agent.act({key: obs[key] for key in agent.obs_shapes}, carry is None, carry)
            obs, _, terminated, truncated, info = env.step(action)
            done = terminated or truncated
            step += 1
            show(step)
        write_mp4(path, frames, fps / every)
    return path


def _frame(env: gymnasium.Env) -> np.ndarray:
    frame: Any = env.render() if env.render_mode == "rgb_array" else None
    if not isinstance(frame, np.ndarray) or frame.ndim != 3:
        raise UserError("the environment renders no RGB frames (render_mode 'rgb_array'), so no video can be made")
    return frame
