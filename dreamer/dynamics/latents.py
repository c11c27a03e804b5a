"""Stochastic latents: sampling, divergence and entropy of each family, given unconstrained parameters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dreamer.nn.distributions import HALF_LOG_TWO_PI, one_hot_argmax

LatentName = Literal["categorical", "gaussian"]


class Latent(ABC):
    """A family of distributions over the stochastic state z, given unconstrained parameters."""

    dim: int
    """Size of a sample."""
    num_params: int
    """Number of unconstrained parameters of the distribution."""
    exact: bool
    """True if the parameters must be computed in float32 under autocast too. Others may be in bfloat16 there, also in a
    state; every method converts them to float32 first."""

    @abstractmethod
    def sample(self, params: Float[Tensor, "*batch param"]) -> Float[Tensor, "*batch stoch"]:
        """Draw z with a gradient to the parameters."""

    @abstractmethod
    def mode(self, params: Float[Tensor, "*batch param"]) -> Float[Tensor, "*batch stoch"]:
        """The most likely z."""

    @abstractmethod
    def describe(self, params: Float[Tensor, "*batch param"]) -> Float[Tensor, "*batch param"]:
        """The constrained parameters, as an input for another network."""

    @abstractmethod
    def kl(self, left: Float[Tensor, "*batch param"], right: Float[Tensor, "*batch param"]) -> Float[Tensor, "*batch"]:
        """KL(left || right) of the whole z, in nats and float32."""

    @abstractmethod
    def entropy(self, params: Float[Tensor, "*batch param"]) -> Float[Tensor, "*batch"]:
        """Entropy of the whole z, in nats and float32."""


class CategoricalLatent(Latent):
    """`groups` categorical variables with `classes` classes each, mixed with a uniform distribution of weight `unimix`.

    Samples are one-hot in every group. Their gradient is that of the mixed probabilities (straight-through). KL and
    entropy use the mixed probabilities too. The layout is class-major: `[classes, groups]`, flattened. On CPUs reducing
    over the outer axis is several times faster than over a short inner axis.
    """

    exact = False

    def __init__(self, groups: int, classes: int, unimix: float = 0.01):
        self.groups, self.classes, self.unimix = groups, classes, unimix
        self.dim = self.num_params = groups * classes

    def probs(self, params: Float[Tensor, "*batch param"]) -> Float[Tensor, "*batch classes groups"]:
        """Mixed probabilities in float32."""
        probs = F.softmax(params.float().unflatten(-1, (self.classes, self.groups)), -2)
        return (1 - self.unimix) * probs + self.unimix / self.classes

    def sample(self, params: Float[Tensor, "*batch param"]) -> Float[Tensor, "*batch stoch"]:
        """One-hot sample with the gradient of the probabilities (straight-through)."""
        probs = self.probs(params)
        sample = _sample_one_hot(probs.detach())
        if probs.requires_grad:
            sample = sample + (probs - probs.detach())
        return sample.flatten(-2)

    def mode(self, params: Float[Tensor, "*batch param"]) -> Float[Tensor, "*batch stoch"]:
        """One-hot vectors of the most likely classes."""
        probs = self.probs(params).transpose(-1, -2)
        return one_hot_argmax(probs).transpose(-1, -2).flatten(-2)

    def describe(self, params: Float[Tensor, "*batch param"]) -> Float[Tensor, "*batch param"]:
        """Mixed probabilities."""
        return self.probs(params).flatten(-2)

    def kl(self, left: Float[Tensor, "*batch param"], right: Float[Tensor, "*batch param"]) -> Float[Tensor, "*batch"]:
        """Sum over groups of sum_c p_c (ln p_c - ln q_c)."""
        p, q = self.probs(left), self.probs(right)
        return (p * (p.log() - q.log())).flatten(-2).sum(-1)

    def entropy(self, params: Float[Tensor, "*batch param"]) -> Float[Tensor, "*batch"]:
        """Sum of the groups' entropies."""
        p = self.probs(params)
        return -(p * p.log()).flatten(-2).sum(-1)


