"""Replay: a bounded buffer on disk that takes arrival rows and gives training sequences.

A stream is the rows of one environment. All streams lie in one ring (`dreamer.experience.ring`), which is larger than
the capacity by `slack` rows per kept checkpoint, so that rows appended later overwrite no row that a kept checkpoint
needs. The newest checkpoint always sees exactly the rows and states it was saved with, whenever the process died. An
older one sees its rows, some of them with newer states.

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
from dreamer.experience.joining import OlderFiles, joined
from dreamer.experience.layout import RowLayout
from dreamer.experience.ring import Ring
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
        size = ring_size(config, num_streams, batch_length, slack, kept_checkpoints)
        self.ring = Ring(path, num_streams, layout, size)
        self.queue: deque[tuple[int, int]] = deque()
        self.next_online = 0
        self.committed_head = 0
        self.older = OlderFiles(path, kept_checkpoints)
        self._saving: int | None = None
        self._waiting_bytes = 0
        self.rng = np.random.default_rng(seed)

    @property
    def num_streams(self) -> int:
        """Environments."""
        return self.ring.num_envs

    @property
    def rows(self) -> int:
        """Rows that can be read now."""
        return min(self.ring.head, self.capacity) * self.num_streams

    @property
    def num_starts(self) -> int:
        """Sequences that can be drawn now."""
        return self._starts * self.num_streams

    @property
    def _starts(self) -> int:
        """Sequences of each stream that can be drawn now."""
        return max(min(self.ring.head, self.capacity) - self.batch_length, 0)

    @property
    def must_commit(self) -> bool:
        """True when a checkpoint must be safe before anything more is stored.

        The next append would overwrite a row that the last checkpoint needs, or too many states wait in memory.
        """
        return self.ring.head - self.committed_head >= self.slack or self._waiting_bytes > WAITING_BYTES

    def append(self, row: Row, packed: np.ndarray) -> None:
        """Add one row of every environment, with its packed core state `[env, packed]`."""
        self.ring.require_whole()
        self.ring.append(row, packed)
        if self.config.online and self.ring.head - self.next_online > self.batch_length:
            self.queue.extend((stream, self.next_online + 1) for stream in range(self.num_streams))
            self.next_online += self.batch_length

    def sample(self) -> tuple[Batch, Positions]:
        """Draw `batch_size` sequences: first the queued newest ones, then uniformly over all possible starts."""
        self.ring.require_whole()
        positions = self._draw()
        steps = np.arange(-1, self.batch_length)
        places = (positions.start[:, None] + steps) % self.ring.size
        records = self.ring.rows[places, positions.stream[:, None]]
        context = self.ring.newest(places[:, 0], positions.stream)
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
        self.ring.require_whole()
        at = positions.start[:, None] + np.arange(self.batch_length)
        kept = at >= self.ring.head - self.capacity
        streams = np.broadcast_to(positions.stream[:, None], at.shape)[kept]
        places, states = at[kept] % self.ring.size, packed[kept]
        if self._saving is None:
            self.ring.write(places, streams, states)
        else:
            self.ring.wait(places, streams, states)
            self._waiting_bytes += states.nbytes

    def _draw(self) -> Positions:
        chosen: list[tuple[int, int]] = []
        oldest = max(self.ring.head - self.capacity, 0)
        while self.queue and len(chosen) < self.batch_size:
            stream, start = self.queue.popleft()
            if start - 1 >= oldest:
                chosen.append((stream, start))
        if not self._starts:
            raise ValueError(f"no sequence of {self.batch_length} rows after a context row has been collected yet")
        draws = self.rng.integers(self.num_starts, size=self.batch_size - len(chosen))
        drawn = np.stack([draws // self._starts, oldest + draws % self._starts + 1], 1)
        streams, starts = np.concatenate([np.array(chosen, np.int64).reshape(-1, 2), drawn]).T
        return Positions(streams, starts)

    # Saving

    def state_dict(self) -> dict[str, Any]:
        """State from which a checkpoint sees exactly the present rows and states; the rows stay in their files.

        They are not overwritten before `commit`. The checkpoint may be written, in any thread, after `sync`.
        """
        self._saving = self.ring.head
        return {
            "layout": self.layout.describe(self.ring.size),
            "environments": self.num_streams,
            "head": self.ring.head,
            "live": torch.from_numpy(np.packbits(self.ring.live[: self.ring.used])),
            "queue": [list(item) for item in self.queue],
            "next_online": self.next_online,
            "rng": json.dumps(self.rng.bit_generator.state),
        }

    def sync(self) -> None:
        """Make all rows and states safe against power loss; raises `UserError` when the disk does not take them."""
        try:
            self.ring.sync()
            sync_folder(self.path)
        except OSError as error:
            raise UserError(f"cannot write replay in {self.path}: {reason(error)}") from error

    def commit(self) -> None:
        """Declare that the state last returned by `state_dict` is safe on disk."""
        newer = self._saving != self.committed_head  # the same step, saved again, replaces its checkpoint
        self._commit()
        if newer:
            self.older.commit()

    def _commit(self) -> None:
        if self._saving is None:
            raise RuntimeError("call state_dict() before commit()")
        self.ring.require_whole()
        self.ring.commit()
        self.committed_head, self._saving, self._waiting_bytes = self._saving, None, 0

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Return to the rows and states of a checkpoint; raises `UserError` when the files do not fit it."""
        number = state["layout"].rpartition(" ")[2]  # the files keep it when checkpoints are made or kept otherwise
        size = int(number) if number.isdecimal() else 0
        expected = self.layout.describe(size)
        if state["layout"] != expected:
            raise UserError(f"replay was recorded with {state['layout']}, this run needs {expected}")
        self.slack = min(self.slack, (size - self.capacity) // self.kept_checkpoints)
        if self.slack < 1:
            most = size - self.capacity
            raise UserError(f"the replay has room for at most {most} checkpoints: lower --loop.keep-checkpoints")
        self.ring.size = size
        if "heads" in state:
            state = joined(state, self.ring, self.path)
        _check_positions(state, self.num_streams, self.batch_length)
        self.ring.restore(state["head"], state["live"].numpy())
        self.queue = deque((stream, start) for stream, start in state["queue"])
        self.next_online = state["next_online"]
        self.rng.bit_generator.state = json.loads(state["rng"])
        self._saving = state["head"]
        self._commit()
        self.older = OlderFiles(self.path, self.kept_checkpoints)


def ring_size(config: ReplayConfig, num_streams: int, batch_length: int, slack: int, kept_checkpoints: int) -> int:
    """Rows in a stream's files: its capacity, and the rows appended while kept checkpoints still need the others."""
    return _capacity(config, num_streams, batch_length) + slack * kept_checkpoints


def _capacity(config: ReplayConfig, num_streams: int, batch_length: int) -> int:
    return max(config.capacity // num_streams, batch_length + 1)


def _check_positions(state: Mapping[str, Any], streams: int, length: int) -> None:
    """Raise `ValueError` for positions that no replay can have."""
    head, online, queue = state["head"], state["next_online"], [tuple(item) for item in state["queue"]]
    numbers = [head, online, *(number for item in queue for number in item)]
    if not all(type(number) is int and 0 <= number < 2**62 for number in numbers):
        raise ValueError("positions of rows must be whole numbers")
    if state["environments"] != streams or online > head:
        raise ValueError(f"positions must be those of {streams} environments")
    if any(stream >= streams or not 1 <= start <= head - length for stream, start in queue):
        raise ValueError("queued sequences must lie within the rows")
