"""Recurrent state-space model (PlaNet eq. 2, arXiv 1811.04551; Dreamer V3, "World model learning", arXiv 2301.04104).

    recurrent    h_t = f(h_{t-1}, z_{t-1}, a_{t-1})
    prior        z_t ~ p(z_t | h_t)
    posterior    z_t ~ q(z_t | h_t, e_t)

        h_{t-1}, z_{t-1} --+
                           +-- f --> h_t --+--> prior      p(z_t | h_t)         imagine
                 a_{t-1} --+               |
                                           +--> posterior  q(z_t | h_t, e_t)    observe
                          embedding  e_t --+

f (`cells.py`) is the block GRU of V3 or the GRU of PlaNet and V1. z (`latents.py`) is categorical (V2, V3) or Gaussian
(PlaNet, V1).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dreamer.dynamics.cells import CellName, make_cell
from dreamer.dynamics.core import DynamicsCore, bound_action, derived_field, stored_field
from dreamer.dynamics.latents import LatentName, balanced_kl, make_latent
from dreamer.nn.layers import mlp_to
from dreamer.nn.struct import Struct
from envs.ranges import Deviation, LayersOrNone, Many, NonNegative, Probability, Several


@dataclass(frozen=True)
class RSSMState(Struct):
    """State of the RSSM."""

    deter: Float[Tensor, "*batch deter"] = stored_field()
    """Deterministic state h."""
    stoch: Float[Tensor, "*batch stoch"] = stored_field()
    """Stochastic state z: one-hot groups side by side, or a Gaussian sample."""
    params: Float[Tensor, "*batch param"] = derived_field()
    """Parameters of the distribution z was drawn from (the posterior's after `observe_step`)."""


@dataclass(frozen=True)
class RSSMConfig:
    """Recurrent state-space model."""

    deter: Many = 512
    """Size of the deterministic state h."""
    hidden: Many = 64
    """Width of the input projections, the prior and the posterior."""
    stoch: Many = 32
    """Categorical groups, or dimensions of a Gaussian z."""
    classes: Several = 4
    """Classes of each categorical group (categorical latent only)."""
    cell: CellName = "block_gru"
    """Recurrent cell: block_gru (V3) or gru (PlaNet, V1)."""
    blocks: Many = 8
    """Blocks of the block GRU; must divide deter."""
    prior_layers: LayersOrNone = 2
    """Hidden layers of the prior."""
    posterior_layers: LayersOrNone = 1
    """Hidden layers of the posterior."""
    unimix: Probability = 0.01
    """Weight of the uniform distribution mixed into categorical latents."""
    min_std: Deviation = 0.1
    """Smallest standard deviation of a Gaussian latent."""
    free_nats: NonNegative = 1.0
    """KL in nats below which a step gives no gradient."""


class RSSM(DynamicsCore[RSSMState]):
    """Core with a deterministic and a stochastic path.

    h summarizes the history. z represents the part of the observation that h does not determine.
    """

    def __init__(self, config: RSSMConfig, latent: LatentName, embed_dim: int, action_dim: int):
        super().__init__()
        self.config = config
        self.latent = make_latent(latent, config.stoch, config.classes, config.unimix, config.min_std)
        self.differentiable = latent == "gaussian"
        deter, hidden, params = config.deter, config.hidden, self.latent.num_params
        self.cell = make_cell(config.cell, deter, hidden, self.latent.dim, action_dim, config.blocks)
        self.prior_net = mlp_to(deter, hidden, config.prior_layers, params, self.latent.exact)
        self.posterior_net = mlp_to(deter + embed_dim, hidden, config.posterior_layers, params, self.latent.exact)
        self.feature_dim = config.deter + self.latent.dim

    def recurrent(self, state: RSSMState, action: Float[Tensor, "batch action"]) -> Float[Tensor, "batch deter"]:
        """h_t = f(h_{t-1}, z_{t-1}, a_{t-1})."""
        return self.cell(state.deter, state.stoch, bound_action(action))

    def prior(self, deter: Float[Tensor, "*batch deter"]) -> Float[Tensor, "*batch param"]:
        """Parameters of p(z_t | h_t)."""
        return self.prior_net(deter)

    def posterior(
        self, deter: Float[Tensor, "*batch deter"], embed: Float[Tensor, "*batch embed"]
    ) -> Float[Tensor, "*batch param"]:
        """Parameters of q(z_t | h_t, e_t)."""
        return self.posterior_net(torch.cat([deter, embed], -1))

    def initial_state(self, batch_size: int) -> RSSMState:
        """All zeros; nothing is learned."""
        zeros = next(self.parameters()).new_zeros
        return RSSMState(
            zeros(batch_size, self.config.deter),
            zeros(batch_size, self.latent.dim),
            zeros(batch_size, self.latent.num_params),
        )

    def observe_step(
        self, state: RSSMState, prev_action: Float[Tensor, "batch action"], embed: Float[Tensor, "batch embed"]
    ) -> RSSMState:
        """Advance h with the action, then draw z from the posterior."""
        deter = self.recurrent(state, prev_action)
        params = self.posterior(deter, embed)
        return RSSMState(deter, self.latent.sample(params), params)

    def imagine_step(self, state: RSSMState, action: Float[Tensor, "batch action"]) -> RSSMState:
        """Advance h with the action, then draw z from the prior."""
        deter = self.recurrent(state, action)
        params = self.prior(deter)
        return RSSMState(deter, self.latent.sample(params), params)

    @property
    def decoder_deter(self) -> int:
        """Size of h, which comes first in the features."""
        return self.config.deter

    def features(self, state: RSSMState) -> Float[Tensor, "*batch feature"]:
        """[h, z]."""
        return torch.cat([state.deter, state.stoch], -1)

    def loss(self, states: RSSMState) -> tuple[dict[str, Float[Tensor, "batch time"]], dict[str, Float[Tensor, ""]]]:
        """Balanced KL between posterior and prior. The priors of all steps are computed here, in one call."""
        return balanced_kl(self.latent, states.params, self.prior(states.deter), self.config.free_nats)
