"""Observations to embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn

from dreamer.nn.distributions import symlog
from dreamer.nn.layers import MLP


@dataclass(frozen=True)
class EncoderConfig:
    """Observation encoder."""

    units: Annotated[int, Ge(1)] = 64
    """Width of the hidden layers."""
    layers: Annotated[int, Ge(0)] = 3
    """Hidden layers."""
    symlog: bool = True
    """Compress vector observations with symlog before the first layer."""


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
