"""Asynchronous transfer from a GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

Item = TypeVar("Item")


@dataclass
class LateStates(Generic[Item]):
    """New core states on their way from the device, each with an item of the caller's and a flag.

    On a CPU they are there at once. From a GPU they arrive when the next ones set out, one update later: the host would
    otherwise wait for every update (V3 delivers late too).
    """

    write: Callable[[Item, np.ndarray, bool], None]
    waiting: tuple[Item, Tensor, Tensor, torch.cuda.Event] | None = None

    def put(self, item: Item, packed: Tensor, flag: Tensor) -> None:
        """Send states `[batch, time, packed]` and a scalar that is 0 or not; `write` gets them with `item`."""
        self.flush()
        if packed.device.type != "cuda":
            self.write(item, packed.cpu().numpy(), bool(flag))
            return
        host, host_flag = _send(packed), _send(flag)
        event = torch.cuda.Event()
        event.record()
        self.waiting = item, host, host_flag, event

    def flush(self) -> None:
        """Deliver what is on its way, as a checkpoint must."""
        if self.waiting is not None:
            item, host, flag, event = self.waiting
            self.waiting = None
            event.synchronize()
            self.write(item, host.numpy(), bool(flag))


def _send(tensor: Tensor) -> Tensor:
    """A copy in pinned memory that is there once the device gets so far."""
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)
