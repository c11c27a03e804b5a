"""Devices that the networks can run on."""

from __future__ import annotations

import os

import torch

from dreamer.errors import UserError


def choose_device(name: str, processes: int = 1) -> str:
    """The name of a device with `auto` resolved; a CUDA device becomes the current one.

    Of several `processes` that train one agent, each gets a GPU of its own, or all use the processor. Raises
    `UserError` for a device that this machine lacks.
    """
    if processes > 1:
        name = _own_device(name, processes)
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


def _own_device(name: str, processes: int) -> str:
    """The device of this process, one of several on this machine."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    name = name if name != "auto" else "cuda" if gpus else "cpu"
    if name not in ("cpu", "cuda"):
        raise UserError(f"--device {name} is one device; with --devices {processes} use cuda or cpu")
    here = int(os.environ.get("LOCAL_WORLD_SIZE", processes))
    if name == "cuda" and here > gpus:
        most = f"use --devices {gpus}" if gpus > 1 else "leave --devices out, or use --device cpu"
        raise UserError(f"--devices {processes} needs {here} GPUs on this machine, which has {gpus}; {most}")
    return name if name == "cpu" else f"cuda:{os.environ.get('LOCAL_RANK', 0)}"


def gpu_names() -> list[str]:
    """The CUDA devices of this process, each as the value of CUDA_VISIBLE_DEVICES that makes only it visible."""
    count = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = [name.strip() for name in visible.split(",") if name.strip()] or list(map(str, range(count)))
    return names[:count]


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished, so that timings include its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
