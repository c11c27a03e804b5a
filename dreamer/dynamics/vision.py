"""Base of `gru` and `mdn_rnn`: World Models' division into vision and memory (Ha and Schmidhuber 2018).

    vision     z_t ~ q(z_t | e_t)            a VAE of single observations: KL to N(0, I), decoded from z alone
    memory     h_t = f(h_{t-1}, z_{t-1}, a_{t-1})
    predict    z_t from h_t                  each core's own

               a_{t-1} --+
        h_{t-1}, z_{t-1} +-- f --> h_t ------------> predicted z_t       imagine
                 embedding  e_t -------------------> z_t ~ q(z_t | e_t)  observe

The latent z does not depend on the past. h does; heads and policy read both.
"""

from __future__ import annotations

from typing import TypeVar

from jaxtyping import Float
from torch import Tensor, nn

from dreamer.dynamics.core import DynamicsCore
from dreamer.dynamics.latents import GaussianLatent
from dreamer.nn.layers import ExactLinear
from dreamer.nn.struct import Struct

State = TypeVar("State", bound=Struct)


class VisionCore(DynamicsCore[State]):
    """A core whose latent depends on the current observation alone."""

    differentiable = False

    def __init__(self, embed_dim: int, stoch: int, min_std: float, vision_updates: int):
        super().__init__()
        self.latent = GaussianLatent(stoch, min_std)
        self.encode = ExactLinear(embed_dim, self.latent.num_params)
        self.vision_updates = vision_updates

    @property
    def decoder_dim(self) -> int:
        """Size of the latent, which is all that the decoder reads."""
        return self.latent.dim

    def vision_modules(self) -> list[nn.Module]:
        """The layer from embeddings to latents."""
        return [self.encode]

    def vision_loss(self, params: Float[Tensor, "batch time param"]) -> Float[Tensor, "batch time"]:
        """KL(q(z | e) || N(0, I)) in nats, the regularizer of the VAE."""
        mean, std = self.latent.mean_std(params)
        return 0.5 * (mean.square() + std.square() - 1 - 2 * std.log()).sum(-1)
