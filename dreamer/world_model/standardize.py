"""Standardized vector observations: (x - running mean) / running standard deviation.

The reconstruction loss sums squared errors over all dimensions. A dimension that never exceeds 0.2, such as the
distance to a target, adds little to it beside a velocity of 10, so the model may ignore it even where the reward
depends on it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dreamer.batch import Shapes, vectors
from dreamer.system import ranks

SLOWEST = 1e-3
"""Rate of the running statistics after the first thousand batches, which count equally."""
LEAST_STD = 1e-2
"""Smallest standard deviation that observations are divided by."""


class Standardizer(nn.Module):
    """Standardization of every dimension by the mean and variance of the rows that were trained on.

    Before the first `update` it is the identity. Discrete values and images pass unchanged.
    """

    count: Tensor
    mean: Tensor
    variance: Tensor

    def __init__(self, shapes: Shapes):
        super().__init__()
        sizes = vectors(shapes)
        self.keys, self.sizes = list(sizes), list(sizes.values())
        self.register_buffer("count", torch.zeros(sum(self.sizes)))
        self.register_buffer("mean", torch.zeros(sum(self.sizes)))
        self.register_buffer("variance", torch.ones(sum(self.sizes)))

    @torch.no_grad()
    def update(self, obs: Mapping[str, Tensor]) -> None:
        """Update the statistics with observations `[*batch, size]`; dimensions that are not finite are left out.

        The statistics are those of the rows of all ranks, of which each has as many.
        """
        rows = torch.cat([obs[key].float() for key in self.keys], -1).flatten(0, -2)
        variance, mean = torch.var_mean(rows, 0, correction=0)
        if ranks.count() > 1:
            moments = ranks.gather(torch.stack([variance, mean]))
            between, mean = torch.var_mean(moments[:, 1], 0, correction=0)
            variance = moments[:, 0].mean(0) + between
        finite = (mean + variance).isfinite()
        self.count += finite
        rate = finite / self.count.clamp(1, 1 / SLOWEST)
        mean, variance = mean.nan_to_num(), variance.nan_to_num()
        distance = mean - self.mean
        self.variance.lerp_(variance + (1 - rate) * distance.square(), rate)
        self.mean.lerp_(mean, rate)

    def forward(self, obs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Observations by key, vectors standardized."""
        return {**obs, **{key: (obs[key] - mean) / std for key, mean, std in self._by_key()}}

    def inverse(self, obs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Observations by key, standardized vectors in their own units."""
        return {**obs, **{key: mean + std * obs[key] for key, mean, std in self._by_key()}}

    def _by_key(self) -> list[tuple[str, Float[Tensor, " size"], Float[Tensor, " size"]]]:
        std = self.variance.sqrt().clamp(min=LEAST_STD)
        return list(zip(self.keys, self.mean.split(self.sizes), std.split(self.sizes), strict=True))
