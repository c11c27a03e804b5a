"""RMSNorm + SiLU and two-hot heads with hand-written gradients and few passes over memory.

On a CPU, memory traffic and the number of operations limit an update as much as matrix products do. On a GPU, the
number of kernels does. The docstring of each public function names the plain method that it replaces.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dreamer.nn.distributions import full_precision, two_hot, two_hot_mean
from dreamer.nn.layers import NORM_EPSILON, NormSiLU
from dreamer.world_model.heads import ScalarHead

CACHED_ROWS = 1024
"""Rows of a two-hot head that are computed at a time on a CPU. Their logits (1 MB) fit into its cache."""


def norm_silu(module: NormSiLU, x: Float[Tensor, "*batch feature"]) -> Float[Tensor, "*batch feature"]:
    """Equivalent of `NormSiLU.forward`."""
    if torch.is_grad_enabled():
        return _NormSiLU.apply(x, module.scale)
    full = x.float()
    return F.silu((full * _inverse_rms(full)).mul_(module.scale), inplace=True).to(x.dtype)


def norm_silu_forward(x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Value of SiLU(RMSNorm(x)), the normalized x, and the inverse root mean square."""
    full = x.float()
    inverse = _inverse_rms(full)
    normed = full * inverse
    return F.silu(normed * scale, inplace=True).to(x.dtype), normed, inverse


def _inverse_rms(full: Tensor) -> Tensor:
    norm = torch.linalg.vector_norm(full, dim=-1, keepdim=True)
    return norm.square_().div_(full.shape[-1]).add_(NORM_EPSILON).rsqrt_()


