"""metrics.jsonl, the truth of a run: one strict JSON object per line, appended, never rewritten.

NaN and the infinities do not exist in JSON, so they are written as the strings "NaN", "Infinity" and "-Infinity", which
lose nothing; `read` turns them back into numbers. A line counts only with its line break: what a crash left after the
last break is ignored when reading and removed when the file is opened to append.
"""

import json
import math
import mmap
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, SupportsFloat

from dreamer.errors import UserError
from dreamer.tracking.metrics import describe

NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class JsonlWriter:
    """Appends records to metrics.jsonl, each on disk (in the operating system's cache) when `write` returns.

    Raises:
        UserError: the file cannot be opened, written or shortened (no permission, no space).
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            # Unbuffered, so that a killed process loses no record that `write` accepted.
            self._file = path.open("a+b", buffering=0)
        except OSError as error:
            raise self._failure(error) from error
        self.last: dict[str, Any] = {}
        """The newest record in the file, empty when there is none."""
        self._cut(os.fstat(self._file.fileno()).st_size)

    def write(self, step: int, updates: int, values: Mapping[str, SupportsFloat]) -> None:
        """Append one record; `step` counts environment steps, `updates` learning updates.

        Raises:
            ValueError: a name is not defined in `dreamer.tracking.metrics`.
        """
        numbers: dict[str, float] = {}
        for name, value in values.items():
            try:
                describe(name)
            except KeyError:
                raise ValueError(f"metric {name!r} is not defined in dreamer/tracking/metrics") from None
            numbers[name] = float(value)
        counts = {"step": int(step), "updates": int(updates)}
        line = json.dumps(counts | {name: _strict(value) for name, value in numbers.items()}, allow_nan=False) + "\n"
        self._append(line.encode())
        self.last = counts | numbers

    def offset(self) -> int:
        """The length in bytes of everything written so far."""
        return self._size

    def sync(self) -> None:
        """Make everything written so far safe against power loss."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._failure(error) from error

    def truncate(self, offset: int) -> int:
        """Forget every record that ends after `offset` bytes and return how many bytes the file lacked up to there."""
        missing = max(0, offset - self._size)
        self._cut(offset)
        return missing

    def close(self) -> None:
        """Close the file; closing twice is harmless."""
        self._file.close()

    def _append(self, data: bytes) -> None:
        written = 0
        try:
            while written < len(data):
                written += self._file.write(data[written:])
        except OSError as error:
            # On a full disk the part that fitted must go, or the next record would continue its line.
            self._cut(self._size)
            raise self._failure(error) from error
        self._size += written

    def _cut(self, size: int) -> None:
        """Shorten the file to its last complete line within `size` bytes and remember that line."""
        try:
            size, line = _last_line(self._file.fileno(), size)
            self._file.truncate(size)
        except OSError as error:
            raise self._failure(error) from error
        self._size = size
        self.last = _parse(line, str(self._path)) if line else {}

    def _failure(self, error: OSError) -> UserError:
        return UserError(f"cannot write {self._path}: {error.strerror}")


def read(path: Path) -> list[dict[str, Any]]:
    """Return every complete record of a metrics.jsonl, oldest first: `step`, `updates` and the metrics as floats.

    Raises:
        UserError: the file is missing or unreadable, or a line that is not the half-written last one is damaged.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    lines = data.split(b"\n")[:-1]
    return [_parse(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1)]


def _strict(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _parse(line: bytes, place: str) -> dict[str, Any]:
    try:
        record = {
            key: NOT_FINITE[value] if isinstance(value, str) else value for key, value in json.loads(line).items()
        }
        if type(record["step"]) is not int or type(record["updates"]) is not int:
            raise ValueError("a record says at which step and update it was made")
        return {key: value if key in ("step", "updates") else _number(value) for key, value in record.items()}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise UserError(f"{place}: not a metrics record") from error


def _number(value: Any) -> float:
    if type(value) not in (int, float):
        raise ValueError(f"{value} is no number")
    return float(value)


def _last_line(descriptor: int, size: int) -> tuple[int, bytes]:
    """Return the length up to the last line break within `size` bytes, and the line that this break ends."""
    size = min(size, os.fstat(descriptor).st_size)
    if size == 0:
        return 0, b""
    with mmap.mmap(descriptor, size, access=mmap.ACCESS_READ) as data:
        end = data.rfind(b"\n") + 1
        start = data.rfind(b"\n", 0, max(end - 1, 0)) + 1
        return end, data[start:end]
