"""Deterministic recurrent model: the RSSM with nothing sampled (PlaNet section 3 and figure 4, arXiv 1811.04551).

    recurrent    h_t = f(h_{t-1}, m_{t-1}, a_{t-1})
    prior        m_t = mu_prior(h_t)
    posterior    m_t = mu_posterior(h_t, e_t)

        h_{t-1}, m_{t-1} --+
                           +-- f --> h_t --+--> m_t = mu_prior(h_t)             imagine
                 a_{t-1} --+               |
                                           +--> m_t = mu_posterior(h_t, e_t)    observe
                          embedding  e_t --+

PlaNet's released code gives the divergence a scale of 0. Here the prior is trained towards the posterior, because
imagination uses it. The model predicts one future per action, so it averages over outcomes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dreamer.dynamics.cells import CellName, make_cell
from dreamer.dynamics.core import DynamicsCore, bound_action, stored_field
from dreamer.nn.layers import mlp_to
from dreamer.nn.struct import Struct
from envs.ranges import LayersOrNone, Many


@dataclass(frozen=True)
class RNNState(Struct):
    """State of the deterministic model."""

    deter: Float[Tensor, "*batch deter"] = stored_field()
    """Recurrent state h."""
    mean: Float[Tensor, "*batch stoch"] = stored_field()
    """m, in the place of the RSSM's sample."""


@dataclass(frozen=True)
class RNNConfig:
    """Deterministic recurrent model."""

    deter: Many = 512
    """Size of the recurrent state h."""
    hidden: Many = 64
    """Width of the input projections, the prior and the posterior."""
    stoch: Many = 32
    """Dimensions of m."""
    cell: CellName = "block_gru"
    """Recurrent cell: block_gru (V3) or gru (PlaNet, V1)."""
    blocks: Many = 8
    """Blocks of the block GRU; must divide deter."""
    prior_layers: LayersOrNone = 2
    """Hidden layers of the prior."""
    posterior_layers: LayersOrNone = 1
    """Hidden layers of the posterior."""


class RNN(DynamicsCore[RNNState]):
    """A purely deterministic path: h carries the history, m is a point estimate of the present."""

    differentiable = True

    def __init__(self, config: RNNConfig, embed_dim: int, action_dim: int):
        super().__init__()
        self.config = config
        deter, hidden = config.deter, config.hidden
        self.cell = make_cell(config.cell, deter, hidden, config.stoch, action_dim, config.blocks)
        self.prior_net = mlp_to(deter, hidden, config.prior_layers, config.stoch, exact=True)
        self.posterior_net = mlp_to(deter + embed_dim, hidden, config.posterior_layers, config.stoch, exact=True)
        self.feature_dim = deter + config.stoch

    def recurrent(self, state: RNNState, action: Float[Tensor, "batch action"]) -> Float[Tensor, "batch deter"]:
        """h_t = f(h_{t-1}, m_{t-1}, a_{t-1})."""
        return self.cell(state.deter, state.mean, bound_action(action))

    def prior(self, deter: Float[Tensor, "*batch deter"]) -> Float[Tensor, "*batch stoch"]:
        """mu_prior(h_t)."""
        return self.prior_net(deter)

    def posterior(
        self, deter: Float[Tensor, "*batch deter"], embed: Float[Tensor, "*batch embed"]
    ) -> Float[Tensor, "*batch stoch"]:
        """mu_posterior(h_t, e_t)."""
        return self.posterior_net(torch.cat([deter, embed], -1))

    def initial_state(self, batch_size: int) -> RNNState:
        """All zeros; nothing is learned."""
        zeros = next(self.parameters()).new_zeros
        return RNNState(zeros(batch_size, self.config.deter), zeros(batch_size, self.config.stoch))

    def observe_step(
        self, state: RNNState, prev_action: Float[Tensor, "batch action"], embed: Float[Tensor, "batch embed"]
    ) -> RNNState:
        """Advance h with the action, then set m to the posterior mean."""
        deter = self.recurrent(state, prev_action)
        return RNNState(deter, self.posterior(deter, embed))

    def imagine_step(self, state: RNNState, action: Float[Tensor, "batch action"]) -> RNNState:
        """Advance h with the action, then set m to the prior mean."""
        deter = self.recurrent(state, action)
        return RNNState(deter, self.prior(deter))

    @property
    def decoder_deter(self) -> int:
        """Size of h, which comes first in the features."""
        return self.config.deter

    def features(self, state: RNNState) -> Float[Tensor, "*batch feature"]:
        """[h, m]."""
        return torch.cat([state.deter, state.mean], -1)

    def loss(self, states: RNNState) -> tuple[dict[str, Float[Tensor, "batch time"]], dict[str, Float[Tensor, ""]]]:
        """Half squared distances: `dyn` moves the prior to the posterior, `rep` the posterior to the prior.

        They are the balanced KL of unit-variance Gaussians around the two means.
        """
        prior, posterior = self.prior(states.deter), states.mean
        dyn = 0.5 * (prior - posterior.detach()).float().square().sum(-1)
        rep = 0.5 * (prior.detach() - posterior).float().square().sum(-1)
        return {"dyn": dyn, "rep": rep}, {"model/prediction_error": dyn.detach().mean()}
