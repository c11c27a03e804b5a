"""Where an update spends its time, written with few passes over memory and gradients by hand.

Each function equals a short composition of plain operations, named in its docstring and compared with it in the tests.
They exist because on a CPU an update is bound by memory traffic and by the number of operations as much as by matrix
products, and on a GPU by the number of kernels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dreamer.nn.distributions import full_precision, two_hot

NORM_EPSILON = 1e-4
_EPSILON = torch.tensor(NORM_EPSILON)
CACHED_ROWS = 1024
"""Rows of a two-hot head computed at a time on a CPU: their 255 logits stay in its cache."""


def norm_silu(x: Float[Tensor, "*batch feature"], scale: Float[Tensor, " feature"]) -> Float[Tensor, "*batch feature"]:
    """`silu(rms_norm(x) * scale)` over the last axis, computed in float32."""
    if torch.is_grad_enabled():
        return _NormSiLU.apply(x, scale)
    full = x.float()
    if x.device.type != "cpu":  # one kernel there
        return F.silu(F.rms_norm(full, scale.shape, scale, NORM_EPSILON), inplace=True).to(x.dtype)
    return F.silu((full * _inverse_rms(full)).mul_(scale), inplace=True).to(x.dtype)


def norm_silu_forward(x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The value of `norm_silu`, the normalized x, and the inverse root mean square."""
    full = x.float()
    inverse = _inverse_rms(full)
    normed = full * inverse
    return F.silu(normed * scale, inplace=True).to(x.dtype), normed, inverse


