"""The RSSM's filter over a whole sequence as one operation, with back-propagation through time written out.

Autograd spends most of such a loop on bookkeeping: sixteen rows a step are little work. Here a step back is a few dozen
operations, and the gradients of weights are taken once for all steps. `DynamicsCore.observe` is the definition that
this equals, values and gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from dreamer.dynamics.cells import BlockGRU
from dreamer.dynamics.latents import Latent
from dreamer.nn.fused import norm_silu_backward, norm_silu_forward, note_autocast, noted_autocast
from dreamer.nn.layers import Linear, NormSiLU

Hidden = tuple[Tensor, Tensor, Tensor]
"""What `norm_silu_forward` returns: value, normalized input, inverse root mean square."""


def filter_sequence(
    cell: BlockGRU,
    posterior: nn.Sequential,
    latent: Latent,
    start: tuple[Tensor, Tensor],
    is_first: Tensor,
    actions: Tensor,
    embeds: Tensor,
    repeated: Steps,
) -> tuple[Tensor, Tensor, Tensor]:
    """Filter rows `[batch, time, ...]`; returns h, z, and the posterior's parameters of every row.

    `posterior` is one hidden layer on [h, embedding] and a linear map. `start` is (h, z) before the first row and gets
    no gradient. `actions` are those that led to the rows, zero at resets and then projected by the cell.
    """
    hidden, norm, last = cast(Linear, posterior[0]), cast(NormSiLU, posterior[1]), cast(Linear, posterior[2])
    deter = start[0].shape[-1]
    from_embed = embeds @ hidden.weight[:, deter:].T + hidden.bias
    head = [hidden.weight[:, :deter], norm.scale, last.weight, last.bias]
    return _Filter.apply(
        repeated, cell, latent, *start, is_first.unsqueeze(-1), actions, from_embed, *head, *_parameters(cell)
    )


class _Filter(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, repeated: Steps, cell: BlockGRU, latent: Latent, deter: Tensor, stoch: Tensor, *inputs: Tensor
    ) -> Any:
        note_autocast(ctx, deter)
        reset, actions, from_embed, weight, scale, out_weight, out_bias, *_ = inputs
        tapes: list[_Tape] = []
        hiddens: list[Hidden] = []
        steps: list[tuple[Tensor, Tensor, Tensor]] = []
        for t in range(reset.shape[1]):
            deter, stoch = (x.masked_fill(reset[:, t], 0.0) for x in (deter, stoch))
            deter, tape = repeated.forth(cell, deter, stoch, actions[:, t])
            hidden = norm_silu_forward(torch.addmm(from_embed[:, t], deter, weight.T), scale)
            params = torch.addmm(out_bias, hidden[0], out_weight.T)
            stoch = latent.sample(params)
            tapes.append(tape)
            hiddens.append(hidden)
            steps.append((deter, stoch, params))
        states = [torch.stack(values, 1) for values in zip(*steps, strict=True)]
        ctx.repeated, ctx.cell, ctx.latent, ctx.tapes, ctx.hiddens = repeated, cell, latent, tapes, hiddens
        ctx.save_for_backward(reset, weight, scale, out_weight, *states)
        return tuple(states)

    @staticmethod
    def backward(ctx: Any, *to_states: Tensor) -> Any:
        with noted_autocast(ctx):
            return _through_time(ctx, *to_states)


def _through_time(ctx: Any, to_deters: Tensor, to_stochs: Tensor, to_params: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients of all that `_Filter.forward` was given, from those of what it returned."""
    reset, weight, scale, out_weight, deters, stochs, params = ctx.saved_tensors
    to_deter, to_stoch = torch.zeros_like(deters[:, 0]), torch.zeros_like(stochs[:, 0])
    steps: list[tuple[Tensor, Tensor, Tensor, _Grads]] = []
    for t in reversed(range(reset.shape[1])):
        outputs = to_params[:, t] + ctx.latent.pull_back(params[:, t], stochs[:, t], to_stoch + to_stochs[:, t])
        _, normed, inverse = ctx.hiddens[t]
        hidden, to_scale = norm_silu_backward(outputs @ out_weight, normed, inverse, scale)
        to_deter = torch.addmm(to_deter + to_deters[:, t], hidden, weight)
        to_deter, to_stoch, grads = ctx.repeated.back(ctx.cell, to_deter, ctx.tapes[t])
        to_deter, to_stoch = (x.masked_fill(reset[:, t], 0.0) for x in (to_deter, to_stoch))
        steps.append((outputs, hidden, to_scale, grads))
    steps.reverse()
    *rows, grads_of_steps = zip(*steps, strict=True)
    outputs, hidden, to_scale = (torch.cat(parts) for parts in rows)
    head = [
        hidden.T @ deters.transpose(0, 1).flatten(0, 1),
        to_scale.sum(0),
        outputs.T @ torch.cat([value for value, _, _ in ctx.hiddens]),
        outputs.sum(0),
    ]
    to_actions = torch.stack([grads.mix for grads in grads_of_steps], 1)
    to_embeds = torch.stack(rows[1], 1)
    weights = _weight_gradients(ctx.cell, ctx.tapes, grads_of_steps)
    return None, None, None, None, None, None, to_actions, to_embeds, *head, *weights


