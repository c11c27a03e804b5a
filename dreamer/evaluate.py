"""Episodes without learning: returns, and a film."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

import envs
from dreamer.agent import ActionMode, Agent
from dreamer.errors import UserError
from dreamer.heldout import HeldOut
from dreamer.randomness import own_randomness
from dreamer.redaction import tell
from envs.guarded import Guarded
from envs.rendering import select_backend

LIMIT = 50_000
"""Agent steps after which an evaluation episode that has not ended is cut."""
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
    held_out: Mapping[str, float] = field(default_factory=dict)
    """Metrics of the world model and the critic in these episodes (`dreamer.heldout`)."""


class Stopped(Exception):
    """An evaluation was given up because its caller wanted to stop."""


class AllFailed(UserError):
    """No episode of an evaluation came to an end, since every environment failed."""


class Evaluator:
    """Runs one episode in each of `episodes` environments at once; every evaluation sees the same initial states.

    An episode that has not ended after `limit` agent steps is cut and counts as it stands. One whose environment fails
    (see `envs.guarded`; `timeout` in seconds, 0 waits for ever) does not count. Both are told in one line.
    """

    def __init__(self, make_env: MakeEnv, episodes: int, seed: int, limit: int = LIMIT, timeout: float = 0.0):
        self.indices = [EVAL_INDEX + i for i in range(episodes)]
        self.seed, self.limit = seed, limit
        self.vector = envs.make_vector(make_env, self.indices, parallel=False, timeout=timeout)

    def run(self, agent: Agent, mode: ActionMode, stop: Callable[[], bool] = lambda: False) -> Evaluation:
        """Evaluate with sampled actions or the policy's mode. Leaves the global random state as it was.

        With sampled actions, which is how the critic thinks the agent acts, `held_out` is filled too. Raises `Stopped`
        as soon as `stop` says so, and `UserError` when every environment fails twice.
        """
        try:
            return self._once(agent, mode, stop)
        except AllFailed as error:  # perhaps by what they share, as what draws their frames; it is made anew with them
            tell(f"{error}; trying once more")
            return self._once(agent, mode, stop)

    def _once(self, agent: Agent, mode: ActionMode, stop: Callable[[], bool]) -> Evaluation:
        with own_randomness(agent.device, self.seed):
            return self._run(agent, mode, stop)

    def _run(self, agent: Agent, mode: ActionMode, stop: Callable[[], bool]) -> Evaluation:
        obs, *_ = envs.restore_vector(self.vector, dict.fromkeys(self.indices, (0, ())))
        count = len(self.indices)
        returns, lengths = np.zeros(count), np.zeros(count, np.int64)
        running, failed = np.ones(count, bool), dict[int, str]()
        carry, steps, held_out = None, 0, HeldOut(agent, count)
        while running.any() and steps < self.limit:
            if stop():
                raise Stopped
            actions, carry = agent.act(obs, np.full(count, carry is None), carry, mode)
            if mode == "sample":
                held_out.chosen(carry, running)
            obs, rewards, terminated, truncated, info = self.vector.step(actions)
            terminated, truncated = np.asarray(terminated, bool), np.asarray(truncated, bool)
            steps += 1
            returns[running] += rewards[running]
            lengths[running] += 1
            failed |= {place: text for place, text in envs.failures(info).items() if running[place]}
            running[list(failed)] = False
            if mode == "sample" and running.any():
                held_out.arrived(obs, rewards, terminated, truncated, running, carry)
            running &= ~(terminated | truncated)
        self._tell(int(running.sum()), failed)
        kept = np.setdiff1d(np.arange(count), list(failed))
        return Evaluation(returns[kept], lengths[kept], held_out.metrics() if mode == "sample" else {})

    def _tell(self, cut: int, failed: dict[int, str]) -> None:
        of = f"of {len(self.indices)} evaluation episodes"
        if cut:
            tell(f"{cut} {of} had not ended after {self.limit} steps and were cut there")
        if failed:
            reason = next(iter(failed.values())).partition("\n")[0]
            if len(failed) == len(self.indices):
                raise AllFailed(f"every evaluation environment failed: {reason}")
            tell(f"{len(failed)} {of} failed and do not count: {reason}")

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
        **sampled.held_out,
    }


def film(
    agent: Agent, make_env: MakeEnv, path: Path, seed: int, max_seconds: float = 40.0, timeout: float = 0.0
) -> Path:
    """Write an MP4 of one evaluation episode with sampled actions, at real speed and 25 frames per second.

    Raises `UserError` when the environment fails (`timeout` as of `Evaluator`), when it cannot be rendered on this
    machine, or `path` cannot be written.
    """
    select_backend()  # Gymnasium's own MuJoCo environments have to be told what draws here
    with closing(Guarded(partial(make_env, EVAL_INDEX), timeout)) as env, own_randomness(agent.device, seed):
        fps = float(env.metadata.get("render_fps") or 30)
        every = max(1, round(fps / FILM_FPS))
        frames: list[np.ndarray] = []
        obs, info = env.reset()
        carry, done, step = None, False, 0
        while not done and len(frames) < max_seconds * FILM_FPS:
            if "failure" in info:
                raise UserError(f"the environment failed: {info['failure'].partition(chr(10))[0]}")
            if step % every == 0:
                frames.append(_frame(env))
            action, carry = agent.act(obs, carry is None, carry)
            obs, _, terminated, truncated, info = env.step(action)
            done = terminated or truncated
            step += 1
    write_mp4(path, frames, fps / every)
    return path


def evaluation_films(run: Path) -> list[Path]:
    """The films of a run's evaluations, oldest first; one that is being written is none."""
    paths = (run / "videos").glob("eval_*.mp4")
    return sorted(path for path in paths if path.stem.removeprefix("eval_").isdecimal())


def write_mp4(path: Path, frames: list[np.ndarray], fps: float, quality: int = 6) -> None:
    """Encode uint8 frames `[height, width, 3]` as H.264 that every browser plays; `quality` is from 0 to 10.

    Raises `UserError` when `path` cannot be written.
    """
    import imageio.v2

    temporary = path.with_name(f"{path.stem}.part.mp4")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)  # it may be a link to something else
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            imageio.v2.mimwrite(temporary, frames, fps=fps, codec="libx264", quality=quality, macro_block_size=2)  # type: ignore[arg-type]
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise UserError(f"cannot write the film {path}: {error.strerror or 'ffmpeg failed'}") from error


def _frame(env: gymnasium.Env) -> np.ndarray:
    frame: Any = env.render() if env.render_mode == "rgb_array" else None
    if not isinstance(frame, np.ndarray) or frame.ndim != 3:
        raise UserError("the environment renders no RGB frames (render_mode 'rgb_array'), so it cannot be filmed")
    return frame
