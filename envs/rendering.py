"""Selection of an OpenGL backend that draws MuJoCo scenes without a screen; used only where frames are drawn."""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from envs.errors import UserError

DISABLED = ("disable", "disabled", "off", "false", "0")
"""Values of MUJOCO_GL that disable rendering."""
BACKEND_MODULES = ("mujoco.egl", "mujoco.glfw", "mujoco.osmesa")
"""Modules of MuJoCo that define a context; others import it from them."""
EGL_DEVICE = "MUJOCO_EGL_DEVICE_ID"
"""Environment variable that selects the device for EGL."""
_PROBE = """
import mujoco
context = mujoco.GLContext(16, 16)
context.make_current()
mujoco.MjrContext(mujoco.MjModel.from_xml_string("<mujoco/>"), mujoco.mjtFontScale.mjFONTSCALE_100)
"""
_CUDA_DEVICES = """
import ctypes
from mujoco.egl import egl_ext as EGL
EGL_EXTENSIONS = 0x3055
address = EGL.eglGetProcAddress("eglQueryDeviceStringEXT")
query = ctypes.CFUNCTYPE(ctypes.c_char_p, EGL.EGLDeviceEXT, EGL.EGLint)(address)
devices = EGL.eglQueryDevicesEXT()
print(*[i for i, device in enumerate(devices) if b"EGL_NV_device_cuda" in (query(device, EGL_EXTENSIONS) or b"")])
"""
_FRAMES = """
import time
import envs
env = envs.make("dmc:walker_walk", obs="pixels", shadows={shadows})
env.reset()
env.unwrapped.draw(64, 64)
begin, frames = time.perf_counter(), 0
while time.perf_counter() - begin < 1 or frames < 3:
    env.unwrapped.draw(64, 64)
    frames += 1
print(frames / (time.perf_counter() - begin))
"""


@dataclass(frozen=True)
class Backend:
    """A rendering backend and its device."""

    name: str
    """Name in reports."""
    gl: str
    """Value of MUJOCO_GL: "egl", "osmesa" or "glfw"."""
    device: Mapping[str, str] = field(default_factory=dict)
    """Environment variables that select the device, if any."""

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables that select the backend and its device."""
        return {"MUJOCO_GL": self.gl, **self.device}


@functools.cache
def select_backend() -> str | None:
    """OpenGL backend that works on this machine ("egl", "osmesa" or "glfw"), or None if there is none.

    The first call tries the candidates in separate processes (about a second each) and writes the result to MUJOCO_GL,
    where child processes and Gymnasium's own MuJoCo environments find it. A MUJOCO_GL that the user has set is the only
    candidate and is never changed. Call this before the first frame is drawn, and only if one will be.
    """
    if _chosen() in DISABLED:
        return None
    for backend in candidates():
        if _run(_PROBE, backend) is not None:
            os.environ |= backend.variables
            _adopt(backend.gl)
            return backend.gl
    if not _chosen():
        os.environ["MUJOCO_GL"] = DISABLED[0]
    return None


def require_backend() -> str:
    """OpenGL backend that works on this machine. Raises UserError if there is none."""
    backend = select_backend()
    if backend is None:
        raise UserError(missing_gl_message())
    return backend


def before_building(drawn: bool) -> None:
    """Select a backend before an environment is built that may use MuJoCo: without a screen, its default would abort.

    `drawn` is true where frames are observed; then UserError is raised if MuJoCo has been imported and no backend
    works.
    """
    mujoco = "mujoco" in sys.modules
    if (drawn or mujoco) and select_backend() is None and drawn and mujoco:
        raise UserError(missing_gl_message())


def _adopt(gl: str) -> None:
    """Make a `mujoco` that has read MUJOCO_GL before the selection use the selected backend."""
    loaded = [module for name, module in sys.modules.items() if name.partition(".")[0] == "mujoco"]
    readers = [module for module in loaded if module.__name__ not in BACKEND_MODULES and hasattr(module, "GLContext")]
    if readers:
        with contextlib.suppress(Exception):  # PyOpenGL was imported for another backend
            context = importlib.import_module(f"mujoco.{gl}").GLContext
            for module in readers:
                module.GLContext = context  # type: ignore[attr-defined]


def candidates() -> Iterator[Backend]:
    """Backends in the order in which they are tried: EGL on a CUDA device, EGL on any, OSMesa; or the user's choice.

    CUDA devices are listed in a separate process. MUJOCO_EGL_DEVICE_ID, if set, is kept.
    """
    chosen = _chosen()
    kinds = (chosen,) if chosen else ("egl", "osmesa") if sys.platform.startswith("linux") else ("glfw",)
    for kind in kinds:
        if kind == "egl" and EGL_DEVICE not in os.environ:
            for device in (_run(_CUDA_DEVICES, Backend("egl", "egl")) or "").split():
                yield Backend(f"egl on CUDA device {device}", "egl", {EGL_DEVICE: device})
        yield Backend(kind, kind)


def frames_per_second(backend: Backend, shadows: bool) -> float | None:
    """64x64 frames of `dmc:walker_walk` per second that a process draws with this backend; None if it draws none."""
    answer = _run(_FRAMES.format(shadows=shadows), backend)
    return None if answer is None else float(answer)


def missing_gl_message() -> str:
    """Message for the user of a machine on which `select_backend` found no backend."""
    chosen = os.environ.get("MUJOCO_GL", "")
    if chosen and chosen not in DISABLED:
        return (
            f"MUJOCO_GL={chosen} cannot draw on this machine: unset it to have a backend selected, "
            "or install its library (Debian packages libegl1 for egl, libosmesa6 for osmesa)"
        )
    return (
        "no frames can be drawn because no OpenGL library for off-screen rendering works here: "
        "install libosmesa6 or libegl1 (`apt-get install libosmesa6`) and unset MUJOCO_GL"
    )


def _chosen() -> str:
    return os.environ.get("MUJOCO_GL", "").strip().lower()


def _run(code: str, backend: Backend) -> str | None:
    """Output of Python code under a backend; None if the code fails."""
    environment = {**os.environ, **backend.variables, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", code], env=environment, capture_output=True, text=True, timeout=60
        )
    except subprocess.TimeoutExpired:
        return None
    return done.stdout if done.returncode == 0 else None