# One step of the block GRU, and back


@dataclass(frozen=True)
class _Tape:
    """What a step leaves for its gradient."""

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
    """Gradients of what a step's weights produced; pairs are (of a linear map's output, of the scale for each row)."""

    mix: Tensor
    scale: Tensor
    gates: Tensor
    from_deter: tuple[Tensor, Tensor]
    from_stoch: tuple[Tensor, Tensor]


def _hidden_layer(mlp: nn.Sequential) -> tuple[Linear, NormSiLU]:
    return cast(Linear, mlp[0]), cast(NormSiLU, mlp[1])


def _forth(cell: BlockGRU, deter: Tensor, stoch: Tensor, action: Tensor) -> tuple[Tensor, _Tape]:
    """`cell.forward`, and what `_back` needs to know of it."""
    (linear_h, norm_h), (linear_z, norm_z) = _hidden_layer(cell.from_deter), _hidden_layer(cell.from_stoch)
    from_deter = norm_silu_forward(linear_h(deter), norm_h.scale)
    from_stoch = norm_silu_forward(linear_z(stoch), norm_z.scale)
    inputs = torch.cat([from_deter[0], from_stoch[0]], -1)
    mixed = norm_silu_forward(cell.mix(deter, inputs, action), cell.norm.scale)
    bias = cell.gate_biases().transpose(0, 1).flatten(1).unsqueeze(1)
    gates = torch.baddbmm(bias, cell.split(mixed[0]), cell.gates.weight).to(deter.dtype)
    reset, candidate, update = gates.transpose(0, 1).chunk(3, -1)
    reset, update = torch.sigmoid(reset), torch.sigmoid(update)
    proposal = (reset * candidate).tanh_()
    new = torch.lerp(deter.unflatten(-1, (cell.blocks, -1)), proposal, update).flatten(1)
    return new, _Tape(deter, stoch, inputs, from_deter, from_stoch, mixed, reset, candidate, update, proposal)


