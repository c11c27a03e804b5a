"""States of PyTorch's random generators: that of the CPU, and that of the device of the networks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor


def random_states(device: torch.device) -> dict[str, Tensor]:
    """States of the CPU's generator and the device's own, by type of device."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        states["mps"] = torch.mps.get_rng_state()
    return states


def set_random_states(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Restore what `random_states` returned; a device without a state there keeps its own."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
    elif device.type == "mps" and "mps" in states:
        torch.mps.set_rng_state(states["mps"])


@contextmanager
def own_randomness(device: torch.device, seed: int | None = None) -> Iterator[None]:
    """Restore the caller's random states after the block, which starts from `seed` or else from the caller's state."""
    states = random_states(device)
    if seed is not None:
        torch.manual_seed(seed)
    try:
        yield
    finally:
        set_random_states(states, device)
