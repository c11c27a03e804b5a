"""Equivalent of `DynamicsCore.observe` for an RSSM with the block GRU: the filter as one autograd operation.

Back-propagation through time is written by hand. In the plain loop, the overhead of autograd exceeds the computation of
a step on a small batch. Here a step of the backward pass is a few dozen operations, and gradients of weights are
computed once for all steps.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dreamer.dynamics.cells import BlockGRU
from dreamer.dynamics.core import bound_action
from dreamer.dynamics.latents import CategoricalLatent, GaussianLatent, Latent
from dreamer.dynamics.rssm import RSSM, RSSMState
from dreamer.fast.kernels import norm_silu_backward, norm_silu_forward, save_autocast, saved_autocast
from dreamer.nn.distributions import full_precision
from dreamer.nn.layers import Linear, NormSiLU

Hidden = tuple[Tensor, Tensor, Tensor]
"""Results of `norm_silu_forward`: value, normalized input, inverse root mean square."""


class Steps(NamedTuple):
    """The two functions that the filter calls at every step, plain or compiled."""

    forward: Callable[..., tuple[Tensor, _Tape]]
    backward: Callable[..., tuple[Tensor, Tensor, _Grads]]


def applies(core: RSSM) -> bool:
    """True if `observe` supports the core: it has a block GRU, and a posterior with one hidden layer."""
    return isinstance(core.cell, BlockGRU) and core.config.posterior_layers == 1


def observe(
    core: RSSM,
    embeds: Float[Tensor, "batch time embed"],
    prev_actions: Float[Tensor, "batch time action"],
    is_first: Bool[Tensor, "batch time"],
    state: RSSMState | None = None,
    steps: Steps | None = None,
) -> RSSMState:
    """Equivalent of `DynamicsCore.observe`, except that `state` gets no gradient."""
    cell = cast(BlockGRU, core.cell)
    state = core.initial_state(is_first.shape[0]) if state is None else state
    reset = is_first.unsqueeze(-1)
    actions = cell.from_action(bound_action(prev_actions.masked_fill(reset, 0.0))) @ cell.shared[2 * _hidden(cell) :]
    layers = core.posterior_net
    hidden, norm, last = cast(Linear, layers[0]), cast(NormSiLU, layers[1]), cast(Linear, layers[2])
    deter = core.config.deter
    from_embed = embeds @ hidden.weight[:, deter:].T + hidden.bias
    posterior = [hidden.weight[:, :deter], norm.scale, last.weight, last.bias]
    inputs = (reset, actions, from_embed, *posterior, *_parameters(cell))
    return RSSMState(*_Filter.apply(steps or PLAIN_STEPS, cell, core.latent, state.deter, state.stoch, *inputs))


class _Filter(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, run: Steps, cell: BlockGRU, latent: Latent, deter: Tensor, stoch: Tensor, *inputs: Tensor
    ) -> Any:
        save_autocast(ctx, deter)
        reset, actions, from_embed, weight, scale, out_weight, out_bias, *_ = inputs
        tapes: list[_Tape] = []
        hiddens: list[Hidden] = []
        steps: list[tuple[Tensor, Tensor, Tensor]] = []
        for t in range(reset.shape[1]):
            deter, stoch = (x.masked_fill(reset[:, t], 0.0) for x in (deter, stoch))
            deter, tape = run.forward(cell, deter, stoch, actions[:, t])
            hidden = norm_silu_forward(torch.addmm(from_embed[:, t], deter, weight.T), scale)
            with _output_precision(latent, deter):
                params = torch.addmm(out_bias, hidden[0].to(out_weight.dtype), out_weight.T)
            stoch = latent.sample(params)
            tapes.append(tape)
            hiddens.append(hidden)
            steps.append((deter, stoch, params))
        states = [torch.stack(values, 1) for values in zip(*steps, strict=True)]
        ctx.run, ctx.cell, ctx.latent, ctx.tapes, ctx.hiddens = run, cell, latent, tapes, hiddens
        ctx.save_for_backward(reset, weight, scale, out_weight, *states)
        return tuple(states)

    @staticmethod
    def backward(ctx: Any, *grad_states: Tensor) -> Any:
        with saved_autocast(ctx):
            return _through_time(ctx, *grad_states)


def _through_time(ctx: Any, grad_deters: Tensor, grad_stochs: Tensor, grad_params: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients of the arguments of `_Filter.forward`, from those of its results."""
    reset, weight, scale, out_weight, deters, stochs, params = ctx.saved_tensors
    grad_deter, grad_stoch = torch.zeros_like(deters[:, 0]), torch.zeros_like(stochs[:, 0])
    steps: list[tuple[Tensor, Tensor, Tensor, _Grads]] = []
    for t in reversed(range(reset.shape[1])):
        grad_stoch = grad_stoch + grad_stochs[:, t]
        outputs = grad_params[:, t] + sample_vjp(ctx.latent, params[:, t], stochs[:, t], grad_stoch)
        _, normed, inverse = ctx.hiddens[t]
        with _output_precision(ctx.latent, outputs):
            grad_hidden = outputs @ out_weight
        hidden, grad_scale = norm_silu_backward(grad_hidden, normed, inverse, scale)
        grad_deter = torch.addmm(grad_deter + grad_deters[:, t], hidden, weight)
        grad_deter, grad_stoch, grads = ctx.run.backward(ctx.cell, grad_deter, ctx.tapes[t])
        grad_deter, grad_stoch = (x.masked_fill(reset[:, t], 0.0) for x in (grad_deter, grad_stoch))
        steps.append((outputs, hidden, grad_scale, grads))
    steps.reverse()
    *rows, grads_of_steps = zip(*steps, strict=True)
    outputs, hidden, grad_scale = (torch.cat(parts) for parts in rows)
    posterior = [
        hidden.T @ deters.transpose(0, 1).flatten(0, 1),
        grad_scale.sum(0),
        outputs.T @ torch.cat([value for value, _, _ in ctx.hiddens]),
        outputs.sum(0),
    ]
    grad_actions = torch.stack([grads.mixed for grads in grads_of_steps], 1)
    grad_embeds = torch.stack(rows[1], 1)
    weights = _weight_gradients(ctx.cell, ctx.tapes, grads_of_steps)
    return None, None, None, None, None, None, grad_actions, grad_embeds, *posterior, *weights


