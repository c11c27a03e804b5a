"""Ranks: the processes that train one agent together, as torchrun starts them.

Each rank has the same agent and its own share of environments, batch and replay. Gradients and statistics are averaged
over the ranks in every update, so the parameters of all ranks stay bit-identical. A process without torchrun is the
only rank; then every function here returns its argument at once.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from dreamer.errors import UserError, first_line

T = TypeVar("T")

LONGEST_WAIT = datetime.timedelta(days=7)
"""Longest wait for another rank: while rank 0 evaluates, the others wait. A rank that dies is noticed at once."""


class LostRank(UserError):
    """Another process of the run has ended, so this one cannot continue."""


_present = [0, 1]
"""Number of this rank, and of all ranks."""


def number() -> int:
    """Number of this rank, from 0."""
    return _present[0]


def count() -> int:
    """Number of ranks; 1 without torchrun."""
    return _present[1]


def started() -> int:
    """Number of processes that torchrun has started for this run; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "TORCHELASTIC_RUN_ID" in os.environ else 1


def join(device: str) -> None:
    """Make this process one of the ranks that torchrun has started. A rank that has joined stays one.

    Tensors on a GPU are exchanged by NCCL, all others by gloo. Raises `LostRank` when another rank does not come.
    """
    if started() == 1 or count() > 1:
        return
    with _together():
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo", timeout=LONGEST_WAIT)
    _present[:] = dist.get_rank(), dist.get_world_size()


def leave() -> None:
    """Wait for the other ranks, and be the only rank from then on."""
    if count() > 1:
        barrier()
        dist.destroy_process_group()
        _present[:] = 0, 1


@contextmanager
def alone() -> Iterator[None]:
    """Context in which this process is the only rank, for what every rank computes for itself."""
    before = list(_present)
    _present[:] = 0, 1
    try:
        yield
    finally:
        _present[:] = before


def average(tensor: Tensor) -> Tensor:
    """The mean of a tensor over all ranks, in place; every rank gets the same bits."""
    if count() > 1:
        with _together():
            dist.all_reduce(tensor)
        tensor.div_(count())
    return tensor


def gather(tensor: Tensor) -> Tensor:
    """The tensors of all ranks `[rank, *shape]`."""
    if count() == 1:
        return tensor.unsqueeze(0)
    found = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(count())]
    with _together():
        dist.all_gather(found, tensor.contiguous())
    return torch.stack(found)


def copy_from_first(*tensors: Tensor) -> None:
    """Overwrite these tensors by those of rank 0."""
    if count() > 1:
        with _together():
            for tensor in tensors:
                dist.broadcast(tensor, 0)


def largest(*values: int) -> list[int]:
    """The largest of each value over all ranks."""
    return _reduced(values, dist.ReduceOp.MAX) if count() > 1 else list(values)


def total(*values: int) -> list[int]:
    """The sum of each value over all ranks."""
    return _reduced(values, dist.ReduceOp.SUM) if count() > 1 else list(values)


def barrier() -> None:
    """Return when every rank has come here."""
    largest(0)


def first(value: T) -> T:
    """The value of rank 0, a picklable object."""
    values = [value]
    if count() > 1:
        with _together():
            dist.broadcast_object_list(values, 0)
    return values[0]


def each(value: T) -> list[T]:
    """The values of all ranks, picklable objects."""
    values = [value] * count()
    if count() > 1:
        with _together():
            dist.all_gather_object(values, value)
    return values


def _reduced(values: tuple[int, ...], operation: dist.ReduceOp.RedOpType) -> list[int]:
    tensor = torch.tensor(values, dtype=torch.int64)
    with _together():
        dist.all_reduce(tensor, operation)
    found: list[int] = tensor.tolist()
    return found


@contextmanager
def _together() -> Iterator[None]:
    """Context of what all ranks do together; raises `LostRank` where the connection to another one is lost."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # the only type that the backends raise
        lost = any(word in str(error).lower() for word in ("clos", "reset", "broken pipe", "refused", "timed out"))
        why = "" if lost else f" ({first_line(error)})"
        raise LostRank(
            f"rank {number()}: another process of this run has ended{why}; resume the run from its newest checkpoint"
        ) from error
