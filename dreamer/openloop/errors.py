"""How wrong predictions are, by the number of steps ahead; against repeating the last observed row."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


class ErrorCurves:
    """Errors of sampled predictions, collected step by step; means over windows and over numbers.

    `rmse` is that of the samples' mean, `crps` is of their distribution (equal to the absolute error where all samples
    agree), `spread` is their standard deviation, `copy_rmse` and `copy_crps` are of repeating the last observed row,
    `coverage_50` and `coverage_90` are the shares of numbers inside the samples' central intervals.
    """

    def __init__(self) -> None:
        self.curves: dict[str, list[float]] = {}

    def add(
        self,
        samples: Float[Tensor, "window sample number"],
        target: Float[Tensor, "window number"],
        last: Float[Tensor, "window number"],
    ) -> None:
        """Add the next step ahead."""
        below = (samples < target.unsqueeze(1)).float().mean(1)
        step = {
            "rmse": (samples.mean(1) - target).square().mean().sqrt(),
            "crps": crps(samples, target).mean(),
            "spread": samples.std(1).mean() if samples.shape[1] > 1 else torch.zeros(()),
            "copy_rmse": (last - target).square().mean().sqrt(),
            "copy_crps": (last - target).abs().mean(),
            "coverage_50": ((below >= 0.25) & (below <= 0.75)).float().mean(),
            "coverage_90": ((below >= 0.05) & (below <= 0.95)).float().mean(),
        }
        for name, value in step.items():
            self.curves.setdefault(name, []).append(value.item())


def crps(
    samples: Float[Tensor, "window sample ..."], target: Float[Tensor, "window ..."]
) -> Float[Tensor, "window ..."]:
    """Continuous ranked probability score of samples for targets.

    E|X - y| - E|X - X'| / 2 over distinct pairs (the fair estimate, Ferro 2014), computed by sorting.
    """
    count = samples.shape[1]
    error = (samples - target.unsqueeze(1)).abs().mean(1)
    if count == 1:
        return error
    ordered = samples.sort(1).values
    weight = (2 * torch.arange(1, count + 1, device=samples.device) - count - 1).to(samples.dtype)
    weight = weight.view(1, -1, *[1] * (samples.ndim - 2))
    return error - (ordered * weight).sum(1) / (count * (count - 1))
