"""Lambda-returns of imagined and replayed sequences, and the scale that normalizes them."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dreamer.system import ranks


def lambda_return(
    reward: Float[Tensor, "start states"],
    discount: Float[Tensor, "start states"],
    value: Float[Tensor, "start states"],
    lambda_: float,
) -> Float[Tensor, "start states-1"]:
    """Lambda-returns of imagined states 0..horizon-1 (V3, "Critic learning").

        R_H = v_H
        R_i = r_{i+1} + c_{i+1} [(1 - lambda) v_{i+1} + lambda R_{i+1}]

    Rewards and discounts belong to the arrival at a state, so those of state 0 are not used.
    """
    interim = reward[:, 1:] + discount[:, 1:] * (1 - lambda_) * value[:, 1:]
    carried = lambda_ * discount[:, 1:]
    returns = [value[:, -1]]
    for i in reversed(range(interim.shape[1])):
        returns.append(interim[:, i] + carried[:, i] * returns[-1])
    return torch.stack(returns[:0:-1], 1)


def replay_return(
    reward: Float[Tensor, "batch time"],
    is_last: Bool[Tensor, "batch time"],
    is_terminal: Bool[Tensor, "batch time"],
    bootstrap: Float[Tensor, "batch time"],
    discount: float,
    lambda_: float,
) -> Float[Tensor, "batch time-1"]:
    """Lambda-returns of replayed rows 0..time-2, bootstrapped from imagined returns, as in V3's public code.

        R_{T-1} = boot_{T-1}
        R_t = r_{t+1} + live_{t+1} [(1 - cont_{t+1}) boot_{t+1} + cont_{t+1} R_{t+1}]
        live = discount (1 - terminal),  cont = lambda (1 - last)

    At a time limit (last, not terminal) the return bootstraps fully; at a terminal row it ends.
    """
    live = torch.where(is_terminal, 0.0, discount)[:, 1:]
    cont = torch.where(is_last, 0.0, lambda_)[:, 1:]
    interim = reward[:, 1:] + live * (1 - cont) * bootstrap[:, 1:]
    carried = live * cont
    returns = [bootstrap[:, -1]]
    for t in reversed(range(interim.shape[1])):
        returns.append(interim[:, t] + carried[:, t] * returns[-1])
    return torch.stack(returns[:0:-1], 1)


class ReturnNormalizer(nn.Module):
    """Running 5th and 95th percentile of returns (V3, "Actor learning"); both start at 0 without debiasing."""

    low: Tensor
    high: Tensor
    quantiles: Tensor

    def __init__(self, rate: float = 0.01, limit: float = 1.0, low: float = 0.05, high: float = 0.95):
        super().__init__()
        self.rate, self.limit = rate, limit
        self.register_buffer("quantiles", torch.tensor([low, high]), persistent=False)
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))

    @torch.no_grad()
    def update(self, returns: Float[Tensor, "..."]) -> None:
        """Move both ends towards the percentiles (linear interpolation) of these returns, if those are finite.

        The percentiles are those of the returns of all ranks.
        """
        low, high = torch.quantile(ranks.gather(returns.float().flatten()).flatten(), self.quantiles)
        rate = self.rate * (low + high).isfinite()
        self.low.lerp_(low.nan_to_num(), rate)
        self.high.lerp_(high.nan_to_num(), rate)

    @property
    def scale(self) -> Float[Tensor, ""]:
        """Divisor of advantages: the range, but at least `limit`."""
        return (self.high - self.low).clamp(min=self.limit)