def _back(cell: BlockGRU, grad: Tensor, tape: _Tape) -> tuple[Tensor, Tensor, _Grads]:
    """From the gradient of the new h to those of h and z."""
    reset, update, proposal = tape.reset, tape.update, tape.proposal
    grad = grad.unflatten(-1, (cell.blocks, -1))
    to_proposal = grad * update
    to_update = (proposal - tape.deter.unflatten(-1, (cell.blocks, -1))).mul_(to_proposal).mul_(1 - update)
    to_product = to_proposal * (1 - proposal.square())
    to_reset = (to_product * tape.candidate).mul_(reset).mul_(1 - reset)
    gates = torch.cat([to_reset, to_product * reset, to_update], -1)
    to_mixed = torch.bmm(gates.transpose(0, 1), cell.gates.weight.mT).transpose(0, 1).flatten(1)
    mix, scale = norm_silu_backward(to_mixed, *tape.mixed[1:], cell.norm.scale)
    to_inputs = mix @ cell.shared[: 2 * cell.hidden].T
    (linear_h, norm_h), (linear_z, norm_z) = _hidden_layer(cell.from_deter), _hidden_layer(cell.from_stoch)
    from_deter = norm_silu_backward(to_inputs[:, : cell.hidden], *tape.from_deter[1:], norm_h.scale)
    from_stoch = norm_silu_backward(to_inputs[:, cell.hidden :], *tape.from_stoch[1:], norm_z.scale)
    to_deter = torch.addmm((grad - to_proposal).flatten(1), from_deter[0], linear_h.weight)
    to_deter += torch.bmm(cell.split(mix), cell.recurrent.weight.mT).transpose(0, 1).flatten(1)
    return to_deter, from_stoch[0] @ linear_z.weight, _Grads(mix, scale, gates, from_deter, from_stoch)


def _parameters(cell: BlockGRU) -> list[Tensor]:
    """What a step reads, the projection of actions aside."""
    (linear_h, norm_h), (linear_z, norm_z) = _hidden_layer(cell.from_deter), _hidden_layer(cell.from_stoch)
    hidden = [linear_h.weight, linear_h.bias, norm_h.scale, linear_z.weight, linear_z.bias, norm_z.scale]
    mix = [cell.recurrent.weight, cell.recurrent.bias, cell.shared, cell.norm.scale]
    return [*hidden, *mix, cell.gates.weight, cell.gates.bias]


def _weight_gradients(cell: BlockGRU, tapes: Sequence[_Tape], grads: Sequence[_Grads]) -> list[Tensor]:
    """Gradients of `_parameters`, in their order: one product for all steps at once."""

    def rows(select: Callable[[Any], Tensor], items: Sequence[Any]) -> Tensor:
        return torch.cat([select(item) for item in items])

    deter, stoch = rows(lambda tape: tape.deter, tapes), rows(lambda tape: tape.stoch, tapes)
    mix, gates = rows(lambda grad: grad.mix, grads), rows(lambda grad: grad.gates, grads)
    from_deter, scale_h = (torch.cat(parts) for parts in zip(*(grad.from_deter for grad in grads), strict=True))
    from_stoch, scale_z = (torch.cat(parts) for parts in zip(*(grad.from_stoch for grad in grads), strict=True))
    shared = torch.zeros_like(cell.shared)
    shared[: 2 * cell.hidden] = rows(lambda tape: tape.inputs, tapes).T @ mix
    mixed = cell.split(rows(lambda tape: tape.mixed[0], tapes))
    hidden = [from_deter.T @ deter, from_deter.sum(0), scale_h.sum(0)]
    hidden += [from_stoch.T @ stoch, from_stoch.sum(0), scale_z.sum(0)]
    recurrent = torch.bmm(cell.split(deter).mT, cell.split(mix))
    scale = rows(lambda grad: grad.scale, grads).sum(0)
    gate_weight = torch.bmm(mixed.mT, gates.transpose(0, 1))
    return [*hidden, recurrent, mix.sum(0), shared, scale, gate_weight, gates.sum(0).flatten()]


@dataclass(frozen=True)
class Steps:
    """The two steps that a filter repeats, plain or compiled."""

    forth: Callable[..., tuple[Tensor, _Tape]] = _forth
    back: Callable[..., tuple[Tensor, Tensor, _Grads]] = _back

    @classmethod
    def compiled(cls) -> Steps:
        """The same steps through torch.compile."""
        return cls(torch.compile(_forth, dynamic=False), torch.compile(_back, dynamic=False))
