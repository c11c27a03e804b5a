"""Tasks of the DeepMind Control suite as Gymnasium environments; `dm_control` is imported with the first one."""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from envs.dmc_renderer import Renderer
from envs.errors import UserError
from envs.interface import Observation, ResetResult, StepResult
from envs.settings import Size

ALIASES = {"cup_catch": "ball_in_cup_catch"}
CAMERAS = {"quadruped": 2}
"""The camera that shows the body best, where that is not camera 0."""
FALLBACK_STEPS = 1000
"""Episode length of a task that has no time limit of its own (lqr)."""


@functools.cache
def _suite() -> ModuleType:
    """`dm_control.suite`, imported without OpenGL.

    The import loads the backend that MUJOCO_GL names, and fails or warns where that does not work, although
    observations of the state need none. So it runs with rendering disabled, and a backend is loaded with the first
    frame.
    """
    before = os.environ.get("MUJOCO_GL")
    os.environ["MUJOCO_GL"] = "disable"
    try:
        return importlib.import_module("dm_control.suite")
    except ImportError as error:
        option = "--no-deps " * (sys.version_info >= (3, 13))  # labmaze, which the suite does not need, has no wheel
        raise UserError(f"dmc tasks need dm_control (`pip install {option}dm_control`): {error}") from error
    finally:
        if before is None:
            del os.environ["MUJOCO_GL"]
        else:
            os.environ["MUJOCO_GL"] = before


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Context in which absl logs errors alone. MuJoCo's compiler warns of attributes in models of the suite."""
    from absl import logging

    before = logging.get_verbosity()
    logging.set_verbosity(min(before, logging.ERROR))
    try:
        yield
    finally:
        logging.set_verbosity(before)


@functools.cache
def dmc_tasks() -> dict[str, tuple[str, str]]:
    """Every task of the suite: "walker_walk" -> ("walker", "walk"). Raises UserError where dm_control is missing."""
    return {f"{domain}_{task}": (domain, task) for domain, task in _suite().ALL_TASKS}


class DMC(gymnasium.Env):
    """One task of the suite: float32 vectors as observations, native actions, truncation at the time limit.

    `render()` and `draw()` return uint8 frames [height, width, 3]. Only they need OpenGL, and they raise UserError
    where there is none. `shadows=False` leaves out shadows and reflections, which take most of the time without a
    graphics card. `task_kwargs` are arguments of the task. Raises UserError for a camera that the model does not have.
    """

    def __init__(
        self,
        domain: str,
        task: str,
        render_size: Size = (256, 256),
        camera: int | None = None,
        shadows: bool = True,
        **task_kwargs: Any,
    ) -> None:
        # The seed matters only to lqr, which draws its stiffnesses when built: every copy must be the same problem.
        suite = _suite()
        with _without_warnings():
            self._env = suite.load(domain, task, task_kwargs={**task_kwargs, "random": 0})
        self._physics, self._task = self._env.physics, self._env.task
        shapes = {key: spec.shape for key, spec in self._env.observation_spec().items() if 0 not in spec.shape}
        self._keys = sorted(shapes)
        self.observation_space = spaces.Dict(
            {key: spaces.Box(-np.inf, np.inf, (int(np.prod(shapes[key])),), np.float32) for key in self._keys}
        )
        action = self._env.action_spec()
        self.action_space = spaces.Box(action.minimum.astype(np.float32), action.maximum.astype(np.float32))
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": round(1 / self._env.control_timestep())}
        self.render_mode = "rgb_array"
        self.camera = CAMERAS.get(domain, 0) if camera is None else camera
        cameras = max(1, self._physics.model.ncam)
        if not -1 <= self.camera < cameras:
            raise UserError(f"camera must be -1 (free) to {cameras - 1} for {domain}, got {camera}")
        self._renderer, self._render_size = Renderer(self._physics, self.camera, shadows), render_size
        self._limit = self._env._step_limit if np.isfinite(self._env._step_limit) else FALLBACK_STEPS
        self._steps, self._running = 0, False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> ResetResult:
        super().reset(seed=seed)
        if seed is not None:
            self._task.random.seed(seed % 2**32)
        self._steps, self._running = 0, True
        return self._vectors(self._env.reset().observation), {}

    def extend(self, limit: int) -> None:
        """Raise the time limit to this number of steps, if it is lower."""
        self._limit = max(self._limit, limit)
        self._env._step_limit = max(self._env._step_limit, limit)

    def step(self, action: np.ndarray) -> StepResult:
        if not self._running:
            raise gymnasium.error.ResetNeeded("no episode is running: call reset first")
        result = self._env.step(action)
        self._steps += 1
        terminated = bool(result.last() and result.discount == 0.0)
        truncated = not terminated and bool(result.last() or self._steps >= self._limit)
        self._running = not (terminated or truncated)
        return self._vectors(result.observation), float(result.reward), terminated, truncated, {}

    def render(self) -> np.ndarray:
        return self.draw(*self._render_size)

    def draw(self, height: int, width: int) -> np.ndarray:
        """Current frame `[height, width, 3]`, uint8, at any size. Raises RuntimeError if the OpenGL context died."""
        return self._renderer.draw(height, width)

    def close(self) -> None:
        self._renderer.close()

    def _vectors(self, observation: Any) -> Observation:
        return {key: np.array(observation[key], dtype=np.float32).reshape(-1) for key in self._keys}
