"""Replay: a bounded buffer on disk that takes arrival rows and gives training sequences.

Every environment has its own stream (`dreamer.experience.stream`). A stream's ring is larger than its capacity by
`slack` rows per kept checkpoint, so that rows appended later overwrite no row that a kept checkpoint needs. The newest
checkpoint always sees exactly the rows and states it was saved with, whenever the process died. An older one sees its
rows, some of them with newer states.

Between `state_dict` and `commit` a checkpoint is being written while training continues. Until it is safe, both slots
of a row can be needed, one by the previous checkpoint and one by the new one. States written back meanwhile therefore
wait in memory, where `sample` finds them. `commit` moves them to disk; a crash loses them together with everything else
since the previous checkpoint.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Interval

from dreamer.batch import ROW_SCALARS, Batch, Row
from dreamer.errors import UserError, reason
from dreamer.experience.layout import RowLayout
from dreamer.experience.stream import Stream
from dreamer.system.files import sync_folder
from envs.ranges import LARGE

LEAST_CAPACITY = 1000
"""Smallest capacity."""
WAITING_BYTES = 2**30
"""States that may wait in memory; with more of them the checkpoint being written must be waited for."""


@dataclass(frozen=True)
class ReplayConfig:
    """Replay buffer."""

    capacity: Annotated[int, Interval(ge=LEAST_CAPACITY, le=LARGE)] = 5_000_000
    """Rows kept over all environments; the oldest are overwritten."""
    online: bool = True
    """Train on the newest windows once before drawing uniformly."""


@dataclass(frozen=True)
class Positions:
    """Positions of a batch in replay: sequence i holds rows `start[i] .. start[i] + length - 1` of `stream[i]`."""

    stream: np.ndarray
    """Stream of each sequence `[batch]`."""
    start: np.ndarray
    """Position of each sequence's first training row `[batch]`; its context row is the one before."""


