"""Reconstruction: the decoder must predict the observations from the states (PlaNet, Dreamer V1 to V3)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from dreamer.batch import Shapes
from dreamer.world_model.decoder import Decoder, DecoderConfig
from dreamer.world_model.images import ImageConfig
from dreamer.world_model.objectives.objective import Objective


class Reconstruction(Objective):
    """Error of the decoded observations (see `Decoder.loss`), summed over all keys."""

    term = "reconstruction"
    part = "decoder"
    decodes = True

    def __init__(self, config: DecoderConfig, image: ImageConfig, input_dim: int, deter: int, shapes: Shapes):
        super().__init__()
        self.decoder = Decoder(config, image, input_dim, deter, shapes)

    def loss(
        self,
        inputs: Float[Tensor, "batch time _"],
        embeds: Float[Tensor, "batch time embed"],
        obs: Mapping[str, Tensor],
    ) -> tuple[Float[Tensor, "batch time"], dict[str, Float[Tensor, ""]]]:
        """The sum of the errors of all keys; each key's error is logged."""
        errors = self.decoder.loss(inputs, obs)
        metrics = {f"reconstruction/{key}": error.detach().mean() for key, error in errors.items()}
        return torch.stack(list(errors.values())).sum(0), metrics

    def reconstruction_error(
        self, inputs: Float[Tensor, "*batch _"], obs: Mapping[str, Tensor]
    ) -> Float[Tensor, "*batch"] | None:
        """Error of the decoded observations, summed over dimensions and keys."""
        return torch.stack(list(self.decoder.loss(inputs, obs).values())).sum(0)

    def decode(self, inputs: Float[Tensor, "*batch _"]) -> dict[str, Tensor]:
        """Observations by key, see `Decoder.forward`."""
        return self.decoder(inputs)