def norm_silu_backward(grad: Tensor, normed: Tensor, inverse: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of SiLU(RMSNorm(x)) with respect to x, and to the scale, not yet summed over rows."""
    outer = torch.ops.aten.silu_backward(grad.float(), normed * scale)
    grad_scale = outer * normed
    mean = (grad_scale @ scale).unsqueeze(-1).div_(normed.shape[-1])
    return torch.addcmul(outer.mul_(scale), normed, mean, value=-1).mul_(inverse), grad_scale


class _NormSiLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor) -> Tensor:
        value, normed, inverse = norm_silu_forward(x, scale)
        ctx.save_for_backward(normed, inverse, scale)
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        grad_x, grad_scale = norm_silu_backward(grad, *ctx.saved_tensors)
        return grad_x.to(grad.dtype), grad_scale.flatten(0, -2).sum(0)


def save_autocast(ctx: Any, tensor: Tensor) -> None:
    """Keep the autocast mode of a forward pass for its backward pass (`torch.amp.custom_fwd` for any device)."""
    device = tensor.device.type
    enabled = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    ctx.autocast = (device, torch.get_autocast_dtype(device)) if enabled else None


def saved_autocast(ctx: Any) -> AbstractContextManager[Any]:
    """Context with the mode that `save_autocast` kept. Autograd itself runs backward passes without autocast."""
    return contextlib.nullcontext() if ctx.autocast is None else torch.autocast(*ctx.autocast)


@dataclass(frozen=True)
class ChunkedTwoHot:
    """Equivalent of `TwoHot` that keeps the input of the output layer and computes logits chunk by chunk."""

    hidden: Float[Tensor, "*batch hidden"]
    head: ScalarHead

    def mean(self) -> Float[Tensor, "*batch"]:
        """Expected value; with gradients enabled, as in the plain code.

        The output weights are reordered: positive bins, then negative bins in mirrored order, then the middle bin. So
        the probabilities of mirrored bins are subtracted without reversing an array.
        """
        output, bins = self.head.output, self.head.bins
        if torch.is_grad_enabled():
            return two_hot_mean(output(self.hidden), bins)
        half = len(bins) // 2
        order = torch.arange(len(bins), device=bins.device)
        order = torch.cat([order[half + 1 :], order[:half].flip(0), order[half : half + 1]])
        weight, bias, positive = output.weight[order], output.bias[order], bins[half + 1 :]
        values = []
        for chunk in _chunks(self.hidden.flatten(0, -2)):
            probs = torch.softmax(F.linear(chunk, weight, bias).float(), -1)
            with full_precision(probs.device.type):  # the end bins need every bit
                values.append((probs[:, :half] - probs[:, half : 2 * half]) @ positive)
        return _join(values).view(self.hidden.shape[:-1])

    def cross_entropy(self, *targets: tuple[Float[Tensor, "*batch"], float]) -> Float[Tensor, "*batch"]:
        """Weighted sum of the cross-entropies to several (target, weight) pairs.

        Logits are computed in the forward pass and again in the backward pass. That is faster than storing them.
        """
        output = self.head.output
        bins, weights = zip(*(_encode(target, weight, self.head.bins) for target, weight in targets), strict=True)
        code = (torch.cat(bins, -1).flatten(0, -2), torch.cat(weights, -1).flatten(0, -2))
        total = sum(weight for _, weight in targets)
        rows = _CrossEntropy.apply(self.hidden.flatten(0, -2), output.weight, output.bias, *code, total)
        return rows.view(self.hidden.shape[:-1])

    def __getitem__(self, index: Any) -> ChunkedTwoHot:
        """Index the leading axes."""
        return ChunkedTwoHot(self.hidden[index], self.head)


def two_hot_head(head: ScalarHead, features: Float[Tensor, "*batch feature"]) -> ChunkedTwoHot:
    """Equivalent of `ScalarHead.forward`."""
    return ChunkedTwoHot(head.mlp(features), head)


def _encode(target: Tensor, weight: float, bins: Tensor) -> tuple[Tensor, Tensor]:
    """The two bins of each target and their weights, both `[*batch, 2]`."""
    lower, upper, share = two_hot(target.detach(), bins)
    return torch.stack([lower, upper], -1), torch.stack([weight * (1 - share), weight * share], -1)


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, places: Tensor, shares: Tensor, total: float
    ) -> Tensor:
        save_autocast(ctx, hidden)
        losses, norms = [], []
        for x, place, share in zip(_chunks(hidden), _chunks(places), _chunks(shares), strict=True):
            logits = F.linear(x, weight, bias).float()
            norm = torch.logsumexp(logits, -1)
            losses.append(total * norm - (logits.gather(-1, place) * share).sum(-1))
            norms.append(norm)
        ctx.save_for_backward(hidden, weight, bias, places, shares, _join(norms))
        ctx.total = total
        return _join(losses)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, places, shares, norms = ctx.saved_tensors
        grad_hidden, grad_weight, grad_bias = [], torch.zeros_like(weight), torch.zeros_like(bias)
        with saved_autocast(ctx):
            for x, place, share, norm, g in zip(*map(_chunks, (hidden, places, shares, norms, grad)), strict=True):
                logits = F.linear(x, weight, bias).float()
                grad_logits = logits.sub_(norm.unsqueeze(-1)).exp_().mul_((ctx.total * g).unsqueeze(-1))
                for bins, weights in zip(place.split(2, -1), share.mul(-g.unsqueeze(-1)).split(2, -1), strict=True):
                    grad_logits.scatter_add_(-1, bins, weights)  # distinct bins: repeatable on a GPU too
                grad_bias += grad_logits.sum(0)
                grad_hidden.append(grad_logits @ weight)
                grad_weight += grad_logits.T @ x
        return _join(grad_hidden), grad_weight, grad_bias, None, None, None


def _chunks(rows: Tensor) -> Sequence[Tensor]:
    return rows.split(CACHED_ROWS if rows.device.type == "cpu" else max(len(rows), 1))


def _join(chunks: Sequence[Tensor]) -> Tensor:
    return chunks[0] if len(chunks) == 1 else torch.cat(list(chunks))
