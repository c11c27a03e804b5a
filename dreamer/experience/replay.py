"""Experience on disk: rows in, training sequences out.

Every environment has its own stream of arrival rows, a ring in two memory-mapped files of the run folder:

    stream_000.rows      one record per row: observations, prev_action, reward, flags
    stream_000.states    two slots per row for the packed core state

Positions are *logical* (rows ever appended to the stream); the ring's place is the position modulo the ring size. The
ring is larger than the capacity by `slack` rows per kept checkpoint, so that the rows of every one of them survive what
is appended later. A state written back goes to the slot that the last checkpoint does not use. The last checkpoint
therefore sees exactly the rows and states it was saved with, whenever the process died; one before it sees its rows,
some with newer states.

Between `state_dict` and `commit` a checkpoint is being written while training goes on. Until it is safe both slots of a
row can be needed, one by the checkpoint before and one by the new one, so states written back meanwhile wait in memory,
where `sample` finds them. `commit` moves them to disk; a crash forgets them, as it forgets all that came after the
checkpoint before.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge

from dreamer.batch import ROW_SCALARS, Batch, Row, Shapes
from dreamer.errors import UserError
from dreamer.system.files import sync_folder

GROWTH = 4096  # rows by which files grow until the ring has its full size
WAITING_BYTES = 2**30  # of states written back while a checkpoint is written, after which that has to be waited for


@dataclass(frozen=True)
class ReplayConfig:
    """Replay buffer."""

    capacity: Annotated[int, Ge(1000)] = 5_000_000
    """Rows kept over all environments; the oldest are overwritten."""
    online: bool = True
    """Train on the newest windows once before drawing uniformly."""


@dataclass(frozen=True)
class RowLayout:
    """Sizes of what a row holds."""

    obs_shapes: Shapes
    """Shape of each observation."""
    action_dim: int
    """Numbers of an action vector."""
    packed_dim: int
    """Numbers of a packed core state."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The record that one row is stored as."""
        kinds = {1: np.float32, 3: np.uint8}
        obs = [(f"obs/{key}", kinds[len(shape)], shape) for key, shape in sorted(self.obs_shapes.items())]
        flags = [(name, np.bool_) for name in ROW_SCALARS[1:]]
        action = ("prev_action", np.float32, (self.action_dim,))
        return np.dtype([*obs, action, ("reward", np.float32), *flags], align=True)

    @property
    def row_bytes(self) -> tuple[int, int]:
        """Bytes of a row in the file of rows, and in that of states."""
        return self.dtype.itemsize, 2 * 4 * self.packed_dim


@dataclass(frozen=True)
class Windows:
    """Where the sequences of a batch were read: training rows `start .. start + length - 1` of a stream."""

    stream: np.ndarray
    """Stream of each sequence `[batch]`."""
    start: np.ndarray
    """Logical position of each sequence's first training row `[batch]`; its context row is the one before."""