def _output_precision(latent: Latent, like: Tensor) -> AbstractContextManager[Any]:
    """Precision of the posterior's last layer: that of `ExactLinear` for latents that need it."""
    return full_precision(like.device.type) if latent.exact else contextlib.nullcontext()


def sample_vjp(latent: Latent, params: Tensor, sample: Tensor, grad: Tensor) -> Tensor:
    """Gradient of the parameters, given that of their sample: the vector-Jacobian product of `Latent.sample`."""
    if isinstance(latent, CategoricalLatent):
        shape = (latent.classes, latent.groups)
        probs = F.softmax(params.float().unflatten(-1, shape), -2)
        outer = grad.unflatten(-1, shape) * probs
        return (outer - probs * outer.sum(-2, keepdim=True)).mul_(1 - latent.unimix).flatten(-2)
    mean, std = cast(GaussianLatent, latent).mean_std(params)
    raw_std = params.float().chunk(2, -1)[1]
    return torch.cat([grad, grad * (sample - mean) / std * torch.sigmoid(raw_std)], -1)


# One step of the block GRU, forward and backward


@dataclass(frozen=True)
class _Tape:
    """Intermediate values of a step, for its backward pass."""

    deter: Tensor
    stoch: Tensor
    inputs: Tensor
    from_deter: Hidden
    from_stoch: Hidden
    mixed: Hidden
    reset: Tensor
    candidate: Tensor
    update: Tensor
    proposal: Tensor


@dataclass(frozen=True)
class _Grads:
    """Gradients of the outputs of a step's layers. A pair is (gradient of a linear map's output, gradient of the norm's
    scale for each row).
    """

    mixed: Tensor
    scale: Tensor
    gates: Tensor
    from_deter: tuple[Tensor, Tensor]
    from_stoch: tuple[Tensor, Tensor]


def _forward(cell: BlockGRU, deter: Tensor, stoch: Tensor, action: Tensor) -> tuple[Tensor, _Tape]:
    """Next h, as `BlockGRU.forward` computes it, and the tape for `_backward`.

    `action` is the contribution of the action to the first layer, `from_action(a) @ shared`.
    """
    (linear_h, norm_h), (linear_z, norm_z) = _layers(cell.from_deter), _layers(cell.from_stoch)
    from_deter = norm_silu_forward(linear_h(deter), norm_h.scale)
    from_stoch = norm_silu_forward(linear_z(stoch), norm_z.scale)
    inputs = torch.cat([from_deter[0], from_stoch[0]], -1)
    x = torch.addmm(action, inputs, cell.shared[: 2 * _hidden(cell)])
    x += torch.bmm(_split(cell, deter), cell.recurrent.weight).transpose(0, 1).flatten(1)
    mixed = norm_silu_forward(x.add_(cell.recurrent.bias), cell.norm.scale)
    bias = cell.gates.bias.unflatten(0, (cell.blocks, 1, -1))
    gates = torch.baddbmm(bias, _split(cell, mixed[0]), cell.gates.weight).to(deter.dtype)
    reset, candidate, update = gates.transpose(0, 1).chunk(3, -1)
    reset, update = torch.sigmoid(reset), torch.sigmoid(update - 1)
    proposal = (reset * candidate).tanh_()
    new = torch.lerp(deter.unflatten(-1, (cell.blocks, -1)), proposal, update).flatten(1)
    return new, _Tape(deter, stoch, inputs, from_deter, from_stoch, mixed, reset, candidate, update, proposal)


