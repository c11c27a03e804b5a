"""State-space model: the RSSM's stochastic path alone (PlaNet section 3 and figure 4, arXiv 1811.04551).

    prior        z_t ~ p(z_t | z_{t-1}, a_{t-1})
    posterior    z_t ~ q(z_t | prior_t, e_t)

        z_{t-1}, a_{t-1} -----> prior p(z_t | z_{t-1}, a_{t-1})                     imagine
                                      |
                     embedding e_t ---+--> posterior q(z_t | prior_t, e_t)          observe

All memory must pass through a sample at every step. The posterior reads the prior's mean and standard deviation, or its
class probabilities.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dreamer.dynamics.core import DynamicsCore, bound_action, derived_field, stored_field
from dreamer.dynamics.latents import LatentName, balanced_kl, make_latent
from dreamer.nn.layers import mlp_to
from dreamer.nn.struct import Struct
from envs.ranges import Deviation, LayersOrNone, Many, NonNegative, Probability, Several


@dataclass(frozen=True)
class SSMState(Struct):
    """State of the SSM."""

    stoch: Float[Tensor, "*batch stoch"] = stored_field()
    """Stochastic state z."""
    params: Float[Tensor, "*batch param"] = derived_field()
    """Parameters of the distribution z was drawn from (the posterior's after `observe_step`)."""
    prior: Float[Tensor, "*batch param"] = derived_field()
    """Parameters of the prior of the same step."""


@dataclass(frozen=True)
class SSMConfig:
    """State-space model: a stochastic path alone."""

    hidden: Many = 64
    """Width of the transition and the posterior."""
    stoch: Many = 32
    """Categorical groups, or dimensions of a Gaussian z."""
    classes: Several = 4
    """Classes of each categorical group (categorical latent only)."""
    prior_layers: LayersOrNone = 2
    """Hidden layers of the transition."""
    posterior_layers: LayersOrNone = 1
    """Hidden layers of the posterior."""
    unimix: Probability = 0.01
    """Weight of the uniform distribution mixed into categorical latents."""
    min_std: Deviation = 0.1
    """Smallest standard deviation of a Gaussian latent."""
    free_nats: NonNegative = 1.0
    """KL in nats below which a step gives no gradient."""


class SSM(DynamicsCore[SSMState]):
    """A purely stochastic path: memory survives only in the sample."""

    def __init__(self, config: SSMConfig, latent: LatentName, embed_dim: int, action_dim: int):
        super().__init__()
        self.config = config
        self.latent = make_latent(latent, config.stoch, config.classes, config.unimix, config.min_std)
        self.differentiable = latent == "gaussian"
        params = self.latent.num_params
        self.prior_net = mlp_to(
            self.latent.dim + action_dim, config.hidden, config.prior_layers, params, self.latent.exact
        )
        self.posterior_net = mlp_to(
            params + embed_dim, config.hidden, config.posterior_layers, params, self.latent.exact
        )
        self.feature_dim = self.latent.dim

    def prior(
        self, stoch: Float[Tensor, "*batch stoch"], action: Float[Tensor, "*batch action"]
    ) -> Float[Tensor, "*batch param"]:
        """Parameters of p(z_t | z_{t-1}, a_{t-1})."""
        return self.prior_net(torch.cat([stoch, bound_action(action)], -1))

    def posterior(
        self, prior: Float[Tensor, "*batch param"], embed: Float[Tensor, "*batch embed"]
    ) -> Float[Tensor, "*batch param"]:
        """Parameters of q(z_t | prior_t, e_t)."""
        return self.posterior_net(torch.cat([self.latent.describe(prior), embed], -1))

    def initial_state(self, batch_size: int) -> SSMState:
        """All zeros; nothing is learned."""
        zeros = next(self.parameters()).new_zeros
        params = zeros(batch_size, self.latent.num_params)
        return SSMState(zeros(batch_size, self.latent.dim), params, params)

    def observe_step(
        self, state: SSMState, prev_action: Float[Tensor, "batch action"], embed: Float[Tensor, "batch embed"]
    ) -> SSMState:
        """Predict z with the action, then draw it from the posterior."""
        prior = self.prior(state.stoch, prev_action)
        params = self.posterior(prior, embed)
        return SSMState(self.latent.sample(params), params, prior)

    def imagine_step(self, state: SSMState, action: Float[Tensor, "batch action"]) -> SSMState:
        """Draw z from the prior."""
        prior = self.prior(state.stoch, action)
        return SSMState(self.latent.sample(prior), prior, prior)

    def features(self, state: SSMState) -> Float[Tensor, "*batch feature"]:
        """z."""
        return state.stoch

    def loss(self, states: SSMState) -> tuple[dict[str, Float[Tensor, "batch time"]], dict[str, Float[Tensor, ""]]]:
        """Balanced KL between posterior and prior, as the RSSM's."""
        return balanced_kl(self.latent, states.params, states.prior, self.config.free_nats)
