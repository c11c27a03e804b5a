"""Image networks of Dreamer V3: 4x4 features after four stages down, and four stages up from them.

    pooled     convolutions with stride 1, each followed by max-pooling; up by nearest-neighbor upsampling (V3 today)
    strided    one convolution at full size, then four with stride 2; up by transposed convolutions (V3 of the paper)

Images are bytes until they reach a network: x / 255 - 0.5 goes into the encoder, x / 255 is the decoder's target.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from dreamer.errors import UserError
from dreamer.nn.convolution import Conv, TransposedConv, UpsampledConv, stages
from dreamer.nn.layers import BlockLinear, Linear, RMSNorm
from envs.ranges import Few, Many

SHRINK = 16
"""Factor by which the encoder divides height and width."""


@dataclass(frozen=True)
class ImageConfig:
    """Image encoder and decoder."""

    depth: Few = 4
    """Multiplier of all channel counts."""
    resampling: Literal["pooled", "strided"] = "pooled"
    """Downsampling and upsampling: pooled (V3 today), or strided (V3 of the paper)."""
    blocks: Many = 8
    """Blocks of the decoder's first layer on h; must divide the size of h and 4 * depth."""


class ImageEncoder(nn.Module):
    """Images, concatenated along channels, to an embedding of size `height / 16 * width / 16 * 4 * depth`.

    Raises UserError for a size that cannot be halved four times.
    """

    def __init__(self, config: ImageConfig, height: int, width: int, channels: int):
        super().__init__()
        check_size(height, width)
        depth = config.depth
        if config.resampling == "pooled":
            self.net = stages(
                lambda a, b: Conv(a, b, pool=True), [channels, 2 * depth, 3 * depth, 4 * depth, 4 * depth]
            )
        else:
            full = stages(Conv, [channels, depth])
            halved = stages(lambda a, b: Conv(a, b, stride=2), [depth, 2 * depth, 3 * depth, 4 * depth, 4 * depth])
            self.net = nn.Sequential(*full, *halved)
        self.pixels = height * width
        self.embed_dim = height // SHRINK * (width // SHRINK) * 4 * depth

    def forward(self, images: UInt8[Tensor, "*batch height width channel"]) -> Float[Tensor, "*batch embed"]:
        """Embed images."""
        x = to_unit(images.flatten(0, -4)) - 0.5
        return self.net(x).flatten(1).unflatten(0, images.shape[:-3])

    def convolutions(self) -> Iterator[tuple[Conv, int]]:
        """Every convolution, with the number of pixels at which it is computed."""
        pixels = self.pixels
        for conv in (module for module in self.net if isinstance(module, Conv)):
            pixels //= conv.stride**2
            yield conv, pixels
            pixels //= 4 if conv.pool else 1


class ImageDecoder(nn.Module):
    """Features to images with values in (0, 1); its first layer reads h in blocks and z densely (V3's block space).

    The first `deter` features are h, which may be none, and the rest z. Block k of h owns its share of the channels at
    every place of the smallest feature map.
    """

    def __init__(self, config: ImageConfig, units: int, deter: int, stoch: int, height: int, width: int, channels: int):
        super().__init__()
        check_size(height, width)
        depth, self.deter = config.depth, deter
        self.small = height // SHRINK, width // SHRINK, 4 * depth
        size = math.prod(self.small)
        for what, number in (("the core's h", deter), ("4 * depth", 4 * depth)):
            if deter and number % config.blocks:
                raise UserError(
                    f"--agent.world-model.image.blocks {config.blocks} must divide the size {number} of {what}"
                )
        self.blocks = config.blocks
        self.from_deter = BlockLinear(deter, size, config.blocks) if deter else None
        self.from_stoch = nn.Sequential(
            Linear(stoch, 2 * units), RMSNorm(2 * units), nn.SiLU(), Linear(2 * units, size)
        )
        self.norm = RMSNorm(4 * depth)
        if config.resampling == "pooled":
            self.net = stages(UpsampledConv, [4 * depth, 4 * depth, 3 * depth, 2 * depth])
            self.output: Conv = UpsampledConv(2 * depth, channels)
        else:
            self.net = stages(TransposedConv, [4 * depth, 4 * depth, 3 * depth, 2 * depth, depth])
            self.output = Conv(depth, channels)

    def convolutions(self) -> Iterator[tuple[Conv, int]]:
        """Every convolution, with the places at which it is computed: those of its input where it is transposed."""
        pixels = self.small[0] * self.small[1]
        for conv in (*(module for module in self.net if isinstance(module, Conv)), self.output):
            grown = 4 * pixels if isinstance(conv, (TransposedConv, UpsampledConv)) else pixels
            yield conv, pixels if isinstance(conv, TransposedConv) else grown
            pixels = grown

    def forward(self, features: Float[Tensor, "*batch feature"]) -> Float[Tensor, "*batch height width channel"]:
        """Predicted images."""
        flat = features.flatten(0, -2)
        height, width, _ = self.small
        x = self.from_stoch(flat[:, self.deter :]).unflatten(-1, self.small)
        if self.from_deter is not None:
            blocks = self.from_deter(flat[:, : self.deter]).unflatten(-1, (self.blocks, height, width, -1))
            x = x + blocks.permute(0, 2, 3, 1, 4).flatten(3)
        x = self.output(self.net(F.silu(self.norm(x))))
        return torch.sigmoid(x.float()).unflatten(0, features.shape[:-1])


def weight_uses(module: nn.Module) -> int:
    """Multiply-adds of the convolutions in a module, written down plainly, per image and beyond one for each weight.

    Every weight is used once for every place at full size of what its convolution makes, pooled or not.
    """
    uses = 0
    for network in module.modules():
        if isinstance(network, (ImageEncoder, ImageDecoder)):
            uses += sum(conv.weight.numel() * (places - 1) for conv, places in network.convolutions())
    return uses


def outputs_of(module: nn.Module) -> int:
    """Number of values that the linear maps and convolutions in a module return for one step; a lower bound."""
    layers = sum(layer.out_features for layer in module.modules() if isinstance(layer, nn.Linear))
    networks = [network for network in module.modules() if isinstance(network, (ImageEncoder, ImageDecoder))]
    return layers + sum(places * conv.bias.numel() for network in networks for conv, places in network.convolutions())


def to_unit(images: UInt8[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """uint8 images as floats in [0, 1]."""
    return images.to(torch.get_default_dtype()) / 255


def check_size(height: int, width: int) -> None:
    """Raise `UserError` unless both are multiples of 16."""
    if height % SHRINK or width % SHRINK or not height * width:
        raise UserError(
            f"--env.image-size {height} {width}: the image networks take multiples of {SHRINK}, such as "
            f"{max(1, round(height / SHRINK)) * SHRINK} {max(1, round(width / SHRINK)) * SHRINK}"
        )
