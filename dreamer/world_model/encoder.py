"""Observations to embeddings: one network for vectors, one for images, their embeddings concatenated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn

from dreamer.batch import Shapes, images, vectors
from dreamer.nn.distributions import symlog
from dreamer.nn.layers import MLP
from dreamer.world_model.images import ImageConfig, ImageEncoder


@dataclass(frozen=True)
class EncoderConfig:
    """Observation encoder."""

    units: Annotated[int, Ge(1)] = 64
    """Width of the hidden layers."""
    layers: Annotated[int, Ge(0)] = 3
    """Hidden layers."""
    symlog: bool = True
    """Compress vector observations with symlog before the first layer."""


class Encoder(nn.Module):
    """Vectors and images to one embedding, [vectors, images]; either may be absent."""

    def __init__(self, config: EncoderConfig, image: ImageConfig, shapes: Shapes):
        super().__init__()
        sizes, pictures = vectors(shapes), images(shapes)
        self.image_keys = list(pictures)
        self.vector = VectorEncoder(config, sizes) if sizes else None
        self.image = ImageEncoder(image, *stacked_shape(pictures)) if pictures else None
        self.embed_dim = sum(part.embed_dim for part in (self.vector, self.image) if part is not None)

    def forward(self, obs: Mapping[str, Tensor]) -> Float[Tensor, "*batch embed"]:
        """Embed vectors `[*batch, size]` and images `[*batch, height, width, channel]` by key."""
        embeds = []
        if self.vector is not None:
            embeds.append(self.vector(obs))
        if self.image is not None:
            embeds.append(self.image(torch.cat([obs[key] for key in self.image_keys], -1)))
        return torch.cat(embeds, -1)


class VectorEncoder(nn.Module):
    """Symlog, concatenate in alphabetical order of the keys, MLP (algorithm of V3's `enc`, vector branch)."""

    def __init__(self, config: EncoderConfig, sizes: Mapping[str, int]):
        super().__init__()
        self.config = config
        self.keys = sorted(sizes)
        self.mlp = MLP(sum(sizes.values()), config.units, config.layers)
        self.embed_dim = self.mlp.out_features

    def forward(self, obs: Mapping[str, Tensor]) -> Float[Tensor, "*batch embed"]:
        """Embed observations `[*batch, size]` by key."""
        x = torch.cat([obs[key] for key in self.keys], -1)
        return self.mlp(symlog(x) if self.config.symlog else x)


def stacked_shape(shapes: Shapes) -> tuple[int, int, int]:
    """Height, width and the sum of channels of images; raises ValueError where their sizes differ."""
    sizes = {shape[:2] for shape in shapes.values()}
    if len(sizes) > 1:
        raise ValueError(f"images must have one size, got {dict(shapes)}")
    height, width = sizes.pop()
    return height, width, sum(shape[2] for shape in shapes.values())
