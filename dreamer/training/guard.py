"""What happens when a loss or gradient is not finite: the update is skipped, its batch kept, the run rolled back."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dreamer.agent import Agent
from dreamer.batch import Batch
from dreamer.config import GuardConfig
from dreamer.errors import UserError
from dreamer.runs.checkpoint import snapshot
from dreamer.system.files import write_atomically
from dreamer.system.redaction import tell

KEPT_BATCHES = 3


class Guard:
    """Counts skipped updates, keeps the batches of the first ones, and says when to go back."""

    def __init__(self, config: GuardConfig, folder: Path):
        self.config, self.folder = config, folder
        self.skipped = self.in_a_row = 0
        self.went_back: tuple[int, int] = (-1, 0)

    def after(self, skipped: bool, agent: Agent, batch: Batch, updates: int, rng: torch.Tensor) -> bool:
        """Note how an update went; True when the run should go back to its newest checkpoint.

        `rng` is the state of the CPU's random numbers with which it began.
        """
        if not skipped:
            self.in_a_row = 0
            return False
        self.skipped += 1
        self.in_a_row += 1
        if self.in_a_row == 1:
            path = self.keep(agent, batch, updates, rng)
            where = f"; see `dreamer debug-batch {path}`" if path else ""
            tell(f"update {updates} is skipped: the loss or a gradient is not finite{where}")
        return self.in_a_row >= self.config.skips

    def keep(self, agent: Agent, batch: Batch, updates: int, rng: torch.Tensor) -> Path | None:
        """Write what repeats the update to FOLDER/batch_<updates>.pt; None when enough are kept or the disk is full."""
        kept = list(self.folder.glob("batch_*.pt")) if self.folder.is_dir() else []
        path = self.folder / f"batch_{updates:09d}.pt"
        if len(kept) >= KEPT_BATCHES and path not in kept:
            return None
        columns = {field.name: getattr(batch, field.name) for field in fields(batch)}
        state = {"batch": columns, "modules": agent.state_dict(), "discrete": agent.action.discrete}
        state |= {"rng": rng, "device": agent.device.type}
        buffer = io.BytesIO()
        torch.save(snapshot(state), buffer)
        try:
            self.folder.mkdir(exist_ok=True)
            write_atomically(path, buffer.getbuffer())
        except OSError as error:  # the run matters more
            tell(f"cannot keep the batch at {path}: {error.strerror}")
            return None
        return path

    def go_back(self, step: int, reason: str) -> int:
        """Count a return to the checkpoint of `step` and give its number; raises `UserError` for one too many."""
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
        count = f"{times} of {self.config.rollbacks}"
        tell(f"{reason}: going back to the checkpoint of step {step} ({count})")
        return times

    def state_dict(self) -> dict[str, Any]:
        """The counts."""
        return {"skipped": self.skipped, "in_a_row": self.in_a_row}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the counts."""
        self.skipped, self.in_a_row = state["skipped"], state["in_a_row"]


@torch.no_grad()
def all_finite(module: nn.Module) -> bool:
    """Whether every parameter is a finite number; the host waits for the answer."""
    return bool(torch.stack(torch._foreach_norm(list(module.parameters()))).isfinite().all())
