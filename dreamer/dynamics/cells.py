"""Recurrent cells h = f(h, z, a) of the deterministic path: Dreamer V3's block GRU and the plain GRU of PlaNet and V1.

The action enters each cell through `project_action`, which does not depend on the state: a loop over time computes it
once for all steps.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dreamer.nn.layers import MLP, BlockLinear, Linear, NormSiLU, init_weight_

CellName = Literal["block_gru", "gru"]


class Cell(nn.Module, ABC):
    """A recurrent map from (h, z, a) to the next h."""

    @abstractmethod
    def project_action(self, action: Float[Tensor, "*batch action"]) -> Float[Tensor, "*batch _"]:
        """The part of the input that depends on the action alone."""

    @abstractmethod
    def forward(
        self, deter: Float[Tensor, "batch deter"], stoch: Float[Tensor, "batch stoch"], action: Float[Tensor, "batch _"]
    ) -> Float[Tensor, "batch deter"]:
        """Next h, given the *projected* action."""


class BlockGRU(Cell):
    """Dreamer V3's recurrent cell: block-diagonal in h, dense in the projected inputs.

        e = [mlp(h), mlp(z), mlp(a)]
        x = SiLU(RMSNorm(BlockLinear([h_k, e])))             for each block k, normalized over the whole vector
        reset, candidate, update = BlockLinear(x)            thirds inside each block
        h' = u * tanh(sigmoid(reset) * candidate) + (1 - u) * h,  u = sigmoid(update - 1)

    The reset gate multiplies the finished candidate, not h. Because every block reads the same e, its kernel is
    stored as one dense matrix `[3 * hidden, deter]` next to the block-diagonal kernel of h.
    """

    def __init__(self, deter: int, hidden: int, stoch: int, action: int, blocks: int):
        super().__init__()
        self.blocks = blocks
        self.hidden = hidden
        self.from_deter = MLP(deter, hidden, 1)
        self.from_stoch = MLP(stoch, hidden, 1)
        self.from_action = MLP(action, hidden, 1)
        fan_in = deter + blocks * 3 * hidden
        self.recurrent = BlockLinear(deter, deter, blocks, fan_in)
        self.shared = nn.Parameter(init_weight_(torch.empty(3 * hidden, deter), fan_in))
        self.norm = NormSiLU(deter)
        self.gates = BlockLinear(deter, 3 * deter, blocks)

    def project_action(self, action: Float[Tensor, "*batch action"]) -> Float[Tensor, "*batch _"]:
        """The action's share of the block input, `[*batch, deter]`."""
        return self.from_action(action) @ self.shared[2 * self.hidden :]

    def forward(
        self, deter: Float[Tensor, "batch deter"], stoch: Float[Tensor, "batch stoch"], action: Float[Tensor, "batch _"]
    ) -> Float[Tensor, "batch deter"]:
        """Next h, given the projected action."""
        inputs = torch.cat([self.from_deter(deter), self.from_stoch(stoch)], -1)
        if not torch.is_grad_enabled():
            return self._forward_in_place(deter, inputs, action)
        x = torch.addmm(action, inputs, self.shared[: 2 * self.hidden]) + self.recurrent(deter)
        gates = self.gates(self.norm(x)).unflatten(-1, (self.blocks, 3, -1))
        reset, candidate, update = (gate.flatten(1) for gate in gates.unbind(-2))
        update = torch.sigmoid(update - 1)
        return torch.lerp(deter, torch.tanh(torch.sigmoid(reset) * candidate), update)

    def _forward_in_place(self, deter: Tensor, inputs: Tensor, action: Tensor) -> Tensor:
        """The rest of `forward` in fewer passes over memory, where no gradient is recorded."""
        hidden = self.split(self.norm(self.mix(deter, inputs, action)))
        weights, biases = self.gates.weight.chunk(3, -1), self.gate_biases()
        gates = [torch.bmm(hidden, weight).add_(bias) for weight, bias in zip(weights, biases, strict=True)]
        reset, candidate, update = (gate.to(deter.dtype) for gate in gates)
        # tanh(x) = 2 sigmoid(2 x) - 1: on large tensors, PyTorch's tanh takes six times as long as its sigmoid on a CPU
        proposal = reset.sigmoid_().mul_(candidate).mul_(2).sigmoid_().mul_(2).sub_(1)
        return torch.lerp(self.split(deter), proposal, update.sigmoid_()).transpose(0, 1).flatten(1)

    def mix(self, deter: Tensor, inputs: Tensor, action: Tensor) -> Tensor:
        """What the norm reads: the block-diagonal map of h, and the dense one of the projected inputs."""
        x = torch.addmm(action, inputs, self.shared[: 2 * self.hidden])
        x += torch.bmm(self.split(deter), self.recurrent.weight).transpose(0, 1).flatten(1)
        return x.add_(self.recurrent.bias)

    def gate_biases(self) -> Tensor:
        """Biases `[3, blocks, 1, size]` of the gates, the update gate's shift by -1 included."""
        biases = self.gates.bias.unflatten(0, (self.blocks, 3, 1, -1)).transpose(0, 1).clone()
        biases[2] -= 1
        return biases

    def split(self, x: Tensor) -> Tensor:
        """`[batch, size]` to `[blocks, batch, size / blocks]`."""
        return x.unflatten(-1, (self.blocks, -1)).transpose(0, 1)


class GRU(Cell):
    """The cell of PlaNet and Dreamer V1: a dense layer on [z, a], then a standard GRU.

    x = SiLU(RMSNorm(W [z, a]))
    h' = GRU(x, h)
    """

    def __init__(self, deter: int, hidden: int, stoch: int, action: int):
        super().__init__()
        self.from_stoch = Linear(stoch, hidden)
        self.from_action = Linear(action, hidden, bias=False)
        for part in (self.from_stoch, self.from_action):
            init_weight_(part.weight, stoch + action)
        self.norm = NormSiLU(hidden)
        self.gru = nn.GRUCell(hidden, deter)

    def project_action(self, action: Float[Tensor, "*batch action"]) -> Float[Tensor, "*batch _"]:
        """The action's share of the dense layer, `[*batch, hidden]`."""
        return self.from_action(action)

    def forward(
        self, deter: Float[Tensor, "batch deter"], stoch: Float[Tensor, "batch stoch"], action: Float[Tensor, "batch _"]
    ) -> Float[Tensor, "batch deter"]:
        """Next h, given the projected action."""
        return self.gru(self.norm(self.from_stoch(stoch) + action), deter)


def make_cell(name: CellName, deter: int, hidden: int, stoch: int, action: int, blocks: int) -> Cell:
    """The cell of that name; `blocks` matters to the block GRU alone."""
    if name == "block_gru":
        return BlockGRU(deter, hidden, stoch, action, blocks)
    return GRU(deter, hidden, stoch, action)
