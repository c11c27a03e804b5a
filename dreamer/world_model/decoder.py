"""Features back to observations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn

from dreamer.batch import Shapes, images, vectors
from dreamer.nn.distributions import symexp, symlog
from dreamer.nn.layers import MLP, Linear
from dreamer.world_model.encoder import stacked_shape
from dreamer.world_model.images import ImageConfig, ImageDecoder, to_unit


@dataclass(frozen=True)
class DecoderConfig:
    """Observation decoder."""

    units: Annotated[int, Ge(1)] = 64
    """Width of the hidden layers."""
    layers: Annotated[int, Ge(0)] = 3
    """Hidden layers."""
    symlog: bool = True
    """Predict vector observations in symlog space."""


class Decoder(nn.Module):
    """Features to vectors and images; either may be absent. The first `deter` features are h."""

    def __init__(self, config: DecoderConfig, image: ImageConfig, feature_dim: int, deter: int, shapes: Shapes):
        super().__init__()
        sizes, pictures = vectors(shapes), images(shapes)
        self.image_keys = list(pictures)
        self.channels = [shape[2] for shape in pictures.values()]
        self.vector = VectorDecoder(config, feature_dim, sizes) if sizes else None
        self.image = (
            ImageDecoder(image, config.units, deter, feature_dim - deter, *stacked_shape(pictures))
            if pictures
            else None
        )

    def loss(
        self, features: Float[Tensor, "*batch feature"], obs: Mapping[str, Tensor]
    ) -> dict[str, Float[Tensor, "*batch"]]:
        """Unreduced reconstruction error of every key: squared errors summed over dimensions or pixels, without 1/2."""
        losses = {} if self.vector is None else self.vector.loss(features, obs)
        for key, image in self._images(features).items():
            losses[key] = (image - to_unit(obs[key])).square().flatten(-3).sum(-1)
        return losses

    def forward(self, features: Float[Tensor, "*batch feature"]) -> dict[str, Tensor]:
        """Vectors `[*batch, size]` in their own units, and images `[*batch, height, width, channel]` in (0, 1)."""
        return ({} if self.vector is None else self.vector(features)) | self._images(features)

    def _images(self, features: Tensor) -> dict[str, Tensor]:
        if self.image is None:
            return {}
        return dict(zip(self.image_keys, self.image(features).split(self.channels, -1), strict=True))


class VectorDecoder(nn.Module):
    """MLP to the symlog of every vector observation; loss is the squared error summed over dimensions, without 1/2.

    All keys share one output matrix, which is the same map as one linear layer per key.
    """

    def __init__(self, config: DecoderConfig, feature_dim: int, sizes: Mapping[str, int]):
        super().__init__()
        self.config = config
        self.keys = sorted(sizes)
        self.sizes = [sizes[key] for key in self.keys]
        self.mlp = MLP(feature_dim, config.units, config.layers)
        self.output = Linear(self.mlp.out_features, sum(self.sizes))
        self.output.heads = self.sizes

    def loss(
        self, features: Float[Tensor, "*batch feature"], obs: Mapping[str, Tensor]
    ) -> dict[str, Float[Tensor, "*batch"]]:
        """Unreduced reconstruction error of every key."""
        predictions = self.output(self.mlp(features)).split(self.sizes, -1)
        return {
            key: (prediction - self._target(obs[key])).square().sum(-1)
            for key, prediction in zip(self.keys, predictions, strict=True)
        }

    def forward(self, features: Float[Tensor, "*batch feature"]) -> dict[str, Tensor]:
        """Predicted observations `[*batch, size]` by key, in the observations' own units."""
        predictions = self.output(self.mlp(features)).split(self.sizes, -1)
        return {
            key: symexp(prediction) if self.config.symlog else prediction
            for key, prediction in zip(self.keys, predictions, strict=True)
        }

    def _target(self, value: Tensor) -> Tensor:
        return symlog(value) if self.config.symlog else value
