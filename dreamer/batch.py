"""Rows, batches and trajectories, and the time alignment of all of them: arrival rows. Read this first.

    t              0         1         2         3          4 (new episode)
    obs            o0        o1        o2        o3         o0'
    prev_action    0         a0        a1        a2         0
    reward         0         r1        r2        r3         0
    is_first       True      False     False     False      True
    is_last        False     False     False     True       False
    is_terminal    False     False     False     True       False     (False when a time limit ended it)

Row t holds everything that is known when o_t arrives, before the policy acts. The filter reads `prev_action[t]`
together with `obs[t]`. At state s_t the reward head predicts `reward[t]`, and the continue head `discount * (1 -
is_terminal[t])`. Gymnasium's `NEXT_STEP` autoreset returns rows in this form. No other module realigns rows; only
returns combine row t with row t + 1.

A training window is one context row plus `batch_length` rows. The context row supplies only its stored state, from
which the filter starts. A row with `is_first` starts from the initial state instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

ROW_SCALARS = ("reward", "is_first", "is_last", "is_terminal")

Shapes = Mapping[str, tuple[int, ...]]
"""Shapes of observations by key: `(size,)` is a float32 vector, `(element, class)` are one-hot vectors of discrete
values as float32, `(height, width, channel)` is a uint8 image."""


def vectors(shapes: Shapes) -> dict[str, int]:
    """Sizes of the vectors among observations, keys in alphabetical order."""
    return {key: shape[0] for key, shape in sorted(shapes.items()) if len(shape) == 1}


def discrete(shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """Shapes `(element, class)` of the discrete observations, keys in alphabetical order."""
    return {key: shape for key, shape in sorted(shapes.items()) if len(shape) == 2}


def images(shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """Shapes of the images among observations, keys in alphabetical order."""
    return {key: shape for key, shape in sorted(shapes.items()) if len(shape) == 3}


@dataclass(frozen=True)
class ActionSpec:
    """Actions of a policy: `dim` values in [-1, 1], or a one-hot vector of `dim` choices."""

    dim: int
    discrete: bool

    def to_env(self, action: Float[Tensor, "env action"]) -> np.ndarray:
        """Action vectors in the environment's form: clipped to [-1, 1], or class indices."""
        return (action.argmax(-1) if self.discrete else action.clamp(-1, 1)).cpu().numpy()


@dataclass(frozen=True)
class Row:
    """One arrival row of every environment (numpy, leading axis: environment)."""

    obs: dict[str, np.ndarray]
    """Observations `[env, ...]` as in `Shapes`, in alphabetical order of the keys."""
    prev_action: np.ndarray
    """Action vectors `[env, action]` that led to this row; zeros on the first row of an episode."""
    reward: np.ndarray
    """Rewards `[env]` received on arrival; 0 on the first row of an episode."""
    is_first: np.ndarray
    """First row of an episode, `[env]` bool."""
    is_last: np.ndarray
    """Last row of an episode, terminated or truncated, `[env]` bool."""
    is_terminal: np.ndarray
    """Last row of an episode that terminated; False when a time limit ended it, `[env]` bool."""


@dataclass(frozen=True)
class Batch:
    """Training sequences on the model's device."""

    obs: dict[str, Float[Tensor, "batch time _"] | Float[Tensor, "batch time _ _"] | UInt8[Tensor, "batch time _ _ _"]]
    """Observations by key."""
    prev_action: Float[Tensor, "batch time action"]
    """Actions that led to each row."""
    reward: Float[Tensor, "batch time"]
    """Rewards on arrival."""
    is_first: Bool[Tensor, "batch time"]
    """First row of an episode."""
    is_last: Bool[Tensor, "batch time"]
    """Last row of an episode."""
    is_terminal: Bool[Tensor, "batch time"]
    """Last row of an episode that terminated; False when a time limit ended it."""
    context: Float[Tensor, "batch packed"]
    """Stored core state of the row before the sequence, packed by `DynamicsCore.pack`."""

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device (asynchronously from pinned memory)."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """The same batch in page-locked host memory."""
        return self._map(lambda tensor: tensor.pin_memory())

    def clone(self) -> Batch:
        """A copy of the batch."""
        return self._map(torch.clone)

    def copy_(self, other: Batch) -> None:
        """Overwrite this batch's tensors with those of another batch of the same shapes."""
        for name in (*ROW_SCALARS, "prev_action", "context"):
            getattr(self, name).copy_(getattr(other, name), non_blocking=True)
        for key, value in self.obs.items():
            value.copy_(other.obs[key], non_blocking=True)

    def tail(self, rows: int) -> Batch:
        """The last `rows` rows of every sequence; the context stays that of the full sequence."""
        return replace(self._map(lambda tensor: tensor[:, -rows:]), context=self.context)

    def _map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        names = (*ROW_SCALARS, "prev_action", "context")
        tensors: dict[str, Any] = {name: function(getattr(self, name)) for name in names}
        return replace(self, obs={key: function(value) for key, value in self.obs.items()}, **tensors)


@dataclass(frozen=True)
class Trajectory:
    """Imagined rollouts: state 0 is a replayed posterior, states 1..horizon follow the prior alone.

    Entry i of `reward` and `discount` belongs to the *arrival* at state i. `action[:, i]` leads from state i to i + 1.
    """

    features: Float[Tensor, "start states feature"]
    """Features of the visited states."""
    action: Float[Tensor, "start states-1 action"]
    """Actions taken."""
    reward: Float[Tensor, "start states"]
    """Predicted rewards."""
    discount: Float[Tensor, "start states"]
    """Predicted continuation probabilities, discount included."""
