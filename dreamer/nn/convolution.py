"""Convolutions of the image networks: kernel 5, zero padding that keeps the size, initialization of V3.

Images are `[batch, height, width, channel]` throughout (channels-last). On a CPU, convolution and pooling of few
channels take between a quarter and all of their time with channels first, and RMSNorm reads adjacent memory.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dreamer.nn.layers import RMSNorm, init_weight_

KERNEL = 5


class Conv(nn.Module):
    """A convolution. `stride` 2 halves the size; `pool` halves it by 2x2 max-pooling.

    The weight is `[out, in, 5, 5]`.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, pool: bool = False):
        super().__init__()
        self.stride, self.pool = stride, pool
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, KERNEL, KERNEL))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        init_weight_(self.weight, KERNEL * KERNEL * in_channels)

    def forward(self, x: Float[Tensor, "batch height width channel"]) -> Float[Tensor, "batch _ _ _"]:
        """Output images."""
        # With stride 2 the padding is the mirror image of JAX's "same", which begins one pixel further.
        y = F.conv2d(x.permute(0, 3, 1, 2), self.weight, self.bias, self.stride, padding=KERNEL // 2)
        return (F.max_pool2d(y, 2) if self.pool else y).permute(0, 2, 3, 1)


class UpsampledConv(Conv):
    """Nearest-neighbor upsampling by 2, then a convolution with stride 1.

    It is computed as four 3x3 convolutions of the small image, one for each of the four output pixels of an input
    pixel. Two or three of the five kernel rows fall on the same input row, and likewise for columns. This is the same
    map with 36 instead of 100 multiplications.
    """

    shares: Tensor

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels)
        shares = torch.zeros(2, 3, KERNEL)
        for phase in range(2):
            for tap in range(KERNEL):
                shares[phase, (phase + tap - 2) // 2 + 1, tap] = 1.0
        self.register_buffer("shares", shares, persistent=False)

    def forward(self, x: Float[Tensor, "batch height width channel"]) -> Float[Tensor, "batch _ _ _"]:
        """Images of twice the size."""
        kernels = torch.einsum("yar,xbs,oirs->yxoiab", self.shares, self.shares, self.weight).flatten(0, 2)
        y = F.conv2d(x.permute(0, 3, 1, 2), kernels, self.bias.repeat(4), padding=1).permute(0, 2, 3, 1)
        y = y.unflatten(-1, (2, 2, -1))  # [batch, height, width, row, column, channel]
        return y.permute(0, 1, 3, 2, 4, 5).flatten(3, 4).flatten(1, 2)


class TransposedConv(Conv):
    """A transposed convolution with stride 2, the reverse of a strided one."""

    def forward(self, x: Float[Tensor, "batch height width channel"]) -> Float[Tensor, "batch _ _ _"]:
        """Images of twice the size."""
        weight, padding = self.weight.transpose(0, 1), KERNEL // 2
        y = F.conv_transpose2d(x.permute(0, 3, 1, 2), weight, self.bias, 2, padding, output_padding=1)
        return y.permute(0, 2, 3, 1)


def stages(make: Callable[[int, int], nn.Module], channels: list[int]) -> nn.Sequential:
    """Layers of these channels one after the other, each with RMSNorm and SiLU behind it."""
    modules: list[nn.Module] = []
    for before, after in pairwise(channels):
        modules += [make(before, after), RMSNorm(after), nn.SiLU()]
    return nn.Sequential(*modules)
