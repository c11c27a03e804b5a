"""Content of checkpoints and kept batches: what their bytes may hold, and types and ranges of a checkpoint's state."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import Ge, Le, Lt, MaxLen, MinLen
from pydantic import ConfigDict, ValidationError, with_config
from torch import Tensor
from typing_extensions import TypedDict

from dreamer.errors import UserError, first_line
from dreamer.system.files import Counter, Finite, Number, Text, read_bytes
from dreamer.system.memory import available_memory
from envs.ranges import violation

DEPTH = 8
"""Largest depth of nested dicts and lists."""
NEWER = {"decays", "imagination_due", "best_return", "best_at"}
"""Entries of a state that older versions did not write."""
Size = Annotated[int, Ge(1), Le(10**7)]


class SavedSpec(TypedDict):
    """Observations and actions."""

    obs_shapes: dict[Text, Annotated[tuple[Size, ...], MinLen(1), MaxLen(3)]]
    action: Annotated[list[Size | bool], MinLen(2), MaxLen(2)]


@with_config(ConfigDict(strict=True, extra="allow"))
class State(TypedDict, total=False):
    """State of a checkpoint. `dreamer evaluate` needs `spec` and `agent` alone."""

    step: Counter
    updates: Counter
    episodes: Counter
    env_failures: Counter
    metrics_offset: Counter
    evaluated_at: Annotated[int, Ge(-1), Le(2**53)]
    evaluation_due: bool
    imagination_due: bool
    evaluation: dict[Text, Number]
    best_return: Number
    best_at: Annotated[int, Ge(-1), Le(2**53)]
    elapsed: Annotated[Finite, Ge(0)]
    guard: dict[str, Counter]
    ratio: dict[str, Annotated[float, Ge(0), Lt(1)] | None]
    meter: dict[str, dict[Text, Number]]
    spec: SavedSpec
    agent: dict[str, Any]
    decays: dict[Text, Annotated[list[Finite], MinLen(3), MaxLen(3)]]
    collector: dict[str, Any]
    replay: dict[str, Any]
    rng: dict[str, Any]


def read_large(path: Path) -> bytes:
    """Return the content of a file that fits the free memory of this machine twice; raises `UserError`."""
    return read_bytes(path, (available_memory() or 2**50) // 2)


def unpacked(data: bytes) -> Any:
    """Return what `torch.save` wrote, on the CPU, without unpickling any object.

    Raises `ValueError` for damaged, compressed or deeply nested content, and for tensors larger than their bytes.
    """
    try:
        if sum(entry.file_size for entry in zipfile.ZipFile(io.BytesIO(data)).infolist()) > len(data):
            raise ValueError("it is compressed")
        tree = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes can raise anything
        raise ValueError(first_line(error)) from None
    _check_dense(tree, iter(range(len(data))))
    return tree


def _check_dense(tree: Any, room: Iterator[int], depth: int = 0) -> None:
    """Raise `ValueError` for tensors with fewer bytes than their shapes need, and for deep or endless nesting."""
    if depth > DEPTH or next(room, None) is None:
        raise ValueError("it is nested too deeply")
    if isinstance(tree, Tensor):
        dense = tree.layout == torch.strided and not tree.is_quantized
        if not dense or tree.numel() * tree.element_size() > tree.untyped_storage().nbytes():
            raise ValueError("a tensor is not dense")
    elif isinstance(tree, Mapping | list | tuple):
        for value in tree.values() if isinstance(tree, Mapping) else tree:
            _check_dense(value, room, depth + 1)


def require_complete(state: State, folder: Path) -> None:
    """Raise `UserError` unless the state of the checkpoint in `folder` has what every version has written."""
    missing = [name for name in State.__annotations__ if name not in {*state, *NEWER}]
    if missing:
        raise UserError(f"the checkpoint in {folder} does not fit this run: it has no {', '.join(missing)}")


@contextmanager
def understood(path: Path, trouble: str = "the checkpoint in {} does not fit this run") -> Iterator[None]:
    """Context that turns errors from unexpected content of an undamaged file into one `UserError`.

    It encloses only code whose errors the file causes: no environment is built or stepped. `trouble` is the message.
    """
    try:
        yield
    except UserError:
        raise
    except (ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        kind = "" if isinstance(error, ValidationError) else f"{type(error).__name__}: "
        raise UserError(f"{trouble.format(path)}: {kind}{violation(error)}") from error
