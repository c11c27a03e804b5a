"""`Objective`: what makes states tell of observations. One term of the loss, and a decoder or none."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor, nn

from dreamer.errors import UserError


class Objective(nn.Module, ABC):
    """The part of the world model that only learning needs.

    It reads the core's `decoder_input`: the features, or the code alone where the core codes single observations.
    """

    term: str
    """Name of its loss term, and of the term's scale in `ModelScales`."""
    part: str
    """What its parameters are called in tables."""
    decodes = False
    """Whether `decode` gives observations."""

    @abstractmethod
    def loss(
        self,
        inputs: Float[Tensor, "batch time _"],
        embeds: Float[Tensor, "batch time embed"],
        obs: Mapping[str, Tensor],
    ) -> tuple[Float[Tensor, "batch time"], dict[str, Float[Tensor, ""]]]:
        """The unreduced loss of filtered states that saw these embeddings of these observations; scalars to log."""

    def decode(self, inputs: Float[Tensor, "*batch _"]) -> dict[str, Tensor]:
        """Observations by key, see `Decoder.forward`; raises UserError where nothing decodes."""
        raise UserError(
            f"the world model was trained with --objective {self.term}, which has no decoder: what it imagines cannot "
            "be shown as observations"
        )
