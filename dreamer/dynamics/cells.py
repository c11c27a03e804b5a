"""Recurrent cells h' = f(h, z, a): the block GRU of Dreamer V3, and the GRU of PlaNet and Dreamer V1."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dreamer.nn.distributions import full_precision
from dreamer.nn.layers import MLP, BlockLinear, Linear, NormSiLU, init_weight_

CellName = Literal["block_gru", "gru"]


class RecurrentCell(nn.Module, ABC):
    """A recurrent map from (h, z, a) to the next h."""

    @abstractmethod
    def forward(
        self,
        deter: Float[Tensor, "batch deter"],
        stoch: Float[Tensor, "batch stoch"],
        action: Float[Tensor, "batch action"],
    ) -> Float[Tensor, "batch deter"]:
        """Next h."""


class BlockGRU(RecurrentCell):
    """Dreamer V3's recurrent cell: block-diagonal in h, dense in the projected inputs.

        e = [mlp(h), mlp(z), mlp(a)]
        x_k = W_k h_k + V_k e + b_k                           for each block k of h
        r, c, u = BlockLinear(SiLU(RMSNorm(x)))               thirds of each block; the norm is over all blocks
        h' = sigmoid(u - 1) * tanh(sigmoid(r) * c) + (1 - sigmoid(u - 1)) * h

    The reset gate r multiplies the candidate c, not h. All W_k together are `recurrent`, a block-diagonal map. Every
    block reads the same e, so all V_k together are one dense matrix, `shared` `[3 * hidden, deter]`.
    """

    clip_together = ("recurrent.weight", "shared")
    """Parameters that are one tensor in V3's code."""

    def __init__(self, deter: int, hidden: int, stoch: int, action: int, blocks: int):
        super().__init__()
        self.blocks = blocks
        self.from_deter = MLP(deter, hidden, 1)
        self.from_stoch = MLP(stoch, hidden, 1)
        self.from_action = MLP(action, hidden, 1)
        fan_in = deter + blocks * 3 * hidden
        self.recurrent = BlockLinear(deter, deter, blocks, fan_in)
        self.shared = nn.Parameter(init_weight_(torch.empty(3 * hidden, deter), fan_in))
        self.norm = NormSiLU(deter)
        self.gates = BlockLinear(deter, 3 * deter, blocks)

    def forward(
        self,
        deter: Float[Tensor, "batch deter"],
        stoch: Float[Tensor, "batch stoch"],
        action: Float[Tensor, "batch action"],
    ) -> Float[Tensor, "batch deter"]:
        """Next h."""
        inputs = torch.cat([self.from_deter(deter), self.from_stoch(stoch), self.from_action(action)], -1)
        x = self.norm(torch.addmm(self.recurrent(deter), inputs, self.shared))
        reset, candidate, update = self.gates(x).unflatten(-1, (self.blocks, 3, -1)).unbind(-2)
        candidate = torch.tanh(torch.sigmoid(reset) * candidate)
        old = deter.unflatten(-1, (self.blocks, -1))
        return torch.lerp(old, candidate, torch.sigmoid(update - 1)).flatten(1)


class GRU(RecurrentCell):
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

    def forward(
        self,
        deter: Float[Tensor, "batch deter"],
        stoch: Float[Tensor, "batch stoch"],
        action: Float[Tensor, "batch action"],
    ) -> Float[Tensor, "batch deter"]:
        """Next h."""
        x = self.norm(self.from_stoch(stoch) + self.from_action(action))
        with full_precision(deter.device.type):  # in bfloat16 a slow cell would stand still
            return self.gru(x.float(), deter)


def make_cell(name: CellName, deter: int, hidden: int, stoch: int, action: int, blocks: int) -> RecurrentCell:
    """Build the cell of that name; only the block GRU uses `blocks`."""
    if name == "block_gru":
        return BlockGRU(deter, hidden, stoch, action, blocks)
    return GRU(deter, hidden, stoch, action)
