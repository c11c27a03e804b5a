"""Episodes without learning: returns, and a film."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

import envs
from dreamer.agent import ActionMode, Agent
from dreamer.errors import UserError
from envs.rendering import select_backend

EVAL_INDEX = 10_000
"""Evaluation environments have indices from here on, so they never share a seed with training environments."""
FILM_FPS = 25

MakeEnv = Callable[[int], gymnasium.Env]


@dataclass(frozen=True)
class Evaluation:
    """Undiscounted returns and lengths of finished episodes."""

    returns: np.ndarray
    """Sum of rewards of each episode `[episode]`."""
    lengths: np.ndarray
    """Agent steps of each episode `[episode]`."""


class Evaluator:
    """Runs one episode in each of `episodes` environments at once; every evaluation sees the same initial states."""

    def __init__(self, make_env: MakeEnv, episodes: int, seed: int):
        self.indices = [EVAL_INDEX + i for i in range(episodes)]
        self.seed = seed
        self.vector = envs.make_vector(make_env, self.indices, parallel=False)

    def run(self, agent: Agent, mode: ActionMode) -> Evaluation:
        """Evaluate with sampled actions or the policy's mode. Leaves the global random state as it was."""
        with _own_randomness(agent.device, self.seed):
            return self._run(agent, mode)

    def _run(self, agent: Agent, mode: ActionMode) -> Evaluation:
        obs, *_ = envs.restore_vector(self.vector, dict.fromkeys(self.indices, (0, ())))
        count = len(self.indices)
        returns, lengths = np.zeros(count), np.zeros(count, np.int64)
        running = np.ones(count, bool)
        carry = None
        while running.any():
            actions, carry = agent.act(obs, np.full(count, carry is None), carry, mode)
            obs, rewards, terminated, truncated, _ = self.vector.step(actions)
            returns[running] += rewards[running]
            lengths[running] += 1
            running &= ~(np.asarray(terminated) | np.asarray(truncated))
        return Evaluation(returns, lengths)

    def close(self) -> None:
        """Close the environments."""
        self.vector.close()


def summarize(sampled: Evaluation, mode: Evaluation) -> dict[str, float]:
    """Metrics of an evaluation with sampled actions and one with mode actions."""
    return {
        "eval/return_mean": float(sampled.returns.mean()),
        "eval/return_std": float(sampled.returns.std()),
        "eval/return_min": float(sampled.returns.min()),
        "eval/return_max": float(sampled.returns.max()),
        "eval/length_mean": float(sampled.lengths.mean()),
        "eval/mode_return_mean": float(mode.returns.mean()),
        "eval/mode_return_std": float(mode.returns.std()),
        "eval/episodes": float(len(sampled.returns)),
    }


def film(agent: Agent, make_env: MakeEnv, path: Path, seed: int, max_seconds: float = 40.0) -> Path:
    """Write an MP4 of one evaluation episode with sampled actions, at real speed and 25 frames per second.

    Raises `UserError` when the environment cannot be rendered on this machine, or `path` cannot be written.
    """
    select_backend()  # Gymnasium's own MuJoCo environments have to be told what draws here
    with closing(make_env(EVAL_INDEX)) as env, _own_randomness(agent.device, seed):
        fps = float(env.metadata.get("render_fps") or 30)
        every = max(1, round(fps / FILM_FPS))
        frames: list[np.ndarray] = []
        obs, _ = env.reset()
        carry, done, step = None, False, 0
        while not done and len(frames) < max_seconds * FILM_FPS:
            if step % every == 0:
                frames.append(_frame(env))
            action, carry = agent.act(obs, carry is None, carry)
            obs, _, terminated, truncated, _ = env.step(action)
            done = terminated or truncated
            step += 1
    write_mp4(path, frames, fps / every)
    return path


def write_mp4(path: Path, frames: list[np.ndarray], fps: float) -> None:
    """Encode uint8 frames `[height, width, 3]` as H.264 that every browser plays.

    Raises `UserError` when `path` cannot be written.
    """
    import imageio.v2

    temporary = path.with_name(f"{path.stem}.part.mp4")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            imageio.v2.mimwrite(temporary, frames, fps=fps, codec="libx264", quality=6, macro_block_size=2)  # type: ignore[arg-type]
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"cannot write the film {path}: {error.strerror or 'ffmpeg failed'}") from error


def _frame(env: gymnasium.Env) -> np.ndarray:
    frame: Any = env.render() if env.render_mode == "rgb_array" else None
    if not isinstance(frame, np.ndarray) or frame.ndim != 3:
        raise UserError("the environment renders no RGB frames (render_mode 'rgb_array'), so it cannot be filmed")
    return frame


class _own_randomness:
    """Run with a given torch seed and put the caller's random state back afterwards."""

    def __init__(self, device: torch.device, seed: int):
        devices = [device] if device.type == "cuda" else []
        self._fork = torch.random.fork_rng(devices=devices)
        self._seed = seed

    def __enter__(self) -> None:
        self._fork.__enter__()
        torch.manual_seed(self._seed)

    def __exit__(self, *error: Any) -> None:
        self._fork.__exit__(*error)