class _Stream:
    """One environment's ring of rows and states."""

    def __init__(self, path: Path, index: int, layout: RowLayout, ring: int):
        self.files = path / f"stream_{index:03d}.rows", path / f"stream_{index:03d}.states"
        self.layout, self.ring = layout, ring
        self.head = 0
        self.live = np.zeros(0, np.uint8)
        self.committed = np.zeros(0, np.uint8)
        self.waiting: dict[int, np.ndarray] = {}
        self.rows: np.ndarray = np.zeros(0, layout.dtype)
        self.states: np.ndarray = np.zeros((0, 2, layout.packed_dim), np.float32)

    def reserve(self, rows: int) -> None:
        """Make room on disk for this many rows in all, at most the ring."""
        size = min(self.ring, -(-rows // GROWTH) * GROWTH)
        if size <= len(self.rows):
            return
        row_map = _map_file(self.files[0], self.layout.dtype, (size,))
        state_map = _map_file(self.files[1], np.dtype(np.float32), (size, 2, self.layout.packed_dim))
        self.rows, self.states = row_map, state_map
        grown = size - len(self.live)
        self.live = np.concatenate([self.live, np.zeros(grown, np.uint8)])
        self.committed = np.concatenate([self.committed, np.ones(grown, np.uint8)])

    def append(self, record: np.void, state: np.ndarray) -> None:
        self.reserve(self.head + 1)
        place = self.head % self.ring
        self.rows[place] = record
        self.states[place, 0] = state
        self.live[place], self.committed[place] = 0, 1
        self.waiting.pop(place, None)
        self.head += 1

    def state(self, place: int) -> np.ndarray:
        """The newest state at a place of the ring."""
        waiting = self.waiting.get(place)
        return waiting if waiting is not None else self.states[place, self.live[place]]

    def write(self, places: np.ndarray, states: np.ndarray) -> None:
        """Store states beside those that the last checkpoint needs."""
        slots = 1 - self.committed[places]
        self.states[places, slots] = states
        self.live[places] = slots

    def commit(self) -> None:
        """Keep the live states from now on, and store those that have waited for this moment."""
        self.committed[:] = self.live
        if self.waiting:
            self.write(np.fromiter(self.waiting, np.int64), np.stack(list(self.waiting.values())))
            self.waiting = {}

    def sync(self) -> None:
        """Return once everything stored is safe against power loss; other threads may go on storing."""
        for file in self.files:
            if file.is_file():
                descriptor = os.open(file, os.O_RDWR)
                try:
                    os.fsync(descriptor)  # of a mapped file, too: one page cache serves both
                finally:
                    os.close(descriptor)


class Replay:
    """Bounded experience of several environments, sampled uniformly and with the newest windows first."""

    def __init__(
        self,
        config: ReplayConfig,
        path: Path,
        layout: RowLayout,
        num_streams: int,
        batch_size: int,
        batch_length: int,
        slack: int,
        seed: int,
        kept_checkpoints: int = 1,
    ):
        self.config, self.layout = config, layout
        self.batch_size, self.batch_length = batch_size, batch_length
        self.capacity = _capacity(config, num_streams, batch_length)
        self.slack, self.path = slack, path
        path.mkdir(parents=True, exist_ok=True)
        ring = ring_size(config, num_streams, batch_length, slack, kept_checkpoints)
        self.streams = [_Stream(path, index, layout, ring) for index in range(num_streams)]
        self.queue: deque[tuple[int, int]] = deque()
        self.next_online = [0] * num_streams
        self.committed_head = [0] * num_streams
        self._saving: list[int] | None = None
        self._waiting_bytes = 0
        self.rng = np.random.default_rng(seed)

    @property
    def rows(self) -> int:
        """Rows that can be read now."""
        return sum(min(stream.head, self.capacity) for stream in self.streams)

    @property
    def num_starts(self) -> int:
        """Sequences that could be drawn now."""
        return int(self._starts_per_stream().sum())

    @property
    def must_commit(self) -> bool:
        """Whether a checkpoint must be safe before anything more is stored.

        The next append would overwrite a row that the last one needs, or too much waits in memory for the new one.
        """
        heads = zip(self.streams, self.committed_head, strict=True)
        full = any(stream.head - committed >= self.slack for stream, committed in heads)
        return full or self._waiting_bytes > WAITING_BYTES

    def append(self, row: Row, packed: np.ndarray) -> None:
        """Add one row of every environment, with its packed core state `[env, packed]`."""
        records = np.zeros(len(self.streams), self.layout.dtype)
        for key in self.layout.obs_shapes:
            records[f"obs/{key}"] = row.obs[key]
        for name in (*ROW_SCALARS, "prev_action"):
            records[name] = getattr(row, name)
        for index, stream in enumerate(self.streams):
            stream.append(records[index], packed[index])
            if self.config.online and stream.head - self.next_online[index] > self.batch_length:
                self.queue.append((index, self.next_online[index] + 1))
                self.next_online[index] += self.batch_length

    def sample(self) -> tuple[Batch, Windows]:
        """Draw `batch_size` sequences: queued newest windows first, then uniformly over every legal start."""
        windows = self._choose()
        length = self.batch_length + 1
        records = np.empty((self.batch_size, length), self.layout.dtype)
        context = np.empty((self.batch_size, self.layout.packed_dim), np.float32)
        for i, (index, start) in enumerate(zip(windows.stream, windows.start, strict=True)):
            stream = self.streams[index]
            places = np.arange(start - 1, start - 1 + length) % stream.ring
            records[i] = stream.rows[places]
            context[i] = stream.state(int(places[0]))
        last = records["is_last"]
        last[:, :-1] |= records["is_first"][:, 1:]  # an episode that was cut off ends where the next one begins

        def tensor(name: str) -> torch.Tensor:
            values = np.ascontiguousarray(records[name][:, 1:])
            # A flag in a damaged file may be any byte, and torch relies on 0 and 1.
            return torch.from_numpy(values.view(np.uint8) != 0 if values.dtype == np.bool_ else values)

        obs = {key: tensor(f"obs/{key}") for key in sorted(self.layout.obs_shapes)}
        scalars = {name: tensor(name) for name in (*ROW_SCALARS, "prev_action")}
        return Batch(obs=obs, context=torch.from_numpy(context), **scalars), windows

    def write_states(self, windows: Windows, packed: np.ndarray) -> None:
        """Replace the stored states of sampled rows by newer ones `[batch, time, packed]`; evicted rows are skipped."""
        steps = np.arange(self.batch_length)
        for index, start, states in zip(windows.stream, windows.start, packed, strict=True):
            stream = self.streams[index]
            kept = start + steps >= stream.head - self.capacity
            places = (start + steps[kept]) % stream.ring
            if self._saving is None:
                stream.write(places, states[kept])
            else:
                stream.waiting.update(zip(places.tolist(), states[kept], strict=True))
                self._waiting_bytes += len(places) * states[0].nbytes

    def _starts_per_stream(self) -> np.ndarray:
        rows = np.array([min(stream.head, self.capacity) for stream in self.streams])
        return np.maximum(rows - self.batch_length, 0)

    def _choose(self) -> Windows:
        chosen: list[tuple[int, int]] = []
        while self.queue and len(chosen) < self.batch_size:
            index, start = self.queue.popleft()
            if start - 1 >= self.streams[index].head - self.capacity:
                chosen.append((index, start))
        counts = self._starts_per_stream()
        bounds = np.cumsum(counts)
        if not bounds[-1]:
            raise ValueError(f"no sequence of {self.batch_length} rows after a context row has been collected yet")
        draws = self.rng.integers(bounds[-1], size=self.batch_size - len(chosen))
        streams = np.searchsorted(bounds, draws, side="right")
        for index, draw in zip(streams, draws, strict=True):
            oldest = max(self.streams[index].head - self.capacity, 0)
            chosen.append((int(index), int(oldest + draw - (bounds[index] - counts[index]) + 1)))
        streams_array, starts = (np.array(column) for column in zip(*chosen, strict=True))
        return Windows(streams_array, starts)

    # Saving

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs to see exactly the present rows and states again; rows stay in their files.

        They are left alone until `commit`. The checkpoint may be written once `sync` has returned, in any thread.
        """
        self._saving = [stream.head for stream in self.streams]
        return {
            "layout": _describe(self.layout, self.streams[0].ring),
            "heads": list(self._saving),
            "live": [torch.from_numpy(np.packbits(stream.live)) for stream in self.streams],
            "queue": [list(item) for item in self.queue],
            "next_online": list(self.next_online),
            "rng": json.dumps(self.rng.bit_generator.state),
        }

    def sync(self) -> None:
        """Make all rows and states safe against power loss; raises `UserError` when the disk does not take them."""
        try:
            for stream in self.streams:
                stream.sync()
            sync_folder(self.path)
        except OSError as error:
            raise UserError(f"cannot write replay in {self.path}: {error.strerror}") from error

    def commit(self) -> None:
        """Declare that the state last returned by `state_dict` is safely on disk."""
        if self._saving is None:
            raise RuntimeError("call state_dict() before commit()")
        for stream in self.streams:
            stream.commit()
        self.committed_head, self._saving, self._waiting_bytes = self._saving, None, 0

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Return to the rows and states of a checkpoint; raises `UserError` when the files do not fit it."""
        expected = _describe(self.layout, self.streams[0].ring)
        if state["layout"] != expected:
            raise UserError(f"replay was recorded with {state['layout']}, this run needs {expected}")
        _check_positions(state, len(self.streams), self.batch_length)
        for stream, head, live in zip(self.streams, state["heads"], state["live"], strict=True):
            for file, row_bytes in zip(stream.files, self.layout.row_bytes, strict=True):
                if head and (not file.is_file() or file.stat().st_size < min(head, stream.ring) * row_bytes):
                    raise UserError(f"replay file {file} is missing or shorter than its checkpoint needs")
            stream.head, stream.waiting = head, {}
            stream.reserve(head)
            bits = np.unpackbits(live.numpy())[: len(stream.live)]
            stream.live[: len(bits)] = bits
        self.queue = deque((index, start) for index, start in state["queue"])
        self.next_online = list(state["next_online"])
        self.rng.bit_generator.state = json.loads(state["rng"])
        self._saving = list(state["heads"])
        self.commit()


def ring_size(config: ReplayConfig, num_streams: int, batch_length: int, slack: int, kept_checkpoints: int) -> int:
    """Rows of a stream's files: its capacity, and what may be appended while kept checkpoints still need the rest."""
    return _capacity(config, num_streams, batch_length) + slack * kept_checkpoints


def _capacity(config: ReplayConfig, num_streams: int, batch_length: int) -> int:
    return max(config.capacity // num_streams, batch_length + 1)


def _check_positions(state: Mapping[str, Any], streams: int, length: int) -> None:
    """Raise `ValueError` for positions that no replay can have."""
    heads, online, queue = state["heads"], state["next_online"], [tuple(item) for item in state["queue"]]
    numbers = [*heads, *online, *(number for item in queue for number in item)]
    if not all(type(number) is int and 0 <= number < 2**62 for number in numbers):
        raise ValueError("positions of rows must be whole numbers")
    if len(heads) != streams or len(online) != streams or any(n > head for n, head in zip(online, heads, strict=True)):
        raise ValueError(f"positions must be those of {streams} streams")
    if any(index >= streams or not 1 <= start <= heads[index] - length for index, start in queue):
        raise ValueError("queued sequences must lie within the rows")


def _describe(layout: RowLayout, ring: int) -> str:
    obs = ", ".join(f"{key} {'x'.join(map(str, shape))}" for key, shape in sorted(layout.obs_shapes.items()))
    return f"observations ({obs}), action {layout.action_dim}, state {layout.packed_dim}, ring {ring}"


def _map_file(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray:
    """Map a file of at least this size, its blocks allocated so that a full disk is an error here and not a signal."""
    size = int(np.prod(shape)) * dtype.itemsize
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(descriptor, 0, max(size, 1))
            else:
                os.truncate(descriptor, max(size, os.fstat(descriptor).st_size))
        finally:
            os.close(descriptor)
    except OSError as error:
        raise UserError(f"cannot reserve {size / 2**20:.0f} MB for replay at {path}: {error.strerror}") from error
    return np.asarray(np.memmap(path, dtype, "r+", shape=shape))
