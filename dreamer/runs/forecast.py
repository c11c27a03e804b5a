"""How large the replay of a run will be, said before it begins, and refused where it does not fit."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from dreamer.batch import Shapes, images
from dreamer.config import Config
from dreamer.errors import UserError
from dreamer.experience.replay import GROWTH, RowLayout
from dreamer.system.memory import free_bytes, total_memory

GB = 1e9


@dataclass(frozen=True)
class Forecast:
    """The replay files of a run at its end."""

    row_bytes: int
    """Bytes of a row with its two slots for a core state."""
    image_bytes: int
    """Bytes of the images among them."""
    rows: int
    """Rows in the files, those kept for checkpoints included."""

    @property
    def total(self) -> int:
        """Bytes on disk; memory holds as many once all rows have been drawn."""
        return self.row_bytes * self.rows

    def __str__(self) -> str:
        pictures = f" (images {self.image_bytes / 1000:.1f})" if self.image_bytes else ""
        return f"replay: {self.row_bytes / 1000:.1f} kB per row{pictures}, {self.rows:,} rows, {self.total / GB:.2f} GB"


def forecast(config: Config, layout: RowLayout) -> Forecast:
    """The replay of a run of this configuration."""
    streams = config.env.num_envs
    collected = math.ceil(config.steps / (config.env.repeat * streams))
    capacity = max(config.replay.capacity // streams, config.loop.batch_length + 1)
    ring = capacity + rows_between_checkpoints(config) * config.loop.keep_checkpoints
    rows = min(ring, math.ceil(collected / GROWTH) * GROWTH)
    return Forecast(sum(layout.row_bytes), image_bytes(layout.obs_shapes), rows * streams)


def rows_between_checkpoints(config: Config) -> int:
    """Rows of an environment that may be appended before a checkpoint must be saved."""
    loop, env = config.loop, config.env
    return math.ceil(loop.checkpoint_every / (env.repeat * env.num_envs)) + loop.batch_length


def image_bytes(shapes: Shapes) -> int:
    """Bytes of the images in an observation."""
    return sum(math.prod(shape) for shape in images(shapes).values())


def require_room(expected: Forecast, folder: Path) -> None:
    """Raise `UserError` unless the replay fits the disk of a run folder, existing or not, and this machine's memory."""
    existing = next(path for path in (folder, *folder.absolute().parents) if os.path.isdir(path))
    written = sum(file.stat().st_size for file in (folder / "replay").glob("*")) if existing == folder else 0
    disk, memory = free_bytes(existing) + written, total_memory()
    for room, what in ((disk, f"are free on the disk of {existing}"), (memory, "of memory has this machine")):
        if expected.total > room:
            fitting = 10 ** max(0, math.floor(math.log10(max(1, room / expected.row_bytes))))
            raise UserError(
                f"{expected} would not fit: {room / GB:.1f} GB {what}; "
                f"lower --replay.capacity (such as {fitting}), --steps, --size or --env.image-size"
            )
