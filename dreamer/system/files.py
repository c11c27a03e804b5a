"""Atomic, durable writes to files."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path


def write_atomically(path: Path, *parts: str | bytes | memoryview) -> None:
    """Replace the content of `path` by the joined parts; a crash leaves either the old or the new content.

    Text is written as UTF-8. It may quote the name of a file in another encoding.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb", opener=_no_link) as file:
            file.writelines(part.encode(errors="backslashreplace") if isinstance(part, str) else part for part in parts)
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


def require_same(path: Path, known: os.stat_result, size: int) -> None:
    """Raise `OSError` unless `path` still leads to the file of this status, and that has `size` bytes or more."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        found = None
    if found is None or not os.path.samestat(found, known) or found.st_size < size:
        raise OSError(errno.ESTALE, "it was moved, replaced or cut while the run was using it")


def sync_folder(path: Path) -> None:
    """Make the names in a folder, not the content of its files, safe against power loss. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