def _backward(cell: BlockGRU, grad: Tensor, tape: _Tape) -> tuple[Tensor, Tensor, _Grads]:
    """Gradients of h, of z and of the layer outputs, from the gradient of the next h."""
    reset, update, proposal = tape.reset, tape.update, tape.proposal
    grad = grad.unflatten(-1, (cell.blocks, -1))
    grad_proposal = grad * update
    grad_update = (proposal - tape.deter.unflatten(-1, (cell.blocks, -1))).mul_(grad_proposal).mul_(1 - update)
    grad_product = grad_proposal * (1 - proposal.square())
    grad_reset = (grad_product * tape.candidate).mul_(reset).mul_(1 - reset)
    gates = torch.cat([grad_reset, grad_product * reset, grad_update], -1)
    grad_mixed = torch.bmm(gates.transpose(0, 1), cell.gates.weight.mT).transpose(0, 1).flatten(1)
    mixed, scale = norm_silu_backward(grad_mixed, *tape.mixed[1:], cell.norm.scale)
    hidden = _hidden(cell)
    grad_inputs = mixed @ cell.shared[: 2 * hidden].T
    (linear_h, norm_h), (linear_z, norm_z) = _layers(cell.from_deter), _layers(cell.from_stoch)
    from_deter = norm_silu_backward(grad_inputs[:, :hidden], *tape.from_deter[1:], norm_h.scale)
    from_stoch = norm_silu_backward(grad_inputs[:, hidden:], *tape.from_stoch[1:], norm_z.scale)
    grad_deter = torch.addmm((grad - grad_proposal).flatten(1), from_deter[0], linear_h.weight)
    grad_deter += torch.bmm(_split(cell, mixed), cell.recurrent.weight.mT).transpose(0, 1).flatten(1)
    return grad_deter, from_stoch[0] @ linear_z.weight, _Grads(mixed, scale, gates, from_deter, from_stoch)


def _parameters(cell: BlockGRU) -> list[Tensor]:
    """Parameters of a step, without those of the action's projection."""
    (linear_h, norm_h), (linear_z, norm_z) = _layers(cell.from_deter), _layers(cell.from_stoch)
    hidden = [linear_h.weight, linear_h.bias, norm_h.scale, linear_z.weight, linear_z.bias, norm_z.scale]
    mixed = [cell.recurrent.weight, cell.recurrent.bias, cell.shared, cell.norm.scale]
    return [*hidden, *mixed, cell.gates.weight, cell.gates.bias]


def _weight_gradients(cell: BlockGRU, tapes: Sequence[_Tape], grads: Sequence[_Grads]) -> list[Tensor]:
    """Gradients of `_parameters`, in their order: one product for all steps at once."""

    def rows(select: Callable[[Any], Tensor], items: Sequence[Any]) -> Tensor:
        return torch.cat([select(item) for item in items])

    deter, stoch = rows(lambda tape: tape.deter, tapes), rows(lambda tape: tape.stoch, tapes)
    mixed, gates = rows(lambda grad: grad.mixed, grads), rows(lambda grad: grad.gates, grads)
    from_deter, scale_h = (torch.cat(parts) for parts in zip(*(grad.from_deter for grad in grads), strict=True))
    from_stoch, scale_z = (torch.cat(parts) for parts in zip(*(grad.from_stoch for grad in grads), strict=True))
    shared = torch.zeros_like(cell.shared)
    shared[: 2 * _hidden(cell)] = rows(lambda tape: tape.inputs, tapes).T @ mixed
    values = _split(cell, rows(lambda tape: tape.mixed[0], tapes))
    hidden = [from_deter.T @ deter, from_deter.sum(0), scale_h.sum(0)]
    hidden += [from_stoch.T @ stoch, from_stoch.sum(0), scale_z.sum(0)]
    recurrent = torch.bmm(_split(cell, deter).mT, _split(cell, mixed))
    scale = rows(lambda grad: grad.scale, grads).sum(0)
    gate_weight = torch.bmm(values.mT, gates.transpose(0, 1))
    return [*hidden, recurrent, mixed.sum(0), shared, scale, gate_weight, gates.sum(0).flatten()]


def _layers(mlp: nn.Sequential) -> tuple[Linear, NormSiLU]:
    """The linear map and the norm of an MLP with one hidden layer."""
    return cast(Linear, mlp[0]), cast(NormSiLU, mlp[1])


def _hidden(cell: BlockGRU) -> int:
    """Width of the input projections."""
    return cell.from_deter.out_features


def _split(cell: BlockGRU, x: Tensor) -> Tensor:
    """`[batch, size]` to `[blocks, batch, size / blocks]`."""
    return x.unflatten(-1, (cell.blocks, -1)).transpose(0, 1)


PLAIN_STEPS = Steps(_forward, _backward)
