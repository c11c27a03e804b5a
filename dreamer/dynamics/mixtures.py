"""Mixtures of Gaussians as the output of a network (Bishop 1994; World Models, arXiv 1803.10122, appendix A.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dreamer.nn.distributions import HALF_LOG_TWO_PI, one_hot_argmax, sample_scores


class GaussianMixture:
    """K diagonal Gaussians over `dim` dimensions, computed in float32.

    A joint mixture has one set of weights. A component is then a whole vector, so dimensions may depend on each other.
    Otherwise every dimension has its own weights and is independent of the others. Standard deviations are
    softplus(raw) + min_std. Without this floor the density of a constant dimension has no maximum.
    """

    def __init__(self, dim: int, components: int, joint: bool, min_std: float):
        self.dim, self.components, self.joint, self.min_std = dim, components, joint, min_std
        self.weight_dim = 1 if joint else dim
        self.num_params = components * (2 * dim + self.weight_dim)

    def split(
        self, params: Float[Tensor, "*batch param"]
    ) -> tuple[
        Float[Tensor, "*batch components weight"],
        Float[Tensor, "*batch components stoch"],
        Float[Tensor, "*batch components stoch"],
    ]:
        """Log-weights (weight axis: 1 when joint, else one per dimension), means and standard deviations."""
        count, dim = self.components, self.dim
        logits, mean, raw_std = params.float().split([count * self.weight_dim, count * dim, count * dim], -1)
        log_weights = F.log_softmax(logits.unflatten(-1, (count, self.weight_dim)), -2)
        return (
            log_weights,
            mean.unflatten(-1, (count, dim)),
            F.softplus(raw_std.unflatten(-1, (count, dim))) + self.min_std,
        )

    def log_prob(
        self, params: Float[Tensor, "*batch param"], value: Float[Tensor, "*batch stoch"]
    ) -> Float[Tensor, "*batch"]:
        """Log-density of whole vectors, in nats: log-sum-exp over components of log pi_k + log N_k."""
        log_weights, mean, std = self.split(params)
        scaled = (value.float().unsqueeze(-2) - mean) / std
        component = -0.5 * scaled.square() - std.log() - HALF_LOG_TWO_PI
        if self.joint:
            return torch.logsumexp(log_weights.squeeze(-1) + component.sum(-1), -1)
        return torch.logsumexp(log_weights + component, -2).sum(-1)

    def sample(self, params: Float[Tensor, "*batch param"], temperature: float = 1.0) -> Float[Tensor, "*batch stoch"]:
        """Draw a component with weights pi^(1/tau), renormalized, then mean + sqrt(tau) * std * noise."""
        log_weights, mean, std = self.split(params)
        weights = F.softmax(log_weights / temperature, -2)
        chosen = one_hot_argmax(sample_scores(weights.transpose(-1, -2))).transpose(-1, -2)
        mean, std = (mean * chosen).sum(-2), (std * chosen).sum(-2)
        return mean + temperature**0.5 * std * torch.randn_like(std)

    def weight_entropy(self, params: Float[Tensor, "*batch param"]) -> Float[Tensor, "*batch"]:
        """Entropy of the weights in nats (mean over dimensions where each has its own): near 0 uses one component."""
        log_weights = self.split(params)[0]
        return -(log_weights.exp() * log_weights).sum(-2).mean(-1)
