"""A process that takes nothing from the current folder, which may be a run folder of somebody else's."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dreamer.redaction import tell

MATPLOTLIBRC = "matplotlibrc"
"""The file of settings that matplotlib reads from the current folder, before any of the user's own."""


def ignore_current_folder() -> None:
    """Import matplotlib from elsewhere, if this folder holds settings for it; call it before threads are started.

    Those settings name modules to import, and programs and LaTeX to run. A process without matplotlib pays nothing.
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
def warnings_told() -> Iterator[None]:
    """Warnings of libraries, which may quote a file or a name from outside, are told as every other line is."""
    with warnings.catch_warnings():
        warnings.showwarning = _tell_warning
        yield


def _tell_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: Any = None,
    line: str | None = None,
) -> None:
    tell(f"{filename}:{lineno}: {category.__name__}: {message}")
