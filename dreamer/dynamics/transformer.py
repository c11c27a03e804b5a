"""Causal transformer over past latents and actions in the place of the GRU (TransDreamer, arXiv 2202.09481; STORM,
arXiv 2310.09615).

    posterior    z_t ~ q(z_t | e_t)                                      no history
    input        u^0_t = W [z_{t-1}, a_{t-1}]
    layer l      q, k, v = norm(u^{l-1}_t)
                 u_t     = u^{l-1}_t + attention of q over the last W keys and values of the layer, this step's included
                 u^l_t   = u_t + mlp(norm(u_t))
    recurrent    h_t = norm(u^L_t)
    prior        z_t ~ p(z_t | h_t)

                 a_{t-1} --+
        keys and values,   |
              z_{t-1} -----+-- layers --> h_t --> z_t ~ p(z_t | h_t)     imagine
                 embedding  e_t ----------------> z_t ~ q(z_t | e_t)     observe

The state is the window of keys and values, which replay stores. A step costs the same at every age of an episode.
Positions are relative: each key gets a learned vector for its distance from the present (arXiv 1803.02155). Layer l
sees l (W - 1) steps back, because its keys already contain what the layer below saw.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dreamer.dynamics.core import DynamicsCore, bound_action, derived_field, stored_field
from dreamer.dynamics.latents import LatentName, balanced_kl, make_latent
from dreamer.nn.layers import Linear, RMSNorm, init_weight_, mlp_to
from dreamer.nn.struct import Struct
from envs.ranges import Deviation, Few, LayersOrNone, Many, NonNegative, Probability, Several


@dataclass(frozen=True)
class TransformerState(Struct):
    """State of the transformer core."""

    memory: Float[Tensor, "*batch memory"] = stored_field()
    """Keys and values `[layer, window, 2 * width]` of the last steps, flattened, the newest last."""
    age: Float[Tensor, "*batch 1"] = stored_field()
    """Number of steps in the window."""
    deter: Float[Tensor, "*batch deter"] = stored_field()
    """Output h of the last layer."""
    stoch: Float[Tensor, "*batch stoch"] = stored_field()
    """Latent z: a sample of q(z | e) after `observe_step`, of the prior after `imagine_step`."""
    params: Float[Tensor, "*batch param"] = derived_field()
    """Parameters of the distribution that z was drawn from."""


@dataclass(frozen=True)
class TransformerConfig:
    """Causal transformer over a window of past steps."""

    hidden: Many = 64
    """Width of the layers, of their output h, and of prior and posterior."""
    layers: Few = 2
    """Transformer layers."""
    heads: Few = 4
    """Heads of each layer; a head has hidden / heads dimensions, rounded down."""
    window: Many = 16
    """Steps that a layer attends to, the present one included; at most the length of a training sequence."""
    stoch: Many = 32
    """Categorical groups, or dimensions of a Gaussian z."""
    classes: Several = 4
    """Classes of each categorical group (categorical latent only)."""
    prior_layers: LayersOrNone = 1
    """Hidden layers of the prior."""
    posterior_layers: LayersOrNone = 1
    """Hidden layers of the posterior."""
    unimix: Probability = 0.01
    """Weight of the uniform distribution mixed into categorical latents."""
    min_std: Deviation = 0.1
    """Smallest standard deviation of a Gaussian latent."""
    free_nats: NonNegative = 1.0
    """KL in nats below which a step gives no gradient."""


class TransformerLayer(nn.Module):
    """Attention over a window, then an MLP; norms come first, and both have residual connections."""

    def __init__(self, width: int, heads: int, window: int):
        super().__init__()
        self.num_heads, self.window = heads, window
        self.inner = heads * max(width // heads, 1)
        self.norm = RMSNorm(width)
        self.project = Linear(width, 3 * self.inner, bias=False)
        self.distance = nn.Parameter(init_weight_(torch.empty(window, self.inner), self.inner))
        self.merge = Linear(self.inner, width)
        self.mlp_norm = RMSNorm(width)
        self.mlp = nn.Sequential(Linear(width, 4 * width), nn.SiLU(), Linear(4 * width, width))

    def attend(
        self,
        query: Float[Tensor, "batch inner"],
        keys: Float[Tensor, "batch window inner"],
        values: Float[Tensor, "batch window inner"],
        age: Float[Tensor, "batch 1"],
    ) -> Float[Tensor, "batch inner"]:
        """softmax(q (k_j + d_j) / sqrt(head size)) v_j over the last `age` places j of the window, in every head.

        The newest place always counts, so a stored age that is wrong makes no number infinite.
        """
        query = query.unflatten(-1, (self.num_heads, -1))
        keys = (keys + self.distance).unflatten(-1, (self.num_heads, -1))
        scores = (query.unsqueeze(1) * keys).sum(-1) * keys.shape[-1] ** -0.5
        places = torch.arange(self.window, 0, -1, device=query.device)
        scores = scores.masked_fill((places > age.clamp(min=1)).unsqueeze(-1), -torch.inf)
        weights = torch.softmax(scores.float(), 1)
        return (weights.unsqueeze(-1) * values.unflatten(-1, (self.num_heads, -1))).sum(1).flatten(1)

    def forward(
        self, u: Float[Tensor, "batch width"], memory: Float[Tensor, "batch memory"], age: Float[Tensor, "batch 1"]
    ) -> tuple[Float[Tensor, "batch width"], Float[Tensor, "batch memory"]]:
        """The output, and the window with this step in the place of the oldest one. `age` counts this step."""
        query, new = self.project(self.norm(u)).split([self.inner, 2 * self.inner], -1)
        memory = torch.cat([memory[:, 2 * self.inner :], new], -1)
        keys, values = memory.unflatten(-1, (self.window, -1)).chunk(2, -1)
        u = u + self.merge(self.attend(query, keys, values, age))
        return u + self.mlp(self.mlp_norm(u)), memory


class Transformer(DynamicsCore[TransformerState]):
    """World model whose deterministic path attends to a window of its own past."""

    def __init__(self, config: TransformerConfig, latent: LatentName, embed_dim: int, action_dim: int):
        super().__init__()
        self.config = config
        self.latent = make_latent(latent, config.stoch, config.classes, config.unimix, config.min_std)
        self.differentiable = latent == "gaussian"
        width = config.hidden
        self.input = Linear(self.latent.dim + action_dim, width)
        layers = [TransformerLayer(width, config.heads, config.window) for _ in range(config.layers)]
        self.layers, self.norm = nn.ModuleList(layers), RMSNorm(width)
        self.memory_dim = config.layers * config.window * 2 * layers[0].inner
        params, exact = self.latent.num_params, self.latent.exact
        self.prior_net = mlp_to(width, width, config.prior_layers, params, exact)
        self.posterior_net = mlp_to(embed_dim, width, config.posterior_layers, params, exact)
        self.feature_dim = width + self.latent.dim

    def recurrent(
        self, state: TransformerState, action: Float[Tensor, "batch action"]
    ) -> tuple[Float[Tensor, "batch memory"], Float[Tensor, "batch 1"], Float[Tensor, "batch deter"]]:
        """The window, its age and h_t, from the window before, z_{t-1} and a_{t-1}."""
        u = self.input(torch.cat([state.stoch, bound_action(action)], -1))
        age = (state.age + 1).clamp(max=self.config.window)
        memories = []
        for layer, memory in zip(self.layers, state.memory.chunk(self.config.layers, -1), strict=True):
            u, memory = layer(u, memory, age)
            memories.append(memory)
        return torch.cat(memories, -1), age, self.norm(u).float()

    def prior(self, deter: Float[Tensor, "*batch deter"]) -> Float[Tensor, "*batch param"]:
        """Parameters of p(z_t | h_t)."""
        return self.prior_net(deter)

    def posterior(self, embed: Float[Tensor, "*batch embed"]) -> Float[Tensor, "*batch param"]:
        """Parameters of q(z_t | e_t)."""
        return self.posterior_net(embed)

    def initial_state(self, batch_size: int) -> TransformerState:
        """All zeros; nothing is learned."""
        zeros = next(self.parameters()).new_zeros
        sizes = (self.memory_dim, 1, self.config.hidden, self.latent.dim, self.latent.num_params)
        return TransformerState(*(zeros(batch_size, size) for size in sizes))

    def observe_step(
        self, state: TransformerState, prev_action: Float[Tensor, "batch action"], embed: Float[Tensor, "batch embed"]
    ) -> TransformerState:
        """Advance the window with the action, then draw z from the observation alone."""
        params = self.posterior(embed)
        return TransformerState(*self.recurrent(state, prev_action), self.latent.sample(params), params)

    def imagine_step(self, state: TransformerState, action: Float[Tensor, "batch action"]) -> TransformerState:
        """Advance the window with the action, then draw z from the prior."""
        memory, age, deter = self.recurrent(state, action)
        params = self.prior(deter)
        return TransformerState(memory, age, deter, self.latent.sample(params), params)

    def features(self, state: TransformerState) -> Float[Tensor, "*batch feature"]:
        """[h, z]."""
        return torch.cat([state.deter, state.stoch], -1)

    def loss(
        self, states: TransformerState
    ) -> tuple[dict[str, Float[Tensor, "batch time"]], dict[str, Float[Tensor, ""]]]:
        """Balanced KL between posterior and prior, as in the RSSM."""
        return balanced_kl(self.latent, states.params, self.prior(states.deter), self.config.free_nats)
