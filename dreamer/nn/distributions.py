"""Scalar transforms and the distributions of Dreamer V3: two-hot scalars, the bounded normal, one-hot actions."""

from __future__ import annotations

import contextlib
import math
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

NUM_BINS = 255
HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)


def symlog(x: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """sign(x) ln(1 + |x|), V3, "Robust predictions"."""
    return torch.sign(x) * torch.log1p(torch.abs(x))


def symexp(x: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """sign(x) (exp|x| - 1), the inverse of `symlog`."""
    return torch.sign(x) * torch.expm1(torch.abs(x))


def symexp_bins(count: int = NUM_BINS) -> Float[Tensor, " bins"]:
    """Bin positions, exponentially spaced and exactly antisymmetric: the middle one is 0 and bins + reversed bins is 0.

    `count` must be odd. They are computed on the CPU: on the meta device these operations import a compiler.
    """
    if count % 2 == 0:
        raise ValueError(f"the number of bins must be odd, got {count}")
    half = symexp(torch.linspace(-20, 0, count // 2 + 1, dtype=torch.float64, device="cpu")).float()
    return torch.tensor(torch.cat([half, -half[:-1].flip(0)]).tolist())


def two_hot(
    target: Float[Tensor, "*batch"], bins: Float[Tensor, " bins"]
) -> tuple[Tensor, Tensor, Float[Tensor, "*batch"]]:
    """Neighboring bin indices of each target and the weight of the upper one, linear in value space.

    Targets outside the bins put all weight on the end bin. The lower bin has the remaining weight.
    """
    target = target.clamp(bins[0], bins[-1]).contiguous()
    upper = torch.bucketize(target, bins).clamp(1, len(bins) - 1)
    lower = upper - 1
    weight = (target - bins[lower]) / (bins[upper] - bins[lower])
    return lower, upper, weight


def two_hot_loss(
    logits: Float[Tensor, "*batch bins"], target: Float[Tensor, "*batch"], bins: Float[Tensor, " bins"]
) -> Float[Tensor, "*batch"]:
    """Cross-entropy between the two-hot encoding of `target` and the categorical of `logits`."""
    lower, upper, weight = two_hot(target.detach(), bins)
    log_probs = F.log_softmax(logits.float(), -1)
    at_lower = log_probs.gather(-1, lower.unsqueeze(-1)).squeeze(-1)
    at_upper = log_probs.gather(-1, upper.unsqueeze(-1)).squeeze(-1)
    return -(at_lower + weight * (at_upper - at_lower))


def full_precision(device_type: str) -> AbstractContextManager[Any]:
    """Context without autocast, on devices that support it."""
    if torch.amp.is_autocast_available(device_type):
        return torch.autocast(device_type, enabled=False)
    return contextlib.nullcontext()


@cache
def multiplies_bfloat16() -> bool:
    """True if the current GPU multiplies bfloat16 in hardware, without emulation."""
    return torch.cuda.is_bf16_supported(including_emulation=False)


def two_hot_mean(logits: Float[Tensor, "*batch bins"], bins: Float[Tensor, " bins"]) -> Float[Tensor, "*batch"]:
    """Expected value of the categorical over the bins.

    Mirrored bins are paired before summing: the end bins are near 5e8, so a plain float32 sum would leave an error of
    order 1, while uniform logits must decode to exactly 0.
    """
    probs = F.softmax(logits.float(), -1)
    half = bins.shape[0] // 2
    with full_precision(probs.device.type):  # the end bins need every bit
        return (probs[..., half + 1 :] - probs[..., :half].flip(-1)) @ bins[half + 1 :]


@dataclass(frozen=True)
class TwoHot:
    """Categorical distribution over exponentially spaced bins, which stands for a scalar (V3)."""

    logits: Float[Tensor, "*batch bins"]
    bins: Float[Tensor, " bins"]

    def mean(self) -> Float[Tensor, "*batch"]:
        """Expected value."""
        return two_hot_mean(self.logits, self.bins)

    def cross_entropy(self, *targets: tuple[Float[Tensor, "*batch"], float]) -> Float[Tensor, "*batch"]:
        """Weighted sum of the cross-entropies to several (target, weight) pairs; targets get no gradient."""
        return sum(weight * two_hot_loss(self.logits, target, self.bins) for target, weight in targets)  # type: ignore[return-value]

    def __getitem__(self, index: Any) -> TwoHot:
        """Index the leading axes."""
        return TwoHot(self.logits[index], self.bins)


@dataclass(frozen=True)
class BoundedNormal:
    """Diagonal normal with mean tanh(m) and std in [0.1, 1]; samples are neither squashed nor clipped (V3)."""

    mean: Float[Tensor, "*batch action"]
    std: Float[Tensor, "*batch action"]
    raw_mean: Float[Tensor, "*batch action"]
    """m, the mean before its tanh."""

    @classmethod
    def from_params(
        cls,
        raw_mean: Float[Tensor, "*batch action"],
        raw_std: Float[Tensor, "*batch action"],
        min_std: float = 0.1,
        max_std: float = 1.0,
    ) -> BoundedNormal:
        """Squash network outputs: mean = tanh(m), std = min + (max - min) sigmoid(q + 2)."""
        raw_mean = raw_mean.float()
        std = min_std + (max_std - min_std) * torch.sigmoid(raw_std.float() + 2.0)
        return cls(torch.tanh(raw_mean), std, raw_mean)

    def sample(self) -> Float[Tensor, "*batch action"]:
        """mean + std * noise, with a gradient."""
        return self.mean + self.std * torch.randn_like(self.mean)

    def __getitem__(self, index: Any) -> BoundedNormal:
        """Index the leading axes."""
        return BoundedNormal(self.mean[index], self.std[index], self.raw_mean[index])

    def mode(self) -> Float[Tensor, "*batch action"]:
        """The mean."""
        return self.mean

    def log_prob(self, action: Float[Tensor, "*batch action"]) -> Float[Tensor, "*batch"]:
        """Log-density summed over action dimensions, in nats."""
        scaled = (action - self.mean) / self.std
        return (-0.5 * scaled.square() - self.std.log() - HALF_LOG_TWO_PI).sum(-1)

    def entropy(self) -> Float[Tensor, "*batch"]:
        """Differential entropy summed over action dimensions, in nats."""
        return (self.std.log() + 0.5 + HALF_LOG_TWO_PI).sum(-1)


@dataclass(frozen=True)
class OneHot:
    """Categorical over one-hot action vectors, given normalized log-probabilities."""

    log_probs: Float[Tensor, "*batch action"]

    @classmethod
    def from_logits(cls, logits: Float[Tensor, "*batch action"], unimix: float = 0.0) -> OneHot:
        """Softmax of the logits, mixed with a uniform distribution of weight `unimix`."""
        log_probs = F.log_softmax(logits.float(), -1)
        if unimix:
            log_probs = torch.log((1 - unimix) * log_probs.exp() + unimix / logits.shape[-1])
        return cls(log_probs)

    def sample(self) -> Float[Tensor, "*batch action"]:
        """Draw one-hot vectors (no gradient)."""
        return one_hot_argmax(sample_scores(self.log_probs.exp()))

    def __getitem__(self, index: Any) -> OneHot:
        """Index the leading axes."""
        return OneHot(self.log_probs[index])

    def mode(self) -> Float[Tensor, "*batch action"]:
        """One-hot vector of the most likely class."""
        return one_hot_argmax(self.log_probs)

    def log_prob(self, action: Float[Tensor, "*batch action"]) -> Float[Tensor, "*batch"]:
        """Log-probability of the class marked in `action`."""
        return (self.log_probs * action).sum(-1)

    def entropy(self) -> Float[Tensor, "*batch"]:
        """Entropy of the class."""
        return -(self.log_probs.exp() * self.log_probs).sum(-1)


ActionDistribution = BoundedNormal | OneHot
"""Distribution of a policy over action vectors `[*batch, action]`."""


def sample_scores(probs: Float[Tensor, "*batch classes"]) -> Float[Tensor, "*batch classes"]:
    """Scores whose argmax is a categorical sample: probs / Exponential(1) noise (the exponential race)."""
    return probs.detach() / -torch.rand_like(probs).log()


def one_hot_argmax(scores: Float[Tensor, "*batch classes"]) -> Float[Tensor, "*batch classes"]:
    """One-hot vector of the largest entry."""
    index = scores.argmax(-1, keepdim=True)
    return torch.zeros_like(scores).scatter_(-1, index, 1.0)
