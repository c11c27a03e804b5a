"""Stream: the rows of one environment, a ring in two memory-mapped files.

    stream_000.rows      one record per row: observations, prev_action, reward, flags
    stream_000.states    two slots per row for the packed core state

Positions are *logical*: the number of rows appended before. A row's place in the ring is its position modulo the size
of the ring. A state that is written back goes to the slot that the last checkpoint does not use, so that the checkpoint
keeps the states that it was saved with.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import numpy as np

from dreamer.errors import UserError, reason
from dreamer.experience.layout import RowLayout
from dreamer.system.files import require_same

GROWTH = 4096
"""Rows by which the files grow until the ring has its full size."""


class Stream:
    """One environment's ring of rows and states."""

    def __init__(self, path: Path, index: int, layout: RowLayout, ring: int):
        self.files = path / f"stream_{index:03d}.rows", path / f"stream_{index:03d}.states"
        self.layout, self.ring = layout, ring
        self.head = 0
        """Position of the next row."""
        self.live = np.zeros(0, np.uint8)
        """Slot of the newest state `[place]`."""
        self.committed = np.zeros(0, np.uint8)
        """Slot of the state that the last checkpoint needs `[place]`."""
        self.waiting: dict[int, np.ndarray] = {}
        """States by place that are kept in memory until `commit`."""
        self.maps: list[mmap.mmap] = []
        """Maps of the files."""
        self.statuses: list[os.stat_result] = []
        """Statuses of the files when they were mapped."""
        self.rows: np.ndarray = np.zeros(0, layout.dtype)
        self.states: np.ndarray = np.zeros((0, 2, layout.packed_dim), np.float32)

    def reserve(self, rows: int) -> None:
        """Make room on disk for this many rows in total, at most the ring."""
        size = min(self.ring, -(-rows // GROWTH) * GROWTH)
        if size <= len(self.rows):
            return
        sizes = [size * row_bytes for row_bytes in self.layout.row_bytes]
        maps, statuses = zip(*map(map_file, self.files, sizes), strict=True)
        self.maps, self.statuses = list(maps), list(statuses)
        self.rows = np.frombuffer(maps[0], self.layout.dtype)
        self.states = np.frombuffer(maps[1], np.float32).reshape(size, 2, self.layout.packed_dim)
        grown = size - len(self.live)
        self.live = np.concatenate([self.live, np.zeros(grown, np.uint8)])
        self.committed = np.concatenate([self.committed, np.ones(grown, np.uint8)])

    def require_whole(self) -> None:
        """Raise `UserError` if another process has cut a file, the map of which would end this one by SIGBUS."""
        for file, its_map in zip(self.files, self.maps, strict=False):
            if its_map.size() < len(its_map):
                raise UserError(f"replay file {file} was cut while the run was using it")

    def append(self, record: np.void, state: np.ndarray) -> None:
        """Add a row and its packed state."""
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
        """Store states in the slots that the last checkpoint does not need."""
        slots = 1 - self.committed[places]
        self.states[places, slots] = states
        self.live[places] = slots

    def commit(self) -> None:
        """Keep the live states from now on, and store the states that have waited."""
        self.committed[:] = self.live
        if self.waiting:
            self.write(np.fromiter(self.waiting, np.int64), np.stack(list(self.waiting.values())))
            self.waiting = {}

    def restore(self, head: int, live: np.ndarray) -> None:
        """Return to `head` rows with live slots `live`, packed bits; raises `UserError` when the files are shorter."""
        for file, row_bytes in zip(self.files, self.layout.row_bytes, strict=True):
            if head and (not file.is_file() or file.stat().st_size < min(head, self.ring) * row_bytes):
                raise UserError(f"replay file {file} is missing or shorter than its checkpoint needs")
        self.head, self.waiting = head, {}
        self.reserve(head)
        bits = np.unpackbits(live)[: len(self.live)]
        self.live[: len(bits)] = bits

    def sync(self) -> None:
        """Make everything stored safe against power loss; other threads may store meanwhile."""
        for file, its_map, status in zip(self.files, list(self.maps), list(self.statuses), strict=False):
            require_same(file, status, len(its_map))
            descriptor = os.open(file, os.O_RDWR)
            try:
                os.fsync(descriptor)  # also syncs the mapping, which shares the page cache
            finally:
                os.close(descriptor)


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