def norm_silu_backward(grad: Tensor, normed: Tensor, inverse: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient of `norm_silu` to x, and, not yet summed over rows, to the scale."""
    outer = torch.ops.aten.silu_backward(grad.float(), normed * scale)
    to_scale = outer * normed
    mean = (to_scale @ scale).unsqueeze(-1).div_(normed.shape[-1])
    return torch.addcmul(outer.mul_(scale), normed, mean, value=-1).mul_(inverse), to_scale


def _inverse_rms(full: Tensor) -> Tensor:
    """1 / sqrt(mean(x^2) + epsilon), in few operations: for the one row of an acting step they are all that counts."""
    norm = torch.linalg.vector_norm(full, dim=-1, keepdim=True)
    epsilon = _EPSILON if full.device.type == "cpu" else torch.full((), NORM_EPSILON, device=full.device)
    return torch.addcmul(epsilon, norm, norm, value=1 / full.shape[-1]).rsqrt_()


def note_autocast(ctx: Any, tensor: Tensor) -> None:
    """Keep the autocast mode of a forward pass for its backward pass (`torch.amp.custom_fwd` for any device)."""
    device = tensor.device.type
    enabled = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    ctx.autocast = (device, torch.get_autocast_dtype(device)) if enabled else None


def noted_autocast(ctx: Any) -> AbstractContextManager[Any]:
    """The mode that `note_autocast` kept; backward passes begin without one."""
    return contextlib.nullcontext() if ctx.autocast is None else torch.autocast(*ctx.autocast)


class _NormSiLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor) -> Tensor:
        value, normed, inverse = norm_silu_forward(x, scale)
        ctx.save_for_backward(normed, inverse, scale)
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        to_x, to_scale = norm_silu_backward(grad, *ctx.saved_tensors)
        return to_x.to(grad.dtype), to_scale.flatten(0, -2).sum(0)


def known_linear(
    x: Float[Tensor, "*batch in_feature"],
    weight: Float[Tensor, "out_feature in_feature"],
    bias: Float[Tensor, " out_feature"],
    output: Float[Tensor, "*batch out_feature"],
) -> Float[Tensor, "*batch out_feature"]:
    """`linear(x, weight, bias)` whose value is known already: only its gradients to weight and bias are left to do."""
    return _KnownLinear.apply(x, weight, bias, output)


class _KnownLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, output: Tensor) -> Tensor:
        note_autocast(ctx, x)
        ctx.save_for_backward(x)
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, Tensor, None]:
        (x,) = ctx.saved_tensors
        rows = grad.flatten(0, -2)
        with noted_autocast(ctx):
            return None, (x.flatten(0, -2).T @ rows).T, rows.sum(0), None


def two_hot_value(
    hidden: Float[Tensor, "*batch feature"],
    weight: Float[Tensor, "bins feature"],
    bias: Float[Tensor, " bins"],
    bins: Float[Tensor, " bins"],
) -> Float[Tensor, "*batch"]:
    """`two_hot_mean(linear(hidden, weight, bias), bins)`, without gradients and without ever holding all logits.

    The rows of the weights are put in an order that has mirrored bins side by side, so that no logits are reversed.
    """
    half = len(bins) // 2
    order = torch.arange(len(bins), device=bins.device)
    order = torch.cat([order[half + 1 :], order[:half].flip(0), order[half : half + 1]])
    weight, bias, positive = weight.detach()[order], bias.detach()[order], bins[half + 1 :]
    values = []
    for chunk in _chunks(hidden.detach().flatten(0, -2)):
        probs = torch.softmax(F.linear(chunk, weight, bias).float(), -1)
        with full_precision(probs.device.type):  # the end bins need every bit
            values.append((probs[:, :half] - probs[:, half : 2 * half]) @ positive)
    return _join(values).view(hidden.shape[:-1])


def two_hot_errors(
    hidden: Float[Tensor, "*batch feature"],
    weight: Float[Tensor, "bins feature"],
    bias: Float[Tensor, " bins"],
    bins: Float[Tensor, " bins"],
    targets: Sequence[tuple[Float[Tensor, "*batch"], float]],
) -> Float[Tensor, "*batch"]:
    """Sum of `scale * two_hot_loss(linear(hidden, weight, bias), target, bins)` over all (target, scale).

    Logits are computed twice, going forward and back, a cacheful at a time: that is cheaper than keeping them.
    """
    places, shares = zip(*(_code(target, scale, bins) for target, scale in targets), strict=True)
    code = (torch.cat(places, -1).flatten(0, -2), torch.cat(shares, -1).flatten(0, -2))
    total = sum(scale for _, scale in targets)
    rows = _TwoHotErrors.apply(hidden.flatten(0, -2), weight, bias, *code, total)
    return rows.view(hidden.shape[:-1])


def _code(target: Tensor, scale: float, bins: Tensor) -> tuple[Tensor, Tensor]:
    """The two bins of each target and what they weigh, both `[*batch, 2]`."""
    lower, upper, share = two_hot(target.detach(), bins)
    return torch.stack([lower, upper], -1), torch.stack([scale * (1 - share), scale * share], -1)


class _TwoHotErrors(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, places: Tensor, shares: Tensor, total: float
    ) -> Tensor:
        note_autocast(ctx, hidden)
        errors, norms = [], []
        for x, place, share in zip(_chunks(hidden), _chunks(places), _chunks(shares), strict=True):
            logits = F.linear(x, weight, bias).float()
            norm = torch.logsumexp(logits, -1)
            errors.append(total * norm - (logits.gather(-1, place) * share).sum(-1))
            norms.append(norm)
        ctx.save_for_backward(hidden, weight, bias, places, shares, _join(norms))
        ctx.total = total
        return _join(errors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, places, shares, norms = ctx.saved_tensors
        to_hidden, to_weight, to_bias = [], torch.zeros_like(weight), torch.zeros_like(bias)
        with noted_autocast(ctx):
            for x, place, share, norm, g in zip(*map(_chunks, (hidden, places, shares, norms, grad)), strict=True):
                logits = F.linear(x, weight, bias).float()
                to_logits = logits.sub_(norm.unsqueeze(-1)).exp_().mul_((ctx.total * g).unsqueeze(-1))
                to_logits.scatter_add_(-1, place, share.mul(-g.unsqueeze(-1)))
                to_bias += to_logits.sum(0)
                to_hidden.append(to_logits @ weight)
                to_weight += to_logits.T @ x
        return _join(to_hidden), to_weight, to_bias, None, None, None


def _chunks(rows: Tensor) -> Sequence[Tensor]:
    return rows.split(CACHED_ROWS if rows.device.type == "cpu" else max(len(rows), 1))


def _join(chunks: Sequence[Tensor]) -> Tensor:
    return chunks[0] if len(chunks) == 1 else torch.cat(list(chunks))
