"""Asynchronous transfer from a GPU."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

Item = TypeVar("Item")


@dataclass
class LateResults(Generic[Item]):
    """Packed core states and flags on their way from the device, each pair with an item of the caller's.

    Results from a CPU are there at once. Those from a GPU are handed out when the next ones have been sent, one update
    later: otherwise the host would wait for every update. (Dreamer V3 is late in the same way.)
    """

    _sent: deque[tuple[Item, Tensor, Tensor, torch.cuda.Event | None]] = field(default_factory=deque)

    def send(self, item: Item, packed: Tensor, flag: Tensor) -> None:
        """Send states `[batch, time, packed]` and a scalar flag to the host."""
        if packed.device.type != "cuda":
            self._sent.append((item, packed.cpu(), flag.cpu(), None))
            return
        host, host_flag = _send(packed), _send(flag)
        event = torch.cuda.Event()
        event.record()
        self._sent.append((item, host, host_flag, event))

    def arrived(self, wait: bool = False) -> Iterator[tuple[Item, np.ndarray, bool]]:
        """Yield items with their states and flags, oldest first; with `wait`, also those still on their way."""
        while self._sent and (wait or self._sent[0][-1] is None or len(self._sent) > 1):
            item, host, flag, event = self._sent.popleft()
            if event is not None:
                event.synchronize()
            yield item, host.numpy(), bool(flag)

    def drop(self) -> None:
        """Forget what is on its way."""
        self._sent.clear()


def _send(tensor: Tensor) -> Tensor:
    """A copy in pinned memory, complete once the device gets that far."""
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)
