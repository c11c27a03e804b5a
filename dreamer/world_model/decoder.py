"""Features back to observations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from dreamer.batch import Shapes, images
from dreamer.nn.distributions import symexp, symlog
from dreamer.nn.layers import MLP, Linear
from dreamer.world_model.encoder import stacked_shape
from dreamer.world_model.images import ImageConfig, ImageDecoder, to_unit
from envs.ranges import LayersOrNone, Many


@dataclass(frozen=True)
class DecoderConfig:
    """Observation decoder."""

    units: Many = 64
    """Width of the hidden layers."""
    layers: LayersOrNone = 3
    """Hidden layers."""
    symlog: bool = True
    """Predict vectors in symlog space."""


class Decoder(nn.Module):
    """Features to vectors, discrete values and images; any may be absent. The first `deter` features are h."""

    def __init__(self, config: DecoderConfig, image: ImageConfig, feature_dim: int, deter: int, shapes: Shapes):
        super().__init__()
        pictures = images(shapes)
        flat = {key: shape for key, shape in shapes.items() if key not in pictures}
        self.image_keys = list(pictures)
        self.channels = [shape[2] for shape in pictures.values()]
        self.vector = VectorDecoder(config, feature_dim, flat) if flat else None
        self.image = (
            ImageDecoder(image, config.units, deter, feature_dim - deter, *stacked_shape(pictures))
            if pictures
            else None
        )

    def loss(
        self, features: Float[Tensor, "*batch feature"], obs: Mapping[str, Tensor]
    ) -> dict[str, Float[Tensor, "*batch"]]:
        """Unreduced reconstruction error of every key: squared errors summed over dimensions or pixels, without 1/2;
        cross-entropies of discrete values summed over elements.
        """
        losses = {} if self.vector is None else self.vector.loss(features, obs)
        for key, image in self._images(features).items():
            losses[key] = (image - to_unit(obs[key])).square().flatten(-3).sum(-1)
        return losses

    def forward(self, features: Float[Tensor, "*batch feature"]) -> dict[str, Tensor]:
        """Vectors `[*batch, size]` in their own units, probabilities `[*batch, element, class]` of discrete values,
        and images `[*batch, height, width, channel]` in (0, 1).
        """
        return ({} if self.vector is None else self.vector(features)) | self._images(features)

    def _images(self, features: Tensor) -> dict[str, Tensor]:
        if self.image is None:
            return {}
        return dict(zip(self.image_keys, self.image(features).split(self.channels, -1), strict=True))


class VectorDecoder(nn.Module):
    """MLP to the symlog of every vector, and to the logits of every discrete value.

    The loss is the squared error summed over dimensions, without 1/2, or the cross-entropy summed over elements. All
    keys share one output matrix, which is the same map as one linear layer per key.
    """

    def __init__(self, config: DecoderConfig, feature_dim: int, shapes: Shapes):
        super().__init__()
        self.config, self.shapes = config, dict(sorted(shapes.items()))
        self.sizes = [math.prod(shape) for shape in self.shapes.values()]
        self.mlp = MLP(feature_dim, config.units, config.layers)
        self.output = Linear(self.mlp.out_features, sum(self.sizes))
        self.output.heads = self.sizes

    def loss(
        self, features: Float[Tensor, "*batch feature"], obs: Mapping[str, Tensor]
    ) -> dict[str, Float[Tensor, "*batch"]]:
        """Unreduced reconstruction error of every key."""
        losses = {}
        for key, output in self._outputs(features).items():
            if len(self.shapes[key]) == 2:
                losses[key] = -(obs[key] * output.float().log_softmax(-1)).sum((-2, -1))
            else:
                target = symlog(obs[key]) if self.config.symlog else obs[key]
                losses[key] = (output - target).square().sum(-1)
        return losses

    def forward(self, features: Float[Tensor, "*batch feature"]) -> dict[str, Tensor]:
        """Predicted vectors `[*batch, size]` in their own units and probabilities `[*batch, element, class]` by key."""
        decoded = self._outputs(features)
        for key, output in decoded.items():
            if len(self.shapes[key]) == 2:
                decoded[key] = output.float().softmax(-1)
            elif self.config.symlog:
                decoded[key] = symexp(output)
        return decoded

    def _outputs(self, features: Tensor) -> dict[str, Tensor]:
        """Symlog of vectors `[*batch, size]`, and logits `[*batch, element, class]`, by key."""
        parts = self.output(self.mlp(features)).split(self.sizes, -1)
        return {
            key: part.unflatten(-1, shape) if len(shape) == 2 else part
            for (key, shape), part in zip(self.shapes.items(), parts, strict=True)
        }
