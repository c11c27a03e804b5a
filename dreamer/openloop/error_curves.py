"""Errors of predictions by the number of steps ahead, and of repeating the last observation."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


class ErrorCurves:
    """Errors of sampled predictions, step by step, as means over episodes and dimensions.

    `rmse` is the error of the mean of the samples. `crps` is the error of their distribution; it equals the absolute
    error where all samples agree. `spread` is their standard deviation. `copy_rmse` and `copy_crps` are the errors of
    repeating the last observation. `coverage_50` and `coverage_90` are the fractions of targets inside the central
    intervals of the samples.
    """

    def __init__(self) -> None:
        self.curves: dict[str, list[float]] = {}

    def add(
        self,
        samples: Float[Tensor, "episode sample dimension"],
        target: Float[Tensor, "episode dimension"],
        last: Float[Tensor, "episode dimension"],
    ) -> None:
        """Add the errors of the next step ahead; `last` is the last observation."""
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
    samples: Float[Tensor, "episode sample ..."], target: Float[Tensor, "episode ..."]
) -> Float[Tensor, "episode ..."]:
    """Return the continuous ranked probability score of samples for targets.

    E|X - y| - E|X - X'| / 2 over distinct pairs (the fair estimate of Ferro 2014), computed by sorting.
    """
    count = samples.shape[1]
    error = (samples - target.unsqueeze(1)).abs().mean(1)
    if count == 1:
        return error
    ordered = samples.sort(1).values
    weight = (2 * torch.arange(1, count + 1, device=samples.device) - count - 1).to(samples.dtype)
    weight = weight.view(1, -1, *[1] * (samples.ndim - 2))
    return error - (ordered * weight).sum(1) / (count * (count - 1))