class Replay:
    """Bounded replay of several environments: newest sequences first, then uniform sampling."""

    def __init__(
        self,
        config: ReplayConfig,
        path: Path,
        layout: RowLayout,
        num_streams: int,
        batch_size: int,
        batch_length: int,
        slack: int,
        seed: int | list[int],
        kept_checkpoints: int = 1,
    ):
        self.config, self.layout = config, layout
        self.batch_size, self.batch_length = batch_size, batch_length
        self.capacity = _capacity(config, num_streams, batch_length)
        self.slack, self.kept_checkpoints, self.path = slack, kept_checkpoints, path
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write replay in {path}: {reason(error)}") from None
        ring = ring_size(config, num_streams, batch_length, slack, kept_checkpoints)
        self.streams = [Stream(path, index, layout, ring) for index in range(num_streams)]
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
        """Sequences that can be drawn now."""
        return int(self._starts_per_stream().sum())

    @property
    def must_commit(self) -> bool:
        """True when a checkpoint must be safe before anything more is stored.

        The next append would overwrite a row that the last checkpoint needs, or too many states wait in memory.
        """
        heads = zip(self.streams, self.committed_head, strict=True)
        full = any(stream.head - committed >= self.slack for stream, committed in heads)
        return full or self._waiting_bytes > WAITING_BYTES

    def append(self, row: Row, packed: np.ndarray) -> None:
        """Add one row of every environment, with its packed core state `[env, packed]`."""
        self._require_whole()
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

    def sample(self) -> tuple[Batch, Positions]:
        """Draw `batch_size` sequences: first the queued newest ones, then uniformly over all possible starts."""
        self._require_whole()
        positions = self._draw()
        length = self.batch_length + 1
        records = np.empty((self.batch_size, length), self.layout.dtype)
        context = np.empty((self.batch_size, self.layout.packed_dim), np.float32)
        for i, (index, start) in enumerate(zip(positions.stream, positions.start, strict=True)):
            stream = self.streams[index]
            places = np.arange(start - 1, start - 1 + length) % stream.ring
            records[i] = stream.rows[places]
            context[i] = stream.state(int(places[0]))
        last = records["is_last"]
        last[:, :-1] |= records["is_first"][:, 1:]  # an episode that was cut off ends where the next one starts

        def tensor(name: str) -> torch.Tensor:
            values = np.ascontiguousarray(records[name][:, 1:])
            # A flag in a damaged file may be any byte, and torch relies on 0 and 1.
            return torch.from_numpy(values.view(np.uint8) != 0 if values.dtype == np.bool_ else values)

        obs = {key: tensor(f"obs/{key}") for key in sorted(self.layout.obs_shapes)}
        scalars = {name: tensor(name) for name in (*ROW_SCALARS, "prev_action")}
        return Batch(obs=obs, context=torch.from_numpy(context), **scalars), positions

    def write_states(self, positions: Positions, packed: np.ndarray) -> None:
        """Replace the stored states of sampled rows by `packed` `[batch, time, packed]`; evicted rows are skipped."""
        self._require_whole()
        steps = np.arange(self.batch_length)
        for index, start, states in zip(positions.stream, positions.start, packed, strict=True):
            stream = self.streams[index]
            kept = start + steps >= stream.head - self.capacity
            places = (start + steps[kept]) % stream.ring
            if self._saving is None:
                stream.write(places, states[kept])
            else:
                stream.waiting.update(zip(places.tolist(), states[kept], strict=True))
                self._waiting_bytes += len(places) * states[0].nbytes

    def _require_whole(self) -> None:
        for stream in self.streams:
            stream.require_whole()

    def _starts_per_stream(self) -> np.ndarray:
        rows = np.array([min(stream.head, self.capacity) for stream in self.streams])
        starts: np.ndarray = np.maximum(rows - self.batch_length, 0)
        return starts

    def _draw(self) -> Positions:
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
        return Positions(streams_array, starts)

    # Saving

    def state_dict(self) -> dict[str, Any]:
        """State from which a checkpoint sees exactly the present rows and states; the rows stay in their files.

        They are not overwritten before `commit`. The checkpoint may be written, in any thread, after `sync`.
        """
        self._saving = [stream.head for stream in self.streams]
        return {
            "layout": self.layout.describe(self.streams[0].ring),
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
            raise UserError(f"cannot write replay in {self.path}: {reason(error)}") from error

    def commit(self) -> None:
        """Declare that the state last returned by `state_dict` is safe on disk."""
        if self._saving is None:
            raise RuntimeError("call state_dict() before commit()")
        self._require_whole()
        for stream in self.streams:
            stream.commit()
        self.committed_head, self._saving, self._waiting_bytes = self._saving, None, 0

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Return to the rows and states of a checkpoint; raises `UserError` when the files do not fit it."""
        size = state["layout"].rpartition(" ")[2]  # the files keep it when checkpoints are made or kept otherwise
        ring = int(size) if size.isdecimal() else 0
        expected = self.layout.describe(ring)
        if state["layout"] != expected:
            raise UserError(f"replay was recorded with {state['layout']}, this run needs {expected}")
        self.slack = min(self.slack, (ring - self.capacity) // self.kept_checkpoints)
        if self.slack < 1:
            most = ring - self.capacity
            raise UserError(f"the replay has room for at most {most} checkpoints: lower --loop.keep-checkpoints")
        _check_positions(state, len(self.streams), self.batch_length)
        for stream, head, live in zip(self.streams, state["heads"], state["live"], strict=True):
            stream.ring = ring
            stream.restore(head, live.numpy())
        self.queue = deque((index, start) for index, start in state["queue"])
        self.next_online = list(state["next_online"])
        self.rng.bit_generator.state = json.loads(state["rng"])
        self._saving = list(state["heads"])
        self.commit()


def ring_size(config: ReplayConfig, num_streams: int, batch_length: int, slack: int, kept_checkpoints: int) -> int:
    """Rows in a stream's files: its capacity, and the rows appended while kept checkpoints still need the others."""
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
