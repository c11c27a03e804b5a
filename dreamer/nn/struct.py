"""Frozen dataclasses of tensors that can be indexed, stacked and selected as one value."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from jaxtyping import Bool
from torch import Tensor

S = TypeVar("S", bound="Struct")


class Struct:
    """Base class of frozen dataclasses whose fields are tensors `[*batch, size]` that share their leading axes."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Keep the short `repr`, in place of the one that `dataclass` would write with all numbers."""
        super().__init_subclass__(**kwargs)
        cls.__repr__ = Struct.__repr__  # type: ignore[method-assign]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({shapes(vars(self))})"

    def map(self: S, function: Callable[[Tensor], Tensor]) -> S:
        """Apply `function` to every field."""
        return type(self)(**{field.name: function(getattr(self, field.name)) for field in _fields(self)})

    def zip_map(self: S, other: S, function: Callable[[Tensor, Tensor], Tensor]) -> S:
        """Apply `function` to the matching fields of two structs of one type."""
        pairs = {field.name: (getattr(self, field.name), getattr(other, field.name)) for field in _fields(self)}
        return type(self)(**{name: function(*pair) for name, pair in pairs.items()})

    def __getitem__(self: S, index: Any) -> S:
        """Index the leading axes of every field."""
        return self.map(lambda tensor: tensor[index])

    def detach(self: S) -> S:
        """Stop gradients."""
        return self.map(torch.Tensor.detach)

    def flatten(self: S) -> S:
        """Merge the two leading axes, `[batch, time, size]` to `[batch * time, size]`."""
        return self.map(lambda tensor: tensor.flatten(0, 1))

    def where(self: S, mask: Bool[Tensor, "*batch"], other: S) -> S:
        """Take this struct's entries where `mask` is true and those of `other` elsewhere."""
        return self.zip_map(other, lambda mine, theirs: torch.where(mask.unsqueeze(-1), mine, theirs))

    @classmethod
    def stack(cls: type[S], items: Sequence[S], dim: int) -> S:
        """Stack structs of one type along a new axis `dim`; at least one."""
        names = [field.name for field in _fields(items[0])]  # torch.compile reads fields of instances, not of classes
        return cls(**{name: torch.stack([getattr(item, name) for item in items], dim) for name in names})


def shapes(tensors: Mapping[str, Tensor]) -> str:
    """Shapes of tensors by name, for a `repr`."""
    return ", ".join(f"{name}={list(value.shape)}" for name, value in tensors.items())


def _fields(struct: Struct) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(struct)  # type: ignore[arg-type]
