"""Layers of Dreamer V3: linear maps with its initialization, block-diagonal linear maps, and the MLP.

Every hidden layer is linear -> RMSNorm -> SiLU. Initial weights come from a normal distribution truncated at two
standard deviations. They are rescaled so that their standard deviation is exactly sqrt(1 / fan_in). Biases start at
zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dreamer.nn.distributions import full_precision

NORM_EPSILON = 1e-4
TRUNCATED_NORMAL_STD = 0.8796256610342398  # standard deviation of N(0, 1) truncated to [-2, 2]


@torch.no_grad()
def init_weight_(weight: Tensor, fan_in: int, scale: float = 1.0) -> Tensor:
    """Fill `weight` in place with the truncated normal of V3 (`trunc_normal_in`), times `scale`."""
    std = math.sqrt(1.0 / fan_in) / TRUNCATED_NORMAL_STD
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)
    return weight.mul_(scale)


class Linear(nn.Linear):
    """Affine map with V3's initialization; `scale` multiplies the initial weights (0 makes outputs start at 0)."""

    heads: Sequence[int] = ()
    """Numbers of outputs that are layers of their own in V3's code; empty if it is one layer there."""

    def __init__(self, in_features: int, out_features: int, scale: float = 1.0, bias: bool = True):
        self.scale = scale
        super().__init__(in_features, out_features, bias)

    def reset_parameters(self) -> None:
        """Draw the initial weights; called by the constructor of `nn.Linear`."""
        init_weight_(self.weight, self.in_features, self.scale)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class ExactLinear(Linear):
    """`Linear` in float32 under autocast too, for parameters of Gaussians: their density needs every bit."""

    def forward(self, x: Float[Tensor, "*batch in_feature"]) -> Float[Tensor, "*batch out_feature"]:
        """Map the last axis."""
        with full_precision(x.device.type):
            return super().forward(x.float())


class RMSNorm(nn.Module):
    """y = x / sqrt(mean(x^2) + 1e-4) * scale over the last axis, computed in float32; no shift."""

    def __init__(self, size: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(size))

    def forward(self, x: Float[Tensor, "*batch feature"]) -> Float[Tensor, "*batch feature"]:
        """Normalize the last axis."""
        full = x.float()
        mean_square = torch.linalg.vector_norm(full, dim=-1, keepdim=True).square() / full.shape[-1]
        return (full * torch.rsqrt(mean_square + NORM_EPSILON) * self.scale).to(x.dtype)


class NormSiLU(RMSNorm):
    """SiLU(RMSNorm(x)), which follows the linear map in every hidden layer."""

    def forward(self, x: Float[Tensor, "*batch feature"]) -> Float[Tensor, "*batch feature"]:
        """Normalize and activate."""
        return F.silu(super().forward(x))


class BlockLinear(nn.Module):
    """Block-diagonal affine map: block k maps slice k of the input to slice k of the output.

    `fan_in` is that of the whole input, not of one block, as in V3: block kernels start smaller by sqrt(blocks).
    """

    def __init__(self, in_features: int, out_features: int, blocks: int, fan_in: int | None = None):
        super().__init__()
        if in_features % blocks or out_features % blocks:
            raise ValueError(f"sizes {in_features} and {out_features} must be multiples of {blocks} blocks")
        self.blocks = blocks
        self.weight = nn.Parameter(torch.empty(blocks, in_features // blocks, out_features // blocks))
        self.bias = nn.Parameter(torch.zeros(out_features))
        init_weight_(self.weight, fan_in or in_features)

    def forward(self, x: Float[Tensor, "batch in_feature"]) -> Float[Tensor, "batch out_feature"]:
        """Map `[batch, in]` to `[batch, out]`."""
        slices = x.unflatten(-1, (self.blocks, -1)).transpose(0, 1)
        return torch.bmm(slices, self.weight).transpose(0, 1).flatten(1) + self.bias


class MLP(nn.Sequential):
    """`layers` hidden layers of width `units`, each linear -> RMSNorm -> SiLU; no output layer."""

    def __init__(self, in_features: int, units: int, layers: int):
        modules: list[nn.Module] = []
        for layer in range(layers):
            modules += [Linear(in_features if layer == 0 else units, units), NormSiLU(units)]
        super().__init__(*modules)
        self.out_features = units if layers else in_features


def mlp_to(in_features: int, units: int, layers: int, out_features: int, exact: bool = False) -> nn.Sequential:
    """An MLP with a linear output layer; `exact` computes that layer in float32 under autocast too."""
    mlp = MLP(in_features, units, layers)
    return nn.Sequential(*mlp, (ExactLinear if exact else Linear)(mlp.out_features, out_features))