def _sample_one_hot(probs: Float[Tensor, "*batch classes groups"]) -> Float[Tensor, "*batch classes groups"]:
    """Invert the cumulative distribution: class c is drawn where cdf_{c-1} <= u < cdf_c, the last class otherwise."""
    uniform = torch.rand_like(probs[..., :1, :])
    passed = (uniform >= probs[..., :-1, :].cumsum(-2)).to(probs.dtype)
    return F.pad(passed, (0, 0, 1, 0), value=1.0) - F.pad(passed, (0, 0, 0, 1))


class GaussianLatent(Latent):
    """A diagonal Gaussian of `dim` dimensions with std = softplus(raw) + min_std (PlaNet, Dreamer V1)."""

    exact = True

    def __init__(self, dim: int, min_std: float = 0.1):
        self.dim, self.num_params, self.min_std = dim, 2 * dim, min_std

    def mean_std(
        self, params: Float[Tensor, "*batch param"]
    ) -> tuple[Float[Tensor, "*batch stoch"], Float[Tensor, "*batch stoch"]]:
        """Split parameters into mean and standard deviation, in float32."""
        mean, raw_std = params.float().chunk(2, -1)
        return mean, F.softplus(raw_std) + self.min_std

    def sample(self, params: Float[Tensor, "*batch param"]) -> Float[Tensor, "*batch stoch"]:
        """mean + std * noise."""
        mean, std = self.mean_std(params)
        return mean + std * torch.randn_like(std)

    def mode(self, params: Float[Tensor, "*batch param"]) -> Float[Tensor, "*batch stoch"]:
        """The mean."""
        return self.mean_std(params)[0]

    def describe(self, params: Float[Tensor, "*batch param"]) -> Float[Tensor, "*batch param"]:
        """[mean, std]."""
        return torch.cat(self.mean_std(params), -1)

    def kl(self, left: Float[Tensor, "*batch param"], right: Float[Tensor, "*batch param"]) -> Float[Tensor, "*batch"]:
        """Closed form, summed over dimensions."""
        (mean_p, std_p), (mean_q, std_q) = self.mean_std(left), self.mean_std(right)
        ratio = (std_p / std_q).square()
        return 0.5 * (ratio + ((mean_p - mean_q) / std_q).square() - 1 - ratio.log()).sum(-1)

    def entropy(self, params: Float[Tensor, "*batch param"]) -> Float[Tensor, "*batch"]:
        """Differential entropy, summed over dimensions."""
        return (self.mean_std(params)[1].log() + 0.5 + HALF_LOG_TWO_PI).sum(-1)


def make_latent(name: LatentName, stoch: int, classes: int, unimix: float, min_std: float) -> Latent:
    """The latent of that name: `stoch` groups of `classes` classes, or `stoch` Gaussian dimensions."""
    return CategoricalLatent(stoch, classes, unimix) if name == "categorical" else GaussianLatent(stoch, min_std)


def balanced_kl(
    latent: Latent, posterior: Float[Tensor, "*batch param"], prior: Float[Tensor, "*batch param"], free_nats: float
) -> tuple[dict[str, Float[Tensor, "*batch"]], dict[str, Float[Tensor, ""]]]:
    """Balanced KL with free nats, and scalars to log. `dyn` trains the prior, `rep` the posterior.

    Each step's KL is summed over groups and then clipped from below at `free_nats`. Below this limit the gradient is
    zero.
    """
    dyn = latent.kl(posterior.detach(), prior)
    rep = latent.kl(posterior, prior.detach())
    with torch.no_grad():
        metrics = {
            "model/kl_dyn": dyn.mean(),
            "model/prior_entropy": latent.entropy(prior).mean(),
            "model/posterior_entropy": latent.entropy(posterior).mean(),
        }
    return {"dyn": dyn.clamp(min=free_nats), "rep": rep.clamp(min=free_nats)}, metrics
