"""Isolation of the process from its surroundings: the encoding of the locale, and the current folder."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dreamer.system.redaction import warn

MATPLOTLIBRC = "matplotlibrc"
"""Settings file that matplotlib reads from the current folder, before the user's own."""


def use_utf8() -> None:
    """Start this command again in UTF-8 mode if the locale has another encoding, in which few names can be written."""
    if sys.getfilesystemencoding().lower() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"
        os.environ.setdefault("PYTHONIOENCODING", f"{getattr(sys.stdout, 'encoding', 'ascii')}:backslashreplace")
        os.execv(sys.executable, sys.orig_argv)


def ignore_current_folder() -> None:
    """Import matplotlib from another folder if this one, which anybody may have made, holds settings for it.

    They name modules to import, and programs and LaTeX to run. Call it before threads are started.
    """
    if not os.path.lexists(MATPLOTLIBRC) or "matplotlib" in sys.modules:
        return
    here = os.open(".", os.O_RDONLY)
    try:
        os.chdir(os.path.dirname(os.path.abspath(__file__)))
        import matplotlib  # noqa: F401
    finally:
        os.fchdir(here)
        os.close(here)


@contextmanager
def print_warnings() -> Iterator[None]:
    """Context in which warnings of libraries are printed like every other line; they may quote text from folders."""
    with warnings.catch_warnings():
        warnings.showwarning = _print_warning  # type: ignore[assignment]
        yield


def _print_warning(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: Any) -> None:
    warn(f"{filename}:{lineno}: {category.__name__}: {message}")
