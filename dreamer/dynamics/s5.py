"""Diagonal linear state space layers in the place of the GRU (S5, arXiv 2208.04933; as a world model: S4WM, arXiv
2307.02064, and R2I, arXiv 2403.04253).

    posterior    z_t ~ q(z_t | e_t)                                no history
    input        u^0_t = W [z_{t-1}, a_{t-1}]
    layer l      x^l_t = A x^l_{t-1} + B norm(u^{l-1}_t)           x complex, A diagonal
                 y^l_t = gelu(Re(C x^l_t) + D norm(u^{l-1}_t))
                 u^l_t = u^{l-1}_t + y^l_t * sigmoid(G y^l_t)
    recurrent    h_t = norm(u^L_t)
    prior        z_t ~ p(z_t | h_t)

                 a_{t-1} --+
        x_{t-1}, z_{t-1} --+-- layers --> h_t --> z_t ~ p(z_t | h_t)     imagine
                 embedding  e_t ----------------> z_t ~ q(z_t | e_t)     observe

The memory x moves linearly: nothing saturates, and each mode forgets at a learned rate. Memory reaches latents only
through the prior, heads and policy, which read h. S4WM and R2I filter all steps of a sequence at once; here they run
step by step, as in every core.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dreamer.dynamics.core import DynamicsCore, bound_action, derived_field, stored_field
from dreamer.dynamics.latents import LatentName, balanced_kl, make_latent
from dreamer.nn.distributions import full_precision
from dreamer.nn.layers import Linear, RMSNorm, mlp_to
from dreamer.nn.struct import Struct
from envs.ranges import Deviation, Few, LayersOrNone, Many, NonNegative, Probability, Several

TIMESCALES = (1e-3, 1e-1)
"""Smallest and largest initial step size of a mode (S5, appendix B.1.3): it remembers 1 / (0.5 * step size) steps."""


@dataclass(frozen=True)
class S5State(Struct):
    """State of the S5 core."""

    memory: Float[Tensor, "*batch memory"] = stored_field()
    """States x of all layers, each its real parts, then its imaginary parts."""
    deter: Float[Tensor, "*batch deter"] = stored_field()
    """Output h of the last layer."""
    stoch: Float[Tensor, "*batch stoch"] = stored_field()
    """Latent z: a sample of q(z | e) after `observe_step`, of the prior after `imagine_step`."""
    params: Float[Tensor, "*batch param"] = derived_field()
    """Parameters of the distribution that z was drawn from."""


@dataclass(frozen=True)
class S5Config:
    """Diagonal linear state space layers."""

    deter: Many = 256
    """Width of the layers and of their output h."""
    modes: Several = 128
    """Complex states of each layer."""
    layers: Few = 2
    """State space layers."""
    hidden: Many = 64
    """Width of the prior and the posterior."""
    stoch: Many = 32
    """Categorical groups, or dimensions of a Gaussian z."""
    classes: Several = 4
    """Classes of each categorical group (categorical latent only)."""
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


class StateSpace(nn.Module):
    """One layer: a diagonal linear recurrence between a norm and a gate, with a residual connection.

    Mode n starts with the eigenvalue -1/2 + i pi n (S4D-Lin, arXiv 2206.11893) and a random step size. Its real part
    stays negative, so no mode grows. Complex numbers are pairs of real ones, which every device and compiler can take.
    """

    def __init__(self, width: int, modes: int):
        super().__init__()
        self.norm = RMSNorm(width)
        self.log_decay = nn.Parameter(torch.full((modes,), math.log(0.5)))
        self.frequency = nn.Parameter(math.pi * torch.arange(modes).float())
        least, most = (math.log(bound) for bound in TIMESCALES)
        self.log_step = nn.Parameter(torch.empty(modes).uniform_(least, most))
        self.drive = Linear(width, 2 * modes, scale=math.sqrt(0.5), bias=False)
        self.read = Linear(2 * modes, width, bias=False)
        self.through = nn.Parameter(torch.randn(width))
        self.gate = Linear(width, width)

    def transition(self) -> tuple[Float[Tensor, "2 mode"], Float[Tensor, "2 mode"]]:
        """A and the factor of B, as real and imaginary parts: a zero-order hold of the continuous system.

        A = exp(lambda dt) and B = (A - 1) / lambda, with lambda = -exp(log_decay) + i frequency.
        """
        decay, step = self.log_decay.exp(), self.log_step.exp()
        size, angle = torch.exp(-decay * step), self.frequency * step
        real, imag = size * angle.cos(), size * angle.sin()
        square = decay.square() + self.frequency.square()
        factor_real = ((1 - real) * decay + imag * self.frequency) / square
        factor_imag = ((1 - real) * self.frequency - imag * decay) / square
        return torch.stack([real, imag]), torch.stack([factor_real, factor_imag])

    def forward(
        self, u: Float[Tensor, "batch width"], memory: Float[Tensor, "batch memory"]
    ) -> tuple[Float[Tensor, "batch width"], Float[Tensor, "batch memory"]]:
        """The output and the next memory. Both are in float32: in bfloat16 a slow mode would stand still."""
        with full_precision(u.device.type):
            u = u.float()
            normed = self.norm(u)
            (decay, turn), (scale, tilt) = self.transition()
            (real, imag), (drive, shift) = memory.chunk(2, -1), self.drive(normed).chunk(2, -1)
            memory = torch.cat(
                [
                    decay * real - turn * imag + scale * drive - tilt * shift,
                    decay * imag + turn * real + scale * shift + tilt * drive,
                ],
                -1,
            )
            out = F.gelu(self.read(memory) + self.through * normed)
            return u + out * torch.sigmoid(self.gate(out)), memory


class S5(DynamicsCore[S5State]):
    """World model whose deterministic path is a stack of linear recurrences."""

    def __init__(self, config: S5Config, latent: LatentName, embed_dim: int, action_dim: int):
        super().__init__()
        self.config = config
        self.latent = make_latent(latent, config.stoch, config.classes, config.unimix, config.min_std)
        self.differentiable = latent == "gaussian"
        self.input = Linear(self.latent.dim + action_dim, config.deter)
        self.layers = nn.ModuleList(StateSpace(config.deter, config.modes) for _ in range(config.layers))
        self.norm = RMSNorm(config.deter)
        params, exact = self.latent.num_params, self.latent.exact
        self.prior_net = mlp_to(config.deter, config.hidden, config.prior_layers, params, exact)
        self.posterior_net = mlp_to(embed_dim, config.hidden, config.posterior_layers, params, exact)
        self.feature_dim = config.deter + self.latent.dim

    def recurrent(
        self, state: S5State, action: Float[Tensor, "batch action"]
    ) -> tuple[Float[Tensor, "batch memory"], Float[Tensor, "batch deter"]]:
        """x_t and h_t from x_{t-1}, z_{t-1} and a_{t-1}."""
        u = self.input(torch.cat([state.stoch, bound_action(action)], -1))
        memories = []
        for layer, memory in zip(self.layers, state.memory.chunk(self.config.layers, -1), strict=True):
            u, memory = layer(u, memory)
            memories.append(memory)
        return torch.cat(memories, -1), self.norm(u)

    def prior(self, deter: Float[Tensor, "*batch deter"]) -> Float[Tensor, "*batch param"]:
        """Parameters of p(z_t | h_t)."""
        return self.prior_net(deter)

    def posterior(self, embed: Float[Tensor, "*batch embed"]) -> Float[Tensor, "*batch param"]:
        """Parameters of q(z_t | e_t)."""
        return self.posterior_net(embed)

    def initial_state(self, batch_size: int) -> S5State:
        """All zeros; nothing is learned."""
        zeros, config = next(self.parameters()).new_zeros, self.config
        sizes = (2 * config.modes * config.layers, config.deter, self.latent.dim, self.latent.num_params)
        return S5State(*(zeros(batch_size, size) for size in sizes))

    def observe_step(
        self, state: S5State, prev_action: Float[Tensor, "batch action"], embed: Float[Tensor, "batch embed"]
    ) -> S5State:
        """Advance x with the action, then draw z from the observation alone."""
        params = self.posterior(embed)
        return S5State(*self.recurrent(state, prev_action), self.latent.sample(params), params)

    def imagine_step(self, state: S5State, action: Float[Tensor, "batch action"]) -> S5State:
        """Advance x with the action, then draw z from the prior."""
        memory, deter = self.recurrent(state, action)
        params = self.prior(deter)
        return S5State(memory, deter, self.latent.sample(params), params)

    def features(self, state: S5State) -> Float[Tensor, "*batch feature"]:
        """[h, z]."""
        return torch.cat([state.deter, state.stoch], -1)

    @property
    def decoder_deter(self) -> int:
        """Size of h."""
        return self.config.deter

    def loss(self, states: S5State) -> tuple[dict[str, Float[Tensor, "batch time"]], dict[str, Float[Tensor, ""]]]:
        """Balanced KL between posterior and prior, as in the RSSM."""
        return balanced_kl(self.latent, states.params, self.prior(states.deter), self.config.free_nats)
