"""Protocol of a policy that acts in environments; `dreamer.agent.Agent` is one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dreamer.batch import ActionSpec


@runtime_checkable
class Carry(Protocol):
    """A frozen dataclass with the policy's memory between observations; only `action` is read here."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def action(self) -> Float[Tensor, "env action"]:
        """Action vectors chosen last."""


CarryT = TypeVar("CarryT", bound=Carry)


@runtime_checkable
class ActingPolicy(Protocol[CarryT]):
    """A policy with memory, which chooses actions for several environments at once."""

    @property
    def action(self) -> ActionSpec:
        """The action space."""

    @property
    def device(self) -> torch.device:
        """Device of the observations that `step` takes."""

    def initial_carry(self, num_envs: int) -> CarryT:
        """The carry before the first observation."""

    def step(self, obs: Mapping[str, Tensor], is_first: Bool[Tensor, " env"], carry: CarryT) -> CarryT:
        """The carry after one observation of every environment; its `action` is what the policy chooses."""

    def pack_carry(self, carry: CarryT) -> Float[Tensor, "env packed"]:
        """The memory in a carry, without its action, as replay and checkpoints keep it."""

    def unpack_carry(self, packed: Float[Tensor, "env packed"], action: Float[Tensor, "env action"]) -> CarryT:
        """The carry of a packed memory and the actions chosen last."""
