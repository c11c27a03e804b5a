"""Replay of older versions, which had two files for every environment, joined into the two files of `Ring`.

    stream_000.rows      the records of environment 0 `[place]`
    stream_000.states    its two slots per row `[place, slot]`

The older files stay until as many newer checkpoints are safe as a run keeps: until then a checkpoint that needs them
may be the newest usable one. A run that dies earlier joins them again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dreamer.errors import reason
from dreamer.experience.ring import FILES, Ring, require_file
from dreamer.system.redaction import warn


def joined(state: Mapping[str, Any], ring: Ring, folder: Path) -> dict[str, Any]:
    """Fill `ring` from the older files in `folder`, and return an older state of replay in its present form.

    Raises `UserError` when a file is missing or too short, and `ValueError` for a state that no version has written.
    """
    heads, online = state["heads"], state["next_online"]
    if len(heads) != ring.num_envs or len({*heads}) != 1 or len({*online}) != 1:
        raise ValueError(f"positions must be those of {ring.num_envs} environments that step together")
    if not all(type(head) is int and 0 <= head < 2**62 for head in heads):
        raise ValueError("positions of rows must be whole numbers")
    head = heads[0]
    places = min(head, ring.size)
    files = [[folder / f"stream_{env:03d}.{name}" for name in ("rows", "states")] for env in range(ring.num_envs)]
    for pair in files:
        for file, row_bytes in zip(pair, ring.layout.row_bytes, strict=True):
            require_file(file, places * row_bytes)
    live = np.stack([np.unpackbits(bits.numpy())[:places] for bits in state["live"]], 1)
    if live.shape != (places, ring.num_envs):
        raise ValueError("live slots must be those of the rows")
    ring.reserve(head)
    for env, (rows, states) in enumerate(files if places else []):
        ring.rows[:places, env] = np.memmap(rows, ring.layout.dtype, "r", shape=(places,))
        ring.states[:places, env] = np.memmap(states, np.float32, "r", shape=(places, *ring.states.shape[2:]))
    changed = {"head": head, "next_online": online[0], "live": torch.from_numpy(np.packbits(live))}
    return {**state, "environments": ring.num_envs} | changed


def replay_files(folder: Path) -> list[Path]:
    """The files of replay in its folder, of this version and of older ones."""
    return [file for file in sorted(folder.glob("*")) if file.is_file() and (file.name in FILES or _is_older(file))]


def _is_older(file: Path) -> bool:
    return file.name.startswith("stream_") and file.suffix in (".rows", ".states")


class OlderFiles:
    """The files of an older version that a run has in its replay folder, deleted when nothing needs them."""

    def __init__(self, folder: Path, kept_checkpoints: int):
        self.files = [file for file in replay_files(folder) if _is_older(file)]
        self.needed = kept_checkpoints

    def commit(self) -> None:
        """One more newer checkpoint is safe."""
        self.needed -= 1
        if self.needed <= 0:
            for file in self.files:
                try:
                    file.unlink(missing_ok=True)
                except OSError as error:
                    warn(f"cannot delete {file}, which is no longer needed: {reason(error)}")
            self.files = []
