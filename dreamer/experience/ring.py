"""Ring: the rows of all environments, a ring in two memory-mapped files.

    rows.bin      one record per row `[place, env]`: observations, prev_action, reward, flags
    states.bin    two slots per row `[place, env, slot]` for the packed core state

Environments step together: each has one row at every position. Positions are *logical*, the number of rows that each
environment had before. The place of a row is its position modulo the size of the ring. A state that is written back
goes to the slot that the last checkpoint does not use, so that the checkpoint keeps the states that it was saved with.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import numpy as np

from dreamer.batch import ROW_SCALARS, Row
from dreamer.errors import UserError, reason
from dreamer.experience.layout import RowLayout
from dreamer.system.files import require_same

FILES = "rows.bin", "states.bin"
GROWTH = 4096
"""Places by which the files grow until the ring has its full size; fewer for more than `GROWN` rows in all."""
GROWN = 16 * GROWTH
"""Rows of all environments by which the files grow at most."""


class Ring:
    """Rows and states of environments that step together."""

    def __init__(self, path: Path, num_envs: int, layout: RowLayout, size: int):
        self.files = [path / name for name in FILES]
        self.num_envs, self.layout, self.size = num_envs, layout, size
        self.head = 0
        """Position of the next rows."""
        self.live = np.zeros((0, num_envs), np.uint8)
        """Slot of the newest state `[place, env]`."""
        self.committed = np.zeros((0, num_envs), np.uint8)
        """Slot of the state that the last checkpoint needs `[place, env]`."""
        self.waiting: dict[tuple[int, int], np.ndarray] = {}
        """States by place and environment that are kept in memory until `commit`."""
        self.maps: list[mmap.mmap] = []
        """Maps of the files."""
        self.statuses: list[os.stat_result] = []
        """Statuses of the files when they were mapped."""
        self.rows: np.ndarray = np.zeros((0, num_envs), layout.dtype)
        self.states: np.ndarray = np.zeros((0, num_envs, 2, layout.packed_dim), np.float32)

    @property
    def used(self) -> int:
        """Places that hold rows."""
        return min(self.head, self.size)

    def reserve(self, rows: int) -> None:
        """Make room on disk for this many rows of each environment, at most the ring."""
        size = reserved(rows, self.num_envs, self.size)
        if size <= len(self.rows):
            return
        sizes = [size * self.num_envs * row_bytes for row_bytes in self.layout.row_bytes]
        maps, statuses = zip(*map(map_file, self.files, sizes), strict=True)
        self.maps, self.statuses = list(maps), list(statuses)
        self.rows = np.frombuffer(maps[0], self.layout.dtype).reshape(size, self.num_envs)
        self.states = np.frombuffer(maps[1], np.float32).reshape(size, self.num_envs, 2, self.layout.packed_dim)
        grown = size - len(self.live), self.num_envs
        self.live = np.concatenate([self.live, np.zeros(grown, np.uint8)])
        self.committed = np.concatenate([self.committed, np.ones(grown, np.uint8)])

    def require_whole(self) -> None:
        """Raise `UserError` if another process has cut a file, the map of which would end this one by SIGBUS."""
        for file, its_map in zip(self.files, self.maps, strict=False):
            if its_map.size() < len(its_map):
                raise UserError(f"replay file {file} was cut while the run was using it")

    def append(self, row: Row, packed: np.ndarray) -> None:
        """Add one row of every environment, with its packed states `[env, packed]`."""
        self.reserve(self.head + 1)
        place = self.head % self.size
        records = self.rows[place]
        for key in self.layout.obs_shapes:
            records[f"obs/{key}"] = row.obs[key]
        for name in (*ROW_SCALARS, "prev_action"):
            records[name] = getattr(row, name)
        self.states[place, :, 0] = packed
        self.live[place], self.committed[place] = 0, 1
        if self.waiting:
            for env in range(self.num_envs):
                self.waiting.pop((place, env), None)
        self.head += 1

    def newest(self, places: np.ndarray, envs: np.ndarray) -> np.ndarray:
        """The newest states at these places `[row]` of these environments `[row]`: `[row, packed]`."""
        states: np.ndarray = self.states[places, envs, self.live[places, envs]]
        if self.waiting:
            for i, key in enumerate(zip(places.tolist(), envs.tolist(), strict=True)):
                states[i] = self.waiting.get(key, states[i])
        return states

    def write(self, places: np.ndarray, envs: np.ndarray, states: np.ndarray) -> None:
        """Store `states` `[row, packed]` in slots that the last checkpoint does not need; of equal rows, the last."""
        slots = 1 - self.committed[places, envs]
        self.states[places, envs, slots] = states
        self.live[places, envs] = slots

    def wait(self, places: np.ndarray, envs: np.ndarray, states: np.ndarray) -> None:
        """Keep `states` in memory; `commit` writes them."""
        self.waiting.update(zip(zip(places.tolist(), envs.tolist(), strict=True), states, strict=True))

    def commit(self) -> None:
        """Keep the live states from now on, and store the states that have waited."""
        self.committed[:] = self.live
        if self.waiting:
            places, envs = np.array(list(self.waiting)).T
            self.write(places, envs, np.stack(list(self.waiting.values())))
            self.waiting = {}

    def restore(self, head: int, live: np.ndarray) -> None:
        """Return to `head` rows with live slots `live` `[place, env]`, packed bits.

        Raises `UserError` when the files are shorter, and `ValueError` when `live` is.
        """
        places = min(head, self.size)
        for file, row_bytes in zip(self.files, self.layout.row_bytes, strict=True):
            require_file(file, places * self.num_envs * row_bytes)
        bits = np.unpackbits(live)[: places * self.num_envs].reshape(places, self.num_envs)
        self.head, self.waiting = head, {}
        self.reserve(head)
        self.live[:places] = bits

    def sync(self) -> None:
        """Make everything stored safe against power loss; other threads may store meanwhile."""
        for file, its_map, status in zip(self.files, list(self.maps), list(self.statuses), strict=False):
            require_same(file, status, len(its_map))
            descriptor = os.open(file, os.O_RDWR)
            try:
                os.fsync(descriptor)  # also syncs the mapping, which shares the page cache
            finally:
                os.close(descriptor)


def reserved(rows: int, num_envs: int, size: int) -> int:
    """Places in the files that hold `rows` rows of each environment in a ring of `size` places."""
    growth = min(GROWTH, -(-GROWN // num_envs))
    return min(size, -(-rows // growth) * growth)


def require_file(file: Path, size: int) -> None:
    """Raise `UserError` when a file is needed and is missing or has fewer than `size` bytes."""
    if size and (not file.is_file() or file.stat().st_size < size):
        raise UserError(f"replay file {file} is missing or shorter than its checkpoint needs")


def map_file(path: Path, size: int) -> tuple[mmap.mmap, os.stat_result]:
    """Map a file of at least this size, and return its status as well.

    Its blocks are allocated, so that a full disk is an error and not a signal.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(descriptor, 0, max(size, 1))
            else:
                os.truncate(descriptor, max(size, os.fstat(descriptor).st_size))
            return mmap.mmap(descriptor, size), os.fstat(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise UserError(f"cannot reserve {size / 2**20:.0f} MB for replay at {path}: {reason(error)}") from error
