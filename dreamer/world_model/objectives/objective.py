"""`Objective`: the loss term that makes states informative about observations, with or without a decoder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor, nn

from dreamer.errors import UserError


class Objective(nn.Module, ABC):
    """The part of the world model that only learning needs.

    It reads the core's `decoder_input`: the features, or the latent alone where the core encodes single observations.
    """

    term: str
    """Name of its loss term, and of the term's scale in `ModelScales`."""
    part: str
    """Name of its parameters in tables."""
    decodes = False
    """True where `decode` returns observations."""

    @abstractmethod
    def loss(
        self,
        inputs: Float[Tensor, "batch time _"],
        embeds: Float[Tensor, "batch time embed"],
        obs: Mapping[str, Tensor],
    ) -> tuple[Float[Tensor, "batch time"], dict[str, Float[Tensor, ""]]]:
        """Unreduced loss of states that were filtered from `embeds`, the embeddings of `obs`, and scalars to log."""

    def reconstruction_error(
        self, inputs: Float[Tensor, "*batch _"], obs: Mapping[str, Tensor]
    ) -> Float[Tensor, "*batch"] | None:
        """Error of the decoded observations, summed over dimensions and keys; None where nothing decodes."""
        return None

    def decode(self, inputs: Float[Tensor, "*batch _"]) -> dict[str, Tensor]:
        """Observations by key, see `Decoder.forward`; raises UserError where nothing decodes."""
        raise UserError(
            f"the world model was trained with --objective {self.term}, which has no decoder: what it imagines cannot "
            "be shown as observations"
        )
