"""Reader and writer of metrics.jsonl, which holds all metrics of a run: one strict JSON object per line, append only.

JSON has no NaN and no infinities. They are written as the strings "NaN", "Infinity" and "-Infinity", and `read` turns
them back into numbers. A line counts only with its line break. Bytes that a crash left after the last line break are
ignored by `read` and removed when the file is opened to append.
"""

import io
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, SupportsFloat

from annotated_types import MaxLen
from pydantic import TypeAdapter, ValidationError

from dreamer.errors import UserError, reason
from dreamer.system.files import LARGEST, MB, read_bytes, require_same, within_float32
from dreamer.system.redaction import warn
from dreamer.tracking.metrics import is_registered
from envs.ranges import violation

Name = Annotated[str, MaxLen(200)]
RECORD = TypeAdapter(dict[Name, float | Literal["NaN", "Infinity", "-Infinity"]])
LIMIT, RECORDS, NAMES = 200 * MB, 1_000_000, 5_000
"""Largest numbers of bytes, records and metrics of a file that is read; 200 MB are about 100,000 records of a run."""
WINDOW = 16 * MB
"""Bytes at the end of a file in which its last line is looked for."""
COUNTERS = ("step", "updates")
"""Keys of a record that are not metrics."""
STRICT = "DREAMER_STRICT_METRICS"
"""Environment variable that turns the warning about an unregistered metric into a `ValueError`; set by the tests."""


class JsonlWriter:
    """Writer that appends records to metrics.jsonl; the operating system has a record when `write` returns.

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
        self.size = 0
        """Length in bytes of everything written so far; a checkpoint keeps it, to resume from there."""
        self.last: dict[str, Any] = {}
        """The newest record in the file; empty when there is none."""
        self._warned: set[str] = set()
        self._cut(os.fstat(self._file.fileno()).st_size)

    def write(self, step: int, updates: int, values: Mapping[str, SupportsFloat]) -> None:
        """Append one record; `step` counts environment steps, `updates` learning updates.

        A metric that is not defined in metrics.md is written too, with one warning.

        Raises:
            ValueError: a metric has the name of a counter, or is not defined while `STRICT` is set.
        """
        for name in values:
            self._check(name)
        numbers = {name: float(value) for name, value in values.items()}
        counts = {"step": int(step), "updates": int(updates)}
        line = json.dumps(counts | {name: _strict(value) for name, value in numbers.items()}, allow_nan=False) + "\n"
        self._append(line.encode())
        self.last = counts | numbers

    def sync(self) -> None:
        """Flush everything written so far to the disk itself, so that a power loss does not lose it; in any thread."""
        try:
            os.fsync(self._file.fileno())
            require_same(self._path, os.fstat(self._file.fileno()), self.size)
        except OSError as error:
            raise self._failure(error) from error

    def truncate(self, offset: int) -> int:
        """Remove every record that ends after `offset` bytes; returns the number of bytes missing before `offset`."""
        missing = max(0, offset - self.size)
        self._cut(offset)
        return missing

    def close(self) -> None:
        """Close the file. A second call does nothing."""
        self._file.close()

    def _check(self, name: str) -> None:
        if name in COUNTERS:
            raise ValueError(f"a metric cannot be called {name!r}, which is a counter of the record")
        if name in self._warned or is_registered(name):
            return
        undefined = f"metric {name!r} is not defined in dreamer/tracking/metrics.md"
        if os.environ.get(STRICT):
            raise ValueError(undefined)
        self._warned.add(name)
        warn(f"dreamer: {undefined}; it is logged without a description")

    def _append(self, data: bytes) -> None:
        written = 0
        try:
            while written < len(data):
                written += self._file.write(data[written:])
        except OSError as error:
            # A full disk may take a part of the record. Remove it, or the next record would continue its line.
            self._cut(self.size)
            raise self._failure(error) from error
        self.size += written

    def _cut(self, size: int) -> None:
        """Shorten the file to its last complete line within `size` bytes and keep that line as `last`."""
        try:
            size, line = _last_line(self._file.fileno(), size)
            self._file.truncate(size)
        except OSError as error:
            raise self._failure(error) from error
        self.size = size
        self.last = _parse(line, str(self._path)) if line else {}

    def _failure(self, error: OSError) -> UserError:
        return UserError(f"cannot write {self._path}: {reason(error)}")


def read(path: Path) -> list[dict[str, Any]]:
    """Return every complete record of a metrics.jsonl, oldest first: `step`, `updates` and the metrics as floats.

    A number beyond the range of float32 is read as an infinity.

    Raises:
        UserError: the file is missing or unreadable or too large, or a complete line is damaged.
    """
    return records_in(read_bytes(path, LIMIT), path)


def records_in(data: bytes, path: Path) -> list[dict[str, Any]]:
    """As `read`, of the bytes of the file at `path`."""
    records: list[dict[str, Any]] = []
    names: set[str] = set()
    lines = io.BytesIO(data[: data.rfind(b"\n") + 1])
    for number, line in enumerate(lines, start=1):
        records.append(_parse(line, f"{path}, line {number}"))
        names.update(records[-1])
        if number > RECORDS or len(names) > NAMES:
            raise UserError(f"{path} holds more than {RECORDS:,} records or {NAMES:,} metrics, as no run does")
    return records


def _strict(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _parse(line: bytes, place: str) -> dict[str, Any]:
    try:
        written = RECORD.validate_json(line, strict=True)
    except ValidationError as error:
        raise UserError(f"{place}: not a metrics record: {violation(error)}") from None
    record: dict[str, Any] = {  # most values are within the range, and a record has many
        name: value if isinstance(value, float) and -LARGEST < value < LARGEST else within_float32(float(value))
        for name, value in written.items()
    }
    for name in COUNTERS:
        value = record.get(name, math.nan)
        if not 0 <= value <= 2**53 or value % 1:
            raise UserError(f"{place}: not a metrics record: {name} is not a whole number from 0 to 2^53")
        record[name] = int(value)
    return record


def _last_line(descriptor: int, size: int) -> tuple[int, bytes]:
    """Return the length up to the last line break within `size` bytes, and the line that ends there.

    A line that is longer than `WINDOW`, and what follows the last one, count as damage of the line.
    """
    size = min(size, os.fstat(descriptor).st_size)
    begin = max(0, size - WINDOW)
    data = os.pread(descriptor, size - begin, begin)
    end = data.rfind(b"\n") + 1
    start = data.rfind(b"\n", 0, max(end - 1, 0)) + 1
    return begin + end, data[start:end] if start or not begin else data[:1]
