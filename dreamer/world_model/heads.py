"""Heads on features: two-hot scalars (reward, value) and the discounted continuation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dreamer.nn.distributions import TwoHot, symexp_bins
from dreamer.nn.layers import MLP, Linear
from envs.ranges import Layers, Many


@dataclass(frozen=True)
class HeadConfig:
    """An MLP head."""

    units: Many = 64
    """Width of the hidden layers."""
    layers: Layers = 1
    """Hidden layers."""


class ScalarHead(nn.Module):
    """MLP to 255 exponentially spaced bins; the output layer starts at zero, so the first prediction is exactly 0."""

    bins: Tensor

    def __init__(self, config: HeadConfig, feature_dim: int):
        super().__init__()
        self.register_buffer("bins", symexp_bins(), persistent=False)
        self.mlp = MLP(feature_dim, config.units, config.layers)
        self.output = Linear(self.mlp.out_features, len(self.bins), scale=0.0)

    def forward(self, features: Float[Tensor, "*batch feature"]) -> TwoHot:
        """Distribution of the scalar in states with these features."""
        return TwoHot(self.output(self.mlp(features)), self.bins)


class ContinueHead(nn.Module):
    """MLP to the logit of the probability that the episode continues, discount included (V3's `contdisc`).

    The target is (1 - terminal) * discount, so imagination needs no separate discount factor.
    """

    def __init__(self, config: HeadConfig, feature_dim: int, discount: float):
        super().__init__()
        self.discount = discount
        self.mlp = MLP(feature_dim, config.units, config.layers)
        self.output = Linear(self.mlp.out_features, 1)

    def forward(self, features: Float[Tensor, "*batch feature"]) -> Float[Tensor, "*batch"]:
        """Logit of the discounted continuation."""
        return self.output(self.mlp(features)).squeeze(-1)

    def loss(self, logits: Float[Tensor, "*batch"], is_terminal: Bool[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """Binary cross-entropy to the soft label (1 - terminal) * discount."""
        target = torch.where(is_terminal, 0.0, self.discount)
        return F.binary_cross_entropy_with_logits(logits.float(), target, reduction="none")
