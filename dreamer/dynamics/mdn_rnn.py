"""MDN-RNN: an LSTM that predicts the next latent as a mixture of Gaussians (World Models, arXiv 1803.10122, section
2.3).

    vision       z_t ~ q(z_t | e_t)                                    no history
    memory       h_t, c_t = LSTM(h_{t-1}, c_{t-1}, z_{t-1}, a_{t-1})
    prediction   z_t ~ sum_k pi_k(h_t) N(mu_k(h_t), sigma_k(h_t)^2)    at temperature tau

                 a_{t-1} --+
        h_{t-1}, z_{t-1} --+-- LSTM --> h_t --> z_t ~ mixture(h_t)     imagine
                 embedding  e_t -------------> z_t ~ q(z_t | e_t)      observe

`gru` is this core with one component and no variance. `rssm` is this core with a posterior that also reads h.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dreamer.dynamics.core import bound_action, derived_field, stored_field
from dreamer.dynamics.mixtures import GaussianMixture
from dreamer.dynamics.vision import VisionCore
from dreamer.nn.distributions import full_precision
from dreamer.nn.layers import ExactLinear
from dreamer.nn.struct import Struct
from envs.ranges import CountOrNone, Deviation, Few, Many


@dataclass(frozen=True)
class MDNRNNState(Struct):
    """State of the MDN-RNN."""

    deter: Float[Tensor, "*batch deter"] = stored_field()
    """Output h of the LSTM."""
    cell: Float[Tensor, "*batch deter"] = stored_field()
    """Cell c of the LSTM."""
    stoch: Float[Tensor, "*batch stoch"] = stored_field()
    """Latent z: a sample of q(z | e) after `observe_step`, of the mixture after `imagine_step`."""
    params: Float[Tensor, "*batch param"] = derived_field()
    """Parameters of q(z | e); zeros after `imagine_step`, where there is none."""


@dataclass(frozen=True)
class MDNRNNConfig:
    """LSTM with a mixture density output over a VAE's latent."""

    deter: Many = 256
    """Size of the LSTM."""
    stoch: Many = 32
    """Dimensions of the latent z."""
    components: Few = 5
    """Components K of the mixture."""
    mixture: Literal["joint", "per_dimension"] = "joint"
    """joint: one set of mixture weights per latent; per_dimension: independent weights for every dimension."""
    temperature: Deviation = 1.0
    """Temperature tau of imagination: mixture logits are multiplied by 1/tau, noise by sqrt(tau)."""
    min_std: Deviation = 0.01
    """Smallest standard deviation of q(z | e) and of a component."""
    vision_updates: CountOrNone = 0
    """Staged training: updates that train vision alone before it is frozen; 0 trains everything together."""


class MDNRNN(VisionCore[MDNRNNState]):
    """A VAE encodes single observations; an LSTM predicts the distribution of the next latent."""

    def __init__(self, config: MDNRNNConfig, embed_dim: int, action_dim: int):
        super().__init__(embed_dim, config.stoch, config.min_std, config.vision_updates)
        self.config = config
        self.lstm = nn.LSTMCell(config.stoch + action_dim, config.deter)
        with torch.no_grad():
            self.lstm.bias_ih[config.deter : 2 * config.deter] = 1.0  # an open forget gate, as in the authors' code
        self.mixture = GaussianMixture(config.stoch, config.components, config.mixture == "joint", config.min_std)
        self.predict = ExactLinear(config.deter, self.mixture.num_params)
        self.feature_dim = config.deter + config.stoch

    def recurrent(
        self, state: MDNRNNState, action: Float[Tensor, "batch action"]
    ) -> tuple[Float[Tensor, "batch deter"], Float[Tensor, "batch deter"]]:
        """h_t, c_t = LSTM(h_{t-1}, c_{t-1}, z_{t-1}, a_{t-1})."""
        inputs = torch.cat([state.stoch, bound_action(action)], -1)
        with full_precision(inputs.device.type):  # in bfloat16 a slow cell would stand still
            return self.lstm(inputs, (state.deter, state.cell))

    def initial_state(self, batch_size: int) -> MDNRNNState:
        """All zeros; nothing is learned."""
        zeros = next(self.parameters()).new_zeros
        sizes = (self.config.deter, self.config.deter, self.latent.dim, self.latent.num_params)
        return MDNRNNState(*(zeros(batch_size, size) for size in sizes))

    def observe_step(
        self, state: MDNRNNState, prev_action: Float[Tensor, "batch action"], embed: Float[Tensor, "batch embed"]
    ) -> MDNRNNState:
        """Advance the LSTM with the action, then draw z from the observation alone."""
        params = self.encode(embed)
        return MDNRNNState(*self.recurrent(state, prev_action), self.latent.sample(params), params)

    def imagine_step(self, state: MDNRNNState, action: Float[Tensor, "batch action"]) -> MDNRNNState:
        """Advance the LSTM with the action, then draw z from the mixture at the configured temperature."""
        deter, cell = self.recurrent(state, action)
        stoch = self.mixture.sample(self.predict(deter), self.config.temperature)
        return MDNRNNState(deter, cell, stoch, torch.zeros_like(state.params))

    def features(self, state: MDNRNNState) -> Float[Tensor, "*batch feature"]:
        """[h, z], the input of World Models' controller."""
        return torch.cat([state.deter, state.stoch], -1)

    def decoder_input(self, state: MDNRNNState, features: Float[Tensor, "*batch feature"]) -> Float[Tensor, "*batch _"]:
        """z alone: vision decodes its own latent."""
        return state.stoch

    def loss(self, states: MDNRNNState) -> tuple[dict[str, Float[Tensor, "batch time"]], dict[str, Float[Tensor, ""]]]:
        """`dyn`: negative log-density of the latent under the mixture, in nats; `rep`: the VAE's KL."""
        params = self.predict(states.deter)
        dyn = -self.mixture.log_prob(params, states.stoch.detach())
        rep = self.vision_loss(states.params)
        metrics = {
            "model/mixture_nll": dyn.detach().mean(),
            "model/mixture_entropy": self.mixture.weight_entropy(params.detach()).mean(),
            "model/vision_kl": rep.detach().mean(),
        }
        return {"dyn": dyn, "rep": rep}, metrics
