"""Memory and disk space of this machine, and the check that a model fits before training begins."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

import torch
from torch import nn

from dreamer.errors import UserError

GB = 1e9
TRAINED_BYTES = 28
"""Bytes per trained parameter: weight, gradient, two running means, and three vectors during a step."""
SAVED_BYTES = 24
"""Bytes per parameter while a checkpoint is written: weight and two running means, copied and serialized."""
CGROUPS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.stat"), "anon"),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), Path("/sys/fs/cgroup/memory/memory.stat"), "total_rss"),
)
"""Limit, statistics, and the name of used memory in them, for cgroup versions 2 and 1."""


def require_memory(model: nn.Module, device: str, update: int = 0) -> None:
    """Raise `UserError` when `model`, which may lie on the meta device, cannot be trained on `device` here.

    `update` is the least number of bytes that an update takes beside the parameters.
    """
    parameters = sum(param.numel() for param in model.parameters())
    on_gpu = device.startswith("cuda")
    if on_gpu:
        need(parameters * SAVED_BYTES, f"{parameters / 1e6:.0f} million parameters", "choose a smaller --size")
    free = torch.cuda.mem_get_info(device)[0] if on_gpu else available_memory()
    trained = parameters * TRAINED_BYTES
    need(trained, f"{parameters / 1e6:.0f} million parameters", "choose a smaller --size", free)
    flags = "--loop.batch-size, --loop.batch-length, --agent.imagination-horizon, --env.image-size or --size"
    need(trained + update, "training updates", f"lower {flags}", free)


def need(size: int, what: str, advice: str, free: int | None = None) -> None:
    """Raise `UserError` when `what`, in the plural, takes more bytes than are `free`, by default in this machine."""
    free = available_memory() if free is None else free
    if free is not None and size > free:
        raise UserError(f"{what} need at least {size / GB:.1f} GB of memory, and {free / GB:.1f} GB are free; {advice}")


def available_memory() -> int | None:
    """Bytes that this process may still allocate: the least of machine, container and own limit; None if unknown."""
    found = [_free_of_machine(), _free_of_process(), *(limit - used for limit, used in _containers())]
    return min((max(0, free) for free in found if free is not None), default=None)


def total_memory() -> int:
    """Bytes of memory that this process may use: the machine's, or the limit of its container."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *(limit for limit, _ in _containers())])


def free_bytes(path: Path) -> int:
    """Free disk space at `path`, in bytes; no limit where the file system has no blocks, as /proc has none."""
    stats = os.statvfs(path)
    return stats.f_bavail * stats.f_frsize if stats.f_blocks else sys.maxsize


def _containers() -> list[tuple[int, int]]:
    """Limit of the container's memory, and how much of it is used, in bytes; empty without a limit."""
    found = []
    for limit, statistics, name in CGROUPS:
        allowed = _lines(limit)
        used = [int(line.split()[1]) for line in _lines(statistics) if line.startswith(f"{name} ")]
        if allowed and allowed[0].isdigit():  # version 2 says `max` where there is no limit
            found.append((int(allowed[0]), sum(used)))
    return found


def _free_of_machine() -> int | None:
    for line in _lines(Path("/proc/meminfo")):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _free_of_process() -> int | None:
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    pages = _lines(Path("/proc/self/statm"))
    if limit == resource.RLIM_INFINITY or not pages:
        return None
    return limit - int(pages[0].split()[0]) * resource.getpagesize()


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
