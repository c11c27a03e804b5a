"""Whether a model fits this machine's memory, told before training begins."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

import torch
from torch import nn

from dreamer.errors import UserError

TRAINED_BYTES = 28
"""Memory per parameter while it is trained: weight, gradient, two running means, and three vectors during a step."""
SAVED_BYTES = 24
"""Memory per parameter while a checkpoint is written: weight and two running means, copied and serialized."""


def require_memory(model: nn.Module, device: str) -> None:
    """Raise `UserError` when `model`, which may lie on the meta device, cannot be trained on `device` here.

    Activations are not counted, so a model that passes may still be too large.
    """
    parameters = sum(param.numel() for param in model.parameters())
    places = [("memory", TRAINED_BYTES if device == "cpu" else SAVED_BYTES, available_memory())]
    if device == "cuda":
        places.append(("GPU memory", TRAINED_BYTES, torch.cuda.mem_get_info()[0]))
    for name, each, free in places:
        if free is not None and parameters * each > free:
            raise UserError(
                f"{parameters / 1e6:.0f} million parameters need at least {parameters * each / 1e9:.1f} GB of {name} "
                f"to train, and {free / 1e9:.1f} GB are free; choose a smaller --size"
            )


def available_memory() -> int | None:
    """Bytes that this process may still take: of the machine, its container and its own limit; None when unknown."""
    found = [_free_of_machine(), _free_of_container(), _free_of_process()]
    return min((free for free in found if free is not None), default=None)


def _free_of_machine() -> int | None:
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _free_of_container() -> int | None:
    limit, used = _lines("/sys/fs/cgroup/memory.max"), _lines("/sys/fs/cgroup/memory.stat")
    anonymous = [int(line.split()[1]) for line in used if line.startswith("anon ")]
    if not limit or limit[0] == "max" or not anonymous:
        return None
    return max(0, int(limit[0]) - anonymous[0])


def _free_of_process() -> int | None:
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    pages = _lines("/proc/self/statm")
    if limit == resource.RLIM_INFINITY or not pages:
        return None
    return max(0, limit - int(pages[0].split()[0]) * resource.getpagesize())


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def total_memory() -> int:
    """Bytes of memory that this process may use: the machine's, or what a container allows."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")):
        if limit.is_file() and limit.read_text().strip().isdigit():
            total = min(total, int(limit.read_text()))
    return total


def free_bytes(path: Path) -> int:
    """Free disk space at `path`, in bytes; no limit where the file system has no blocks, as /proc has none."""
    stats = os.statvfs(path)
    return stats.f_bavail * stats.f_frsize if stats.f_blocks else sys.maxsize
