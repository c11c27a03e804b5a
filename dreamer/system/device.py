"""Devices that the networks can run on."""

from __future__ import annotations

import torch

from dreamer.errors import UserError


def choose_device(name: str) -> str:
    """The name of a device with `auto` resolved; a CUDA device becomes the current one.

    Raises `UserError` for a device that this machine lacks.
    """
    available = ["cpu"]
    if torch.backends.mps.is_available():
        available.insert(0, "mps")
    if torch.cuda.is_available():
        available = ["cuda", *(f"cuda:{number}" for number in range(torch.cuda.device_count())), *available]
    if name == "auto":
        name = available[0]
    if name not in available:
        raise UserError(f"--device {name} is not available here; available: {', '.join(available)}")
    if name.startswith("cuda:"):
        torch.cuda.set_device(name)
    return name


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished, so that timings include its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
