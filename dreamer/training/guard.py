"""Guard: what happens when a loss, gradient or parameter is not finite."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dreamer.config import GuardConfig
from dreamer.errors import NotFinite, UserError, reason
from dreamer.runs.checkpoint import snapshot
from dreamer.system import ranks
from dreamer.system.files import write_atomically
from dreamer.system.redaction import warn

KEPT_BATCHES = 3


class Guard:
    """Counts skipped updates and rollbacks, and keeps the batches of the first skipped updates in `folder`."""

    def __init__(self, config: GuardConfig, folder: Path):
        self.config, self.folder = config, folder
        self.skipped = self.in_a_row = 0
        self.went_back: tuple[int, int] = (-1, 0)
        """Step of the checkpoint that the run last returned to, and how often in succession."""

    def skip(self, update: int, evidence: Mapping[str, Any]) -> None:
        """Count a skipped update; `evidence` is what `dreamer debug-batch` needs to repeat it.

        Raises `NotFinite` when so many were skipped in a row that the run must return to its newest checkpoint.
        """
        self.skipped += 1
        self.in_a_row += 1
        if self.in_a_row == 1:
            path = self._keep(update, evidence)
            where = f"; see `dreamer debug-batch {path}`" if path else ""
            where += " and the batches of the other processes beside it" if path and ranks.count() > 1 else ""
            warn(f"update {update} is skipped: the loss or a gradient is not finite{where}")
        if self.in_a_row >= self.config.skips:
            raise NotFinite(f"the loss or a gradient was not finite in {self.in_a_row} updates in a row")

    def succeed(self) -> None:
        """Note that an update changed the parameters."""
        self.in_a_row = 0

    def go_back(self, step: int, reason: str) -> int:
        """Count a return to the checkpoint of `step`; returns how many there were, raises `UserError` for one too many.

        Returns to the same checkpoint count in succession.
        """
        at, times = self.went_back
        times = times + 1 if at == step else 1
        if times > self.config.rollbacks:
            batches = sorted(self.folder.glob("batch_*.pt"))
            see = f"; see what is wrong with: dreamer debug-batch {batches[-1]}" if batches else ""
            raise UserError(
                f"{reason}, also after going back {self.config.rollbacks} times to the checkpoint of step {step}: "
                f"stopped{see}; a lower --agent.optimizer.learning-rate may help a new run"
            )
        self.went_back = step, times
        warn(f"{reason}: going back to the checkpoint of step {step} ({times} of {self.config.rollbacks})")
        return times

    def _keep(self, update: int, evidence: Mapping[str, Any]) -> Path | None:
        """Write FOLDER/batch_<update>.pt; returns None when enough are kept or the disk is full."""
        rank = f"_rank_{ranks.number()}" if ranks.number() else ""
        kept = list(self.folder.glob(f"batch_?????????{rank}.pt")) if self.folder.is_dir() else []
        path = self.folder / f"batch_{update:09d}{rank}.pt"
        if len(kept) >= KEPT_BATCHES and path not in kept:
            return None
        buffer = io.BytesIO()
        torch.save(snapshot(evidence), buffer)
        try:
            self.folder.mkdir(exist_ok=True)
            write_atomically(path, buffer.getbuffer())
        except OSError as error:  # the run matters more
            warn(f"cannot keep the batch at {path}: {reason(error)}")
            return None
        return path

    def state_dict(self) -> dict[str, Any]:
        """The counts of skipped updates."""
        return {"skipped": self.skipped, "in_a_row": self.in_a_row}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the counts."""
        self.skipped, self.in_a_row = state["skipped"], state["in_a_row"]


@torch.no_grad()
def all_finite(module: nn.Module) -> bool:
    """True when every parameter is finite; the host waits for the answer."""
    return bool(torch.stack(torch._foreach_norm(list(module.parameters()))).isfinite().all())
