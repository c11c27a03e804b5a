"""Python processes that import nothing from the current folder, which may be from somebody else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

VARIABLE = "PYTHONSAFEPATH"


@contextmanager
def safe_path() -> Iterator[None]:
    """Context in which new Python processes start without the current folder in their path.

    `multiprocessing` starts processes by `python -c`, which puts the current folder before the standard library. The
    parent then sends its own path, so later imports are as in the parent.
    """
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = "1"
    try:
        yield
    finally:
        restore_path(before)


def restore_path(before: str | None) -> None:
    """Restore the variable, so that programs started later, such as a user's simulator, are not affected."""
    if before is None:
        os.environ.pop(VARIABLE, None)
    else:
        os.environ[VARIABLE] = before
