"""Python processes that take no modules from the current folder, which may be somebody else's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

VARIABLE = "PYTHONSAFEPATH"


@contextmanager
def safe_path() -> Iterator[None]:
    """Start Python processes meanwhile without the current folder in their path.

    `multiprocessing` starts them by `python -c`, which puts it before the standard library. What the processes import
    later is as in the parent, whose path they are sent.
    """
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = "1"
    try:
        yield
    finally:
        restore_path(before)


def restore_path(before: str | None) -> None:
    """Set the variable back, so that programs started later, such as a simulator of the user's, are not concerned."""
    if before is None:
        os.environ.pop(VARIABLE, None)
    else:
        os.environ[VARIABLE] = before
