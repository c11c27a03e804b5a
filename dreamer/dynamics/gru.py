"""GRU core: z_{t+1} = GRU(z_t, a_t), a point prediction of a VAE's latent (World Models, arXiv 1803.10122,
without its mixture).

    vision       z_t ~ q(z_t | e_t)                      no history
    memory       h_t = GRU(h_{t-1}, z_{t-1}, a_{t-1})
    prediction   z_t = W h_t                             a point

                 a_{t-1} --+
        h_{t-1}, z_{t-1} --+-- GRU --> h_t --> z_t = W h_t            imagine
                 embedding  e_t ------------> z_t ~ q(z_t | e_t)      observe

It is `mdn_rnn` with one component and no variance.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dreamer.dynamics.cells import CellName, make_cell
from dreamer.dynamics.core import bound_action, derived_field, stored_field
from dreamer.dynamics.vision import VisionCore
from dreamer.nn.layers import ExactLinear
from dreamer.nn.struct import Struct
from envs.ranges import CountOrNone, Deviation, Many


@dataclass(frozen=True)
class GRUState(Struct):
    """State of the GRU core."""

    deter: Float[Tensor, "*batch deter"] = stored_field()
    """Memory h."""
    stoch: Float[Tensor, "*batch stoch"] = stored_field()
    """Latent z: a sample of q(z | e) after `observe_step`, W h after `imagine_step`."""
    params: Float[Tensor, "*batch param"] = derived_field()
    """Parameters of q(z | e); zeros after `imagine_step`, where there is none."""


@dataclass(frozen=True)
class GRUConfig:
    """GRU with a point prediction of a VAE's latent."""

    deter: Many = 512
    """Size of the memory h."""
    hidden: Many = 64
    """Width of the cell's input projection."""
    stoch: Many = 32
    """Dimensions of the latent z."""
    cell: CellName = "gru"
    """Recurrent cell: gru, or block_gru (V3)."""
    blocks: Many = 8
    """Blocks of the block GRU; must divide deter."""
    min_std: Deviation = 0.01
    """Smallest standard deviation of q(z | e)."""
    vision_updates: CountOrNone = 0
    """Staged training: updates that train vision alone before it is frozen; 0 trains everything together."""


class GRUCore(VisionCore[GRUState]):
    """A VAE encodes single observations; a GRU predicts the next latent as a point."""

    differentiable = True

    def __init__(self, config: GRUConfig, embed_dim: int, action_dim: int):
        super().__init__(embed_dim, config.stoch, config.min_std, config.vision_updates)
        self.config = config
        self.cell = make_cell(config.cell, config.deter, config.hidden, config.stoch, action_dim, config.blocks)
        self.predict = ExactLinear(config.deter, config.stoch)
        self.feature_dim = config.deter + config.stoch

    def recurrent(self, state: GRUState, action: Float[Tensor, "batch action"]) -> Float[Tensor, "batch deter"]:
        """h_t = GRU(h_{t-1}, z_{t-1}, a_{t-1})."""
        return self.cell(state.deter, state.stoch, bound_action(action))

    def initial_state(self, batch_size: int) -> GRUState:
        """All zeros; nothing is learned."""
        zeros = next(self.parameters()).new_zeros
        sizes = (self.config.deter, self.latent.dim, self.latent.num_params)
        return GRUState(*(zeros(batch_size, size) for size in sizes))

    def observe_step(
        self, state: GRUState, prev_action: Float[Tensor, "batch action"], embed: Float[Tensor, "batch embed"]
    ) -> GRUState:
        """Advance h with the action, then draw z from the observation alone."""
        params = self.encode(embed)
        return GRUState(self.recurrent(state, prev_action), self.latent.sample(params), params)

    def imagine_step(self, state: GRUState, action: Float[Tensor, "batch action"]) -> GRUState:
        """Advance h with the action, then set z to W h."""
        deter = self.recurrent(state, action)
        return GRUState(deter, self.predict(deter), torch.zeros_like(state.params))

    def features(self, state: GRUState) -> Float[Tensor, "*batch feature"]:
        """[h, z]."""
        return torch.cat([state.deter, state.stoch], -1)

    def decoder_input(self, state: GRUState, features: Float[Tensor, "*batch feature"]) -> Float[Tensor, "*batch _"]:
        """z alone: vision decodes its own latent."""
        return state.stoch

    def loss(self, states: GRUState) -> tuple[dict[str, Float[Tensor, "batch time"]], dict[str, Float[Tensor, ""]]]:
        """`dyn`: half squared distance of W h to the latent; `rep`: the VAE's KL."""
        error = self.predict(states.deter) - states.stoch.detach()
        dyn = 0.5 * error.float().square().sum(-1)
        rep = self.vision_loss(states.params)
        metrics = {"model/prediction_error": dyn.detach().mean(), "model/vision_kl": rep.detach().mean()}
        return {"dyn": dyn, "rep": rep}, metrics
