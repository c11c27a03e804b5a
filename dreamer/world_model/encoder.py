"""Observations to embeddings: one network for vectors and discrete values, one for images, embeddings concatenated."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dreamer.batch import Shapes, discrete, images, vectors
from dreamer.nn.distributions import symlog
from dreamer.nn.layers import MLP
from dreamer.world_model.images import ImageConfig, ImageEncoder
from envs.ranges import LayersOrNone, Many


@dataclass(frozen=True)
class EncoderConfig:
    """Observation encoder."""

    units: Many = 64
    """Width of the hidden layers."""
    layers: LayersOrNone = 3
    """Hidden layers."""
    symlog: bool = True
    """Compress vectors with symlog before the first layer."""


class Encoder(nn.Module):
    """Vectors with discrete values, and images, to one embedding, [vectors, images]; either may be absent."""

    def __init__(self, config: EncoderConfig, image: ImageConfig, shapes: Shapes):
        super().__init__()
        pictures = images(shapes)
        flat = {key: shape for key, shape in shapes.items() if key not in pictures}
        self.image_keys = list(pictures)
        self.vector = VectorEncoder(config, flat) if flat else None
        self.image = ImageEncoder(image, *stacked_shape(pictures)) if pictures else None
        self.embed_dim = sum(part.embed_dim for part in (self.vector, self.image) if part is not None)

    def forward(self, obs: Mapping[str, Tensor]) -> Float[Tensor, "*batch embed"]:
        """Embed observations `[*batch, ...]` by key."""
        embeds = []
        if self.vector is not None:
            embeds.append(self.vector(obs))
        if self.image is not None:
            embeds.append(self.image(torch.cat([obs[key] for key in self.image_keys], -1)))
        return torch.cat(embeds, -1)


class VectorEncoder(nn.Module):
    """MLP on the symlog of all vectors, then all one-hot vectors as they are (V3's `enc`, vector branch).

    Keys are in alphabetical order within both.
    """

    def __init__(self, config: EncoderConfig, shapes: Shapes):
        super().__init__()
        self.config = config
        self.vectors, self.discrete = list(vectors(shapes)), list(discrete(shapes))
        self.mlp = MLP(sum(map(math.prod, shapes.values())), config.units, config.layers)
        self.embed_dim = self.mlp.out_features

    def forward(self, obs: Mapping[str, Tensor]) -> Float[Tensor, "*batch embed"]:
        """Embed vectors `[*batch, size]` and one-hot vectors `[*batch, element, class]` by key."""
        parts = [obs[key].flatten(-2) for key in self.discrete]
        if self.vectors:
            x = torch.cat([obs[key] for key in self.vectors], -1)
            parts = [symlog(x) if self.config.symlog else x, *parts]
        return self.mlp(torch.cat(parts, -1))


def stacked_shape(shapes: Shapes) -> tuple[int, int, int]:
    """Height, width and the sum of channels of images; raises ValueError where their sizes differ."""
    sizes = {shape[:2] for shape in shapes.values()}
    if len(sizes) > 1:
        raise ValueError(f"images must have one size, got {dict(shapes)}")
    height, width = sizes.pop()
    return height, width, sum(shape[2] for shape in shapes.values())
