"""Features back to observations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn

from dreamer.nn.distributions import symexp, symlog
from dreamer.nn.layers import MLP, Linear


@dataclass(frozen=True)
class DecoderConfig:
    """Observation decoder."""

    units: Annotated[int, Ge(1)] = 64
    """Width of the hidden layers."""
    layers: Annotated[int, Ge(0)] = 3
    """Hidden layers."""
    symlog: bool = True
    """Predict vector observations in symlog space."""


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
