"""Files of run, ablation and exam folders: bounded, validating reads, and atomic, durable writes.

Anybody may have written what is read here. A reader has a limit of bytes and a type that pydantic checks the content
against, so that everything behind it can rely on types and ranges.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

from annotated_types import Ge, Le, MaxLen
from pydantic import AfterValidator, ValidationError
from pydantic_core import from_json

from dreamer.errors import UserError, reason
from envs.ranges import adapter, violation

T = TypeVar("T")
MB = 10**6
LARGEST = 1e38
"""Largest magnitude of a number in a file, about that of float32. Figures overflow where float64 ends."""


def within_float32(value: float) -> float:
    """Return the value, or an infinity beyond `LARGEST`."""
    return value if abs(value) <= LARGEST or math.isnan(value) else math.copysign(math.inf, value)


Counter = Annotated[int, Ge(0), Le(2**53)]
"""Whole number from 0 that float64 holds exactly."""
Number = Annotated[float, AfterValidator(within_float32)]
"""Number within the range of float32, or NaN or an infinity."""
Finite = Annotated[float, Ge(-LARGEST), Le(LARGEST)]
"""Finite number within the range of float32."""
Text = Annotated[str, MaxLen(10_000)]


def read_bytes(path: Path, limit: int) -> bytes:
    """Return the content of a file; raises `UserError` if it cannot be read or has more than `limit` bytes."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            data = file.read(limit + 1) if size <= limit else b""
    except OSError as error:
        raise UserError(f"cannot read {path}: {reason(error)}") from None
    if max(size, len(data)) > limit:
        raise UserError(f"{path} has {size / MB:,.0f} MB, more than {limit / MB:,.0f}, which no run writes")
    return data


def read_json(path: Path, kind: Callable[..., T], limit: int = MB) -> T:
    """Return the content of a JSON file as a `kind`; raises `UserError` if it cannot be read or is something else."""
    data = read_bytes(path, limit)
    try:
        return adapter(kind).validate_python(from_json(data), strict=True)
    except ValidationError as error:
        raise UserError(f"{path}: {violation(error)}") from None
    except ValueError as error:
        raise UserError(f"{path}: not JSON: {error}") from None


def write_atomically(path: Path, *parts: str | bytes | memoryview) -> None:
    """Replace the content of `path` by the joined parts; a crash leaves either the old or the new content.

    Text is written as UTF-8. A byte of a file name that is not UTF-8 becomes a question mark.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb", opener=_no_link) as file:
            file.writelines(part.encode(errors="replace") if isinstance(part, str) else part for part in parts)
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
