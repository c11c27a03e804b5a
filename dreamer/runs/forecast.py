"""Forecast of a run's replay size, and the check that it fits disk and memory before the run begins."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from dreamer.batch import images
from dreamer.config import Config
from dreamer.errors import UserError
from dreamer.experience.layout import RowLayout
from dreamer.experience.replay import LEAST_CAPACITY, ring_size
from dreamer.experience.ring import reserved
from dreamer.system.memory import GB, free_bytes, total_memory


@dataclass(frozen=True)
class Forecast:
    """Size of the replay files of a run at its end."""

    row_bytes: int
    """Bytes of a row, its two slots for a core state included."""
    image_bytes: int
    """Bytes of the images among them."""
    rows: int
    """Rows in the files, those kept for checkpoints included."""

    @property
    def total(self) -> int:
        """Bytes on disk, and in memory once all rows have been drawn."""
        return self.row_bytes * self.rows

    def __str__(self) -> str:
        pictures = f" (images {self.image_bytes / 1000:.1f})" if self.image_bytes else ""
        return f"{self.row_bytes / 1000:.1f} kB per row{pictures}, {self.rows:,} rows, {self.total / GB:.2f} GB"


def forecast(config: Config, layout: RowLayout) -> Forecast:
    """The size of replay that this configuration leads to."""
    loop, streams = config.loop, config.env.num_envs
    collected = math.ceil(config.steps / (config.env.repeat * streams))
    slack = rows_between_checkpoints(config)
    ring = ring_size(config.replay, streams, loop.batch_length, slack, loop.keep_checkpoints)
    rows = reserved(collected, streams, ring)
    image_bytes = sum(math.prod(shape) for shape in images(layout.obs_shapes).values())
    return Forecast(sum(layout.row_bytes), image_bytes, rows * streams)


def rows_between_checkpoints(config: Config) -> int:
    """Rows of an environment that may be appended before a checkpoint must be saved."""
    loop, env = config.loop, config.env
    return math.ceil(loop.checkpoint_every / (env.repeat * env.num_envs)) + loop.batch_length


def require_room(expected: Forecast, folder: Path) -> None:
    """Raise `UserError` unless the replay fits the disk of a run folder, existing or not, and this machine's memory."""
    existing = next(path for path in (folder, *folder.absolute().parents) if os.path.isdir(path))
    files = [*folder.glob("replay/*"), *folder.glob("rank_*/replay/*")] if existing == folder else []
    written = sum(file.stat().st_size for file in files)
    disk, memory = free_bytes(existing) + written, total_memory()
    for room, what in ((disk, f"are free on the disk of {existing}"), (memory, "is the memory of this machine")):
        if expected.total > room:
            fitting = 10 ** math.floor(math.log10(max(1, room / expected.row_bytes)))
            lower = f"--replay.capacity (such as {fitting}), " if fitting >= LEAST_CAPACITY else ""
            raise UserError(
                f"replay: {expected} would not fit: {room / GB:.1f} GB {what}; lower {lower}--steps, --size or "
                "--env.image-size"
            )
