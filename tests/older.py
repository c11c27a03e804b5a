"""Replay as older versions wrote it: two files and one head for every environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from dreamer.experience.layout import RowLayout
from dreamer.experience.ring import GROWTH
from dreamer.runs import checkpoint


def older_state(folder: Path, state: dict[str, Any], layout: RowLayout) -> dict[str, Any]:
    """Replace the files of a replay folder by older ones, and return a checkpoint's `state` in its older form."""
    envs, ring = state["environments"], int(state["layout"].rpartition(" ")[2])
    rows = np.fromfile(folder / "rows.bin", layout.dtype).reshape(-1, envs)
    states = np.fromfile(folder / "states.bin", np.float32).reshape(len(rows), envs, 2, layout.packed_dim)
    live = np.zeros((min(ring, -(-state["head"] // GROWTH) * GROWTH), envs), np.uint8)
    used = min(state["head"], ring)
    live[:used] = np.unpackbits(state["live"].numpy())[: used * envs].reshape(used, envs)
    for env in range(envs):
        rows[:, env].tofile(folder / f"stream_{env:03d}.rows")
        states[:, env].tofile(folder / f"stream_{env:03d}.states")
    older = {name: state[name] for name in ("layout", "queue", "rng")}
    older |= {name: [state[new]] * envs for name, new in (("heads", "head"), ("next_online", "next_online"))}
    return older | {"live": [torch.from_numpy(np.packbits(bits)) for bits in live.T]}


def make_older(run: Path, layout: RowLayout) -> None:
    """Give the newest checkpoint and the replay of a run the form of older versions; older checkpoints are deleted."""
    step, state, _ = checkpoint.load(run / "checkpoints")
    state["replay"] = older_state(run / "replay", state["replay"], layout)
    for name in ("rows.bin", "states.bin"):
        (run / "replay" / name).unlink()
    checkpoint.save(run / "checkpoints", step, dict(state), 1)
