"""Frames of dm_control tasks, and recovery from OpenGL contexts that die."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import numpy as np

from envs.errors import UserError
from envs.rendering import require_backend

_DEAD_CONTEXTS: list[Any] = []
"""OpenGL contexts of this process that died and are never freed; see `Renderer._abandon_contexts`."""


class Renderer:
    """Draw the scene of a dm_control physics; OpenGL is loaded with the first frame."""

    def __init__(self, physics: Any, camera: int, shadows: bool) -> None:
        self._physics, self._camera = physics, camera
        self._effects = {} if shadows else {"shadow": False, "reflection": False}
        self._views: dict[tuple[int, int], Any] = {}
        # A task may create contexts at a reset (quadruped_escape uploads its terrain): none before the first frame.
        physics._make_rendering_contexts = lambda: None

    def draw(self, height: int, width: int) -> np.ndarray:
        """Current frame `[height, width, 3]`, uint8. Raises RuntimeError if the OpenGL context died."""
        try:
            if (height, width) not in self._views:
                self._views[height, width] = self._make_view(height, width)
            self._make_current()
            return self._draw(self._views[height, width])
        except (UserError, TimeoutError):
            raise
        except Exception as error:
            self._abandon_contexts()
            reason = getattr(getattr(error, "err", None), "name", error)  # messages of PyOpenGL have many lines
            raise RuntimeError(f"its OpenGL context has died ({reason})") from error

    def close(self) -> None:
        """Free the physics and its contexts."""
        try:
            if self._views:
                self._make_current()
            self._physics.free()
        except Exception:
            self._abandon_contexts()

    def _draw(self, view: Any) -> np.ndarray:
        """Draw into the view's own buffer and return a copy. OpenGL need not report that nothing was drawn."""
        before = ~view._rgb_buffer
        view._rgb_buffer[:] = before  # no frame is the negative of the one before it
        frame: np.ndarray = view.render(render_flag_overrides=self._effects).copy()
        if np.array_equal(view._rgb_buffer, before):
            raise RuntimeError("it drew nothing")
        return frame

    def _make_view(self, height: int, width: int) -> Any:
        """Create a view, which is kept: creating one takes longer than drawing 64x64 pixels."""
        from dm_control.mujoco.engine import Camera

        if not self._views:
            _load_backend()
            del self._physics._make_rendering_contexts
        buffer = self._physics.model.vis.global_
        if width > buffer.offwidth or height > buffer.offheight:
            buffer.offwidth, buffer.offheight = max(width, buffer.offwidth), max(height, buffer.offheight)
            if self._views:
                self._physics._free_rendering_contexts()  # the next frame creates larger ones
        return Camera(self._physics, height, width, self._camera)

    def _make_current(self) -> None:
        """Make this environment's context current; dm_control would rely on its record that it still is."""
        gl = self._physics.contexts.gl
        with gl.make_current() as its_thread:
            its_thread.call(gl._platform_make_current)

    def _abandon_contexts(self) -> None:
        """Leave dead contexts as they are: freeing them would delete objects of a live context with the same ids."""
        contexts, self._physics._contexts = self._physics._contexts, None
        self._views.clear()
        if contexts is not None:
            contexts.gl._render_executor.terminate()  # neither garbage collection nor the exit may free them
            _DEAD_CONTEXTS.append(contexts)


def _load_backend() -> None:
    """Make dm_control use the selected backend. Raises UserError where no backend works."""
    from dm_control import _render

    if require_backend() != _render.BACKEND:
        importlib.reload(_render)
    egl: Any = sys.modules.get("dm_control._render.pyopengl.egl_renderer")
    if _DEAD_CONTEXTS and egl is not None:
        # The display may have died with the contexts. A live display is returned unchanged.
        egl.EGL_DISPLAY = egl.create_initialized_headless_egl_display()
