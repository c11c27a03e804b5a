"""Memory and modes of acting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from jaxtyping import Float
from torch import Tensor

from dreamer.errors import UserError
from dreamer.nn.struct import Struct

ActionMode = Literal["sample", "mode"]
"""A sample of the policy, or its mode."""


@dataclass(frozen=True)
class Carry:
    """Recurrent state of acting, carried from one observation to the next."""

    state: Struct
    """Filtered core state, leading axis `[env]`."""
    action: Float[Tensor, "env action"]
    """The last action vector."""
    plan: Float[Tensor, "env horizon action"] | None = None
    """What a planner keeps for its next decision."""


def checked_carry(state: Any, initial: Carry, mode: Any) -> Carry:
    """The state to act from, `initial` for None. Raises `UserError` for other shapes, and for an unknown mode."""
    check_mode(mode)
    if state is None:
        return initial
    if not isinstance(state, Carry) or _shapes(state) != _shapes(initial):
        num_envs = initial.action.shape[0]
        raise UserError(f"state is not one that act returned for the {num_envs} environments of this agent")
    return state


def check_mode(mode: Any) -> None:
    """Raise `UserError` for an unknown mode."""
    if mode not in get_args(ActionMode):
        raise UserError(f"mode must be one of {', '.join(get_args(ActionMode))}, got {mode!r}")


def _shapes(carry: Carry) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in {**vars(carry.state), "action": carry.action}.items()}
