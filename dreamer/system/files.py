"""Atomic, durable writes to files."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def write_atomically(path: Path, *parts: bytes | memoryview) -> None:
    """Replace the content of `path` by the joined parts; a crash leaves either the old or the new content."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb", opener=_no_link) as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def _no_link(path: str, flags: int) -> int:
    """Open a file for writing, but not a link to another file."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def sync_folder(path: Path) -> None:
    """Make the names in a folder, not the content of its files, safe against power loss. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
