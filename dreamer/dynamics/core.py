"""`DynamicsCore`: the interface of all dynamics models. A core is a Bayes filter: it predicts, then corrects.

        prev state --- imagine_step(action) --->  predicted state                     (prior only)
        prev state --- observe_step(action, embed) --->  corrected state              (predict, then correct)

Both steps return the same state type, so imagination can start from any filtered state. `observe` holds the filter's
loop over time and its reset at episode starts; no core contains either. Acting, evaluation and imagination call the two
steps as the core's file defines them. Updates of an RSSM run an equivalent of `observe` (`fast/filter.py`) if
`training/accelerate.py` finds that both agree.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dreamer.nn.struct import Struct

State = TypeVar("State", bound=Struct)


def stored_field() -> Any:
    """A state field that replay keeps, because the next step of the filter depends on it."""
    return dataclasses.field(metadata={"stored": True})


def derived_field() -> Any:
    """A state field that only the core's own loss reads; replay does not keep it."""
    return dataclasses.field(metadata={"stored": False})


class DynamicsCore(nn.Module, ABC, Generic[State]):
    """A latent dynamics model that filters observations and imagines without them.

    `State` is a frozen `Struct` dataclass. Other modules do not read its fields. Fields made with `stored_field` are
    needed for the next step of the filter. Fields made with `derived_field` are needed only for the core's own loss.
    """

    feature_dim: int
    """Size of `features`, the input of heads and policy."""
    differentiable: bool
    """True if imagined states have an unbiased gradient with respect to actions. `actor_gradient` dynamics and both
    require it."""
    vision_updates: int = 0
    """Staged training: number of first updates that train only encoder, decoder and `vision_modules`; 0 is none."""

    @abstractmethod
    def initial_state(self, batch_size: int) -> State:
        """The state before any observation, leading axis `[batch]`."""

    @abstractmethod
    def observe_step(
        self, state: State, prev_action: Float[Tensor, "batch action"], embed: Float[Tensor, "batch embed"]
    ) -> State:
        """Predict with the action that led to the observation, then correct with the observation's embedding."""

    @abstractmethod
    def imagine_step(self, state: State, action: Float[Tensor, "batch action"]) -> State:
        """Predict the next state from the prior alone."""

    @abstractmethod
    def features(self, state: State) -> Float[Tensor, "*batch feature"]:
        """Input of heads, decoder, actor and critic."""

    @property
    def decoder_dim(self) -> int:
        """Size of `decoder_input`."""
        return self.feature_dim

    @property
    def decoder_deter(self) -> int:
        """Number of first dimensions of `decoder_input` that are h; image decoders read them in blocks."""
        return 0

    def decoder_input(self, state: State, features: Float[Tensor, "*batch feature"]) -> Float[Tensor, "*batch _"]:
        """Input of the decoder: the features, or only the latent in cores that encode each observation separately."""
        return features

    def vision_modules(self) -> list[nn.Module]:
        """The core's own part of vision, for staged training."""
        return []

    @abstractmethod
    def loss(self, states: State) -> tuple[dict[str, Float[Tensor, "batch time"]], dict[str, Float[Tensor, ""]]]:
        """Unreduced loss terms `dyn` and `rep` of filtered states with axes `[batch, time]`, and scalars to log."""

    def observe(
        self,
        embeds: Float[Tensor, "batch time embed"],
        prev_actions: Float[Tensor, "batch time action"],
        is_first: Bool[Tensor, "batch time"],
        state: State | None = None,
    ) -> State:
        """Filter sequences and return the states of all steps, leading axes `[batch, time]`.

        Where `is_first` is true, a step starts from the initial state with a zero action. `state` is the state before
        the first step of the sequence; the default is the initial state.
        """
        initial = self.initial_state(embeds.shape[0])
        state = initial if state is None else state
        prev_actions = prev_actions.masked_fill(is_first.unsqueeze(-1), 0.0)
        states = []
        for t in range(embeds.shape[1]):
            state = initial.where(is_first[:, t], state)
            state = self.observe_step(state, prev_actions[:, t], embeds[:, t])
            states.append(state)
        return type(initial).stack(states, dim=1)

    def at_mode(self, state: State) -> State:
        """The filtered state with the mode of its latent in place of the sample, in cores with a `latent` and fields
        `stoch` and `params`. The other cores sample nothing.
        """
        latent, fields = getattr(self, "latent", None), vars(state)
        return state if latent is None else type(state)(**fields | {"stoch": latent.mode(fields["params"])})

    def pack(self, state: State) -> Float[Tensor, "*batch packed"]:
        """The stored fields concatenated into one float32 vector per state, as replay keeps them."""
        return torch.cat([getattr(state, field.name) for field in _stored(state)], -1).float()

    def unpack(self, packed: Float[Tensor, "batch packed"]) -> State:
        """The inverse of `pack`; fields that are not stored take their initial value."""
        state = self.initial_state(packed.shape[0])
        fields = _stored(state)
        sizes = [getattr(state, field.name).shape[-1] for field in fields]
        pieces = {field.name: piece for field, piece in zip(fields, packed.split(sizes, -1), strict=True)}
        return dataclasses.replace(state, **pieces)  # type: ignore[type-var]

    @property
    def packed_dim(self) -> int:
        """Size of a packed state."""
        state = self.initial_state(1)
        return sum(getattr(state, field.name).shape[-1] for field in _stored(state))


def _stored(state: Struct) -> list[dataclasses.Field[Tensor]]:
    return [field for field in dataclasses.fields(state) if field.metadata.get("stored")]  # type: ignore[arg-type]


def bound_action(action: Float[Tensor, "*batch action"]) -> Float[Tensor, "*batch action"]:
    """Actions divided by max(1, |a|), as in V3: stored actions are not clipped. The divisor has no gradient."""
    return action / action.detach().abs().clamp(min=1.0)
