"""Layout of a replay row on disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dreamer.batch import ROW_SCALARS, Shapes


@dataclass(frozen=True)
class RowLayout:
    """Sizes of the fields of a replay row."""

    obs_shapes: Shapes
    """Shape of each observation."""
    action_dim: int
    """Dimensions of an action vector."""
    packed_dim: int
    """Dimensions of a packed core state."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The record of one row."""
        kinds = {1: np.float32, 2: np.float32, 3: np.uint8}
        obs = [(f"obs/{key}", kinds[len(shape)], shape) for key, shape in sorted(self.obs_shapes.items())]
        flags = [(name, np.bool_) for name in ROW_SCALARS[1:]]
        action = ("prev_action", np.float32, (self.action_dim,))
        return np.dtype([*obs, action, ("reward", np.float32), *flags], align=True)

    @property
    def row_bytes(self) -> tuple[int, int]:
        """Bytes of a row in the file of rows, and in the file of states."""
        return self.dtype.itemsize, 2 * 4 * self.packed_dim

    def describe(self, ring: int) -> str:
        """The layout in words, with the size of the ring; a checkpoint fits replay files of the same description."""
        obs = ", ".join(f"{key} {'x'.join(map(str, shape))}" for key, shape in sorted(self.obs_shapes.items()))
        return f"observations ({obs}), action {self.action_dim}, state {self.packed_dim}, ring {ring}"
