"""The DeepMind Control suite as Gymnasium environments; `dm_control` is imported when the first one is made."""

from __future__ import annotations

import functools
import importlib
import os
import sys
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from envs.errors import UserError
from envs.rendering import require_backend

ALIASES = {"cup_catch": "ball_in_cup_catch"}
CAMERAS = {"quadruped": 2}
"""The camera that shows the body best, where it is not camera 0."""
FALLBACK_STEPS = 1000
"""Length of an episode of a task that has no time limit of its own (lqr)."""
_DEAD_CONTEXTS: list[Any] = []
"""OpenGL contexts of this process that died, kept for ever; see `DMC._abandon_contexts`."""


@functools.cache
def _suite() -> ModuleType:
    """`dm_control.suite`, imported without touching OpenGL.

    Importing it loads the backend that MUJOCO_GL names, and fails or warns where that cannot work, although states
    need none. So it is imported with rendering off, and `_load_renderer` loads a backend when a frame is wanted.
    """
    before = os.environ.get("MUJOCO_GL")
    os.environ["MUJOCO_GL"] = "disable"
    try:
        return importlib.import_module("dm_control.suite")
    except ImportError as error:
        raise UserError(f"dmc tasks need dm_control (`pip install dm_control`): {error}") from error
    finally:
        if before is None:
            del os.environ["MUJOCO_GL"]
        else:
            os.environ["MUJOCO_GL"] = before


@functools.cache
def dmc_tasks() -> dict[str, tuple[str, str]]:
    """Every task of the suite: "walker_walk" -> ("walker", "walk"). Raises UserError when dm_control is missing."""
    return {f"{domain}_{task}": (domain, task) for domain, task in _suite().ALL_TASKS}


class DMC(gymnasium.Env):
    """One task of the suite: a float32 vector per observation, native actions, truncation at the time limit.

    `render()` and `draw()` return uint8 frames [height, width, 3] and are the only methods that need OpenGL; they raise
    UserError where there is none. `shadows=False` leaves out shadows and reflections, which take most of the time where
    no graphics card draws. Raises UserError for a camera the model does not have.
    """

    def __init__(
        self,
        domain: str,
        task: str,
        render_size: tuple[int, int] = (256, 256),
        camera: int | None = None,
        shadows: bool = True,
    ) -> None:
        # The seed matters only to lqr, which draws its stiffnesses when built: every copy must be the same problem.
        self._env = _suite().load(domain, task, task_kwargs={"random": 0})
        self._physics, self._task = self._env.physics, self._env.task
        # A task may ask for contexts at a reset (quadruped_escape uploads its terrain): none until a frame is drawn.
        self._physics._make_rendering_contexts = lambda: None
        shapes = {key: spec.shape for key, spec in self._env.observation_spec().items() if 0 not in spec.shape}
        self._keys = sorted(shapes)
        self.observation_space = spaces.Dict(
            {key: spaces.Box(-np.inf, np.inf, (int(np.prod(shapes[key])),), np.float32) for key in self._keys}
        )
        action = self._env.action_spec()
        self.action_space = spaces.Box(action.minimum.astype(np.float32), action.maximum.astype(np.float32))
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": round(1 / self._env.control_timestep())}
        self.render_mode = "rgb_array"
        cameras = max(1, self._physics.model.ncam)
        self._camera = CAMERAS.get(domain, 0) if camera is None else camera
        if not -1 <= self._camera < cameras:
            raise UserError(f"camera must be -1 (free) to {cameras - 1} for {domain}, got {camera}")
        self._render_size, self._views = render_size, dict[tuple[int, int], Any]()
        self._effects = {} if shadows else {"shadow": False, "reflection": False}
        self._limit = self._env._step_limit if np.isfinite(self._env._step_limit) else FALLBACK_STEPS
        self._steps, self._running = 0, False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self._task.random.seed(seed % 2**32)
        self._steps, self._running = 0, True
        return self._vectors(self._env.reset().observation), {}

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        if not self._running:
            raise gymnasium.error.ResetNeeded("the episode has ended or was never started: call reset first")
        now = self._env.step(action)
        self._steps += 1
        terminated = now.last() and now.discount == 0.0
        truncated = not terminated and (now.last() or self._steps >= self._limit)
        self._running = not (terminated or truncated)
        return self._vectors(now.observation), float(now.reward), terminated, truncated, {}

    def render(self) -> np.ndarray:
        return self.draw(*self._render_size)

    def draw(self, height: int, width: int) -> np.ndarray:
        """The present frame `[height, width, 3]`, uint8, at any size; RuntimeError when the OpenGL context has died."""
        try:
            if (height, width) not in self._views:
                self._views[height, width] = self._make_view(height, width)
            self._make_current()
            return self._draw(self._views[height, width])
        except (UserError, TimeoutError):
            raise
        except Exception as error:
            self._abandon_contexts()
            reason = getattr(getattr(error, "err", None), "name", error)  # PyOpenGL's errors have many lines
            raise RuntimeError(f"its OpenGL context has died ({reason})") from error

    def _draw(self, view: Any) -> np.ndarray:
        """A copy of the view's own buffer, which it draws into again. Where nothing draws, OpenGL need not say so."""
        unseen = ~view._rgb_buffer
        view._rgb_buffer[:] = unseen  # no frame is the negative of the one before it
        frame = view.render(render_flag_overrides=self._effects).copy()
        if np.array_equal(view._rgb_buffer, unseen):
            raise RuntimeError("it drew nothing")
        return frame

    def _make_view(self, height: int, width: int) -> Any:
        """A view that is kept, since making one takes longer than drawing 64x64 pixels."""
        from dm_control.mujoco.engine import Camera

        if not self._views:
            _load_renderer()
            del self._physics._make_rendering_contexts
        buffer = self._physics.model.vis.global_
        if width > buffer.offwidth or height > buffer.offheight:
            buffer.offwidth, buffer.offheight = max(width, buffer.offwidth), max(height, buffer.offheight)
            if self._views:
                self._physics._free_rendering_contexts()  # the next frame makes larger ones
        return Camera(self._physics, height, width, self._camera)

    def _make_current(self) -> None:
        """Make this environment's context the current one; dm_control would trust its memory that it still is."""
        gl = self._physics.contexts.gl
        with gl.make_current() as its_thread:
            its_thread.call(gl._platform_make_current)

    def _abandon_contexts(self) -> None:
        """Leave dead contexts as they are: freeing them would delete what has the same numbers in a living one."""
        contexts, self._physics._contexts = self._physics._contexts, None
        self._views.clear()
        if contexts is not None:
            contexts.gl._render_executor.terminate()  # so that neither garbage collection nor the exit frees them
            _DEAD_CONTEXTS.append(contexts)

    def close(self) -> None:
        try:
            if self._views:
                self._make_current()
            self._physics.free()
        except Exception:
            self._abandon_contexts()

    def _vectors(self, observation: Any) -> dict[str, np.ndarray]:
        return {key: np.array(observation[key], dtype=np.float32).reshape(-1) for key in self._keys}


def _load_renderer() -> None:
    """Give dm_control its backend after the fact. Raises UserError when nothing can draw here."""
    from dm_control import _render

    if require_backend() != _render.BACKEND:
        importlib.reload(_render)
    egl: Any = sys.modules.get("dm_control._render.pyopengl.egl_renderer")
    if _DEAD_CONTEXTS and egl is not None:
        # Their display may have died with them. One that lives stays as it is.
        egl.EGL_DISPLAY = egl.create_initialized_headless_egl_display()
