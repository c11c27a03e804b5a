"""R2-Dreamer: no decoder. Projected states must match the embedding of their observation, without redundancy.

    k = projector(features),  e = sg(embedding), every column standardized over the N rows of the batch
    M = k^T e / N                                            cross-correlation of all dimensions of k with all of e
    loss = sum_i (M_ii - 1)^2 + redundancy * sum_{i != j} M_ij^2

The target is detached, so the encoder learns only through the states. Source: NM512/r2dreamer; the loss is that of
Barlow Twins (arXiv 2103.03230).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from dreamer.nn.distributions import full_precision
from dreamer.nn.layers import Linear
from dreamer.world_model.objectives.objective import Objective
from envs.ranges import NonNegative

EPSILON = 1e-8


@dataclass(frozen=True)
class R2Config:
    """Redundancy reduction instead of a decoder."""

    redundancy: NonNegative = 5e-4
    """Weight of the correlations between different dimensions."""


class R2(Objective):
    """Cross-correlation of projected states and embeddings, moved towards the identity matrix."""

    term = "r2"
    part = "projector"

    def __init__(self, config: R2Config, input_dim: int, embed_dim: int):
        super().__init__()
        self.config = config
        self.projector = Linear(input_dim, embed_dim, bias=False)

    def loss(
        self,
        inputs: Float[Tensor, "batch time _"],
        embeds: Float[Tensor, "batch time embed"],
        obs: Mapping[str, Tensor],
    ) -> tuple[Float[Tensor, "batch time"], dict[str, Float[Tensor, ""]]]:
        """One value for the whole batch, expanded to every step."""
        projected = standardized(self.projector(inputs).flatten(0, 1))
        with full_precision(projected.device.type):  # differences from 1 and 0 need every bit
            correlation = projected.T @ standardized(embeds.detach().flatten(0, 1)) / len(projected)
        diagonal = correlation.diagonal()
        invariance = (diagonal - 1).square().sum()
        redundancy = correlation.square().sum() - diagonal.square().sum()
        metrics = {"model/r2_correlation": diagonal.detach().mean(), "model/r2_redundancy": redundancy.detach()}
        return (invariance + self.config.redundancy * redundancy).expand(inputs.shape[:2]), metrics


def standardized(rows: Float[Tensor, "batch feature"]) -> Float[Tensor, "batch feature"]:
    """Columns with mean 0 and unbiased standard deviation 1; constant ones become 0, with a finite gradient."""
    rows = rows.float()
    return (rows - rows.mean(0)) / (rows.std(0) + EPSILON)
