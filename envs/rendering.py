"""Finding a way to draw MuJoCo scenes without a screen. Nothing here runs unless a frame is wanted."""

from __future__ import annotations

import functools
import os
import subprocess
import sys

DISABLED = ("disable", "disabled", "off", "false", "0")
"""The values of MUJOCO_GL that mean "no rendering"."""
_PROBE = """
import mujoco
context = mujoco.GLContext(16, 16)
context.make_current()
mujoco.MjrContext(mujoco.MjModel.from_xml_string("<mujoco/>"), mujoco.mjtFontScale.mjFONTSCALE_100)
"""


@functools.cache
def select_backend() -> str | None:
    """The OpenGL backend that draws on this machine ("egl", "osmesa" or "glfw"), or None when there is none.

    The first call tries the candidates in processes of their own (under a second each) and writes the answer into
    MUJOCO_GL, where child processes and Gymnasium's own MuJoCo environments find it. A MUJOCO_GL that the user set is
    the only candidate and is never changed. Call it before the first frame is drawn, and only when one will be.
    """
    chosen = os.environ.get("MUJOCO_GL", "").strip().lower()
    if chosen in DISABLED:
        return None
    candidates = (chosen,) if chosen else ("egl", "osmesa") if sys.platform.startswith("linux") else ("glfw",)
    for backend in candidates:
        if _works(backend):
            os.environ["MUJOCO_GL"] = backend
            return backend
    if not chosen:
        os.environ["MUJOCO_GL"] = DISABLED[0]
    return None


def missing_gl_message() -> str:
    """One sentence for the user of a machine on which `select_backend` found nothing."""
    chosen = os.environ.get("MUJOCO_GL", "")
    if chosen and chosen not in DISABLED:
        return (
            f"MUJOCO_GL={chosen} cannot draw on this machine: unset it to let a backend be chosen, "
            "or install its library (Debian packages libegl1 for egl, libosmesa6 for osmesa)"
        )
    return (
        "nothing can be drawn because no OpenGL library for off-screen rendering works here: "
        "install libosmesa6 or libegl1 (`apt-get install libosmesa6`) and unset MUJOCO_GL"
    )


def _works(backend: str) -> bool:
    environment = {**os.environ, "MUJOCO_GL": backend}
    try:
        probe = subprocess.run([sys.executable, "-c", _PROBE], env=environment, capture_output=True, timeout=20)
    except subprocess.TimeoutExpired:
        return False
    return probe.returncode == 0
