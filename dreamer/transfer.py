"""Asynchronous transfer from a GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

Windows = TypeVar("Windows")


@dataclass
class LateStates(Generic[Windows]):
    """New core states on their way from the device to replay.

    On a CPU they are there at once. From a GPU they arrive when the next ones set out, one update later: the host would
    otherwise wait for every update (V3 delivers late too).
    """

    write: Callable[[Windows, np.ndarray], None]
    waiting: tuple[Windows, Tensor, torch.cuda.Event] | None = None

    def put(self, windows: Windows, packed: Tensor) -> None:
        """Send states `[batch, time, packed]` of the rows in `windows`."""
        self.flush()
        if packed.device.type != "cuda":
            self.write(windows, packed.cpu().numpy())
            return
        host = torch.empty(packed.shape, dtype=packed.dtype, pin_memory=True)
        host.copy_(packed, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self.waiting = windows, host, event

    def flush(self) -> None:
        """Deliver what is on its way, as a checkpoint must."""
        if self.waiting is not None:
            windows, host, event = self.waiting
            self.waiting = None
            event.synchronize()
            self.write(windows, host.numpy())
