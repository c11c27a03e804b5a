"""Objectives of representation: `objective.py` is the interface, one file each, `make_objective` picks one by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import tyro

from dreamer.batch import Shapes
from dreamer.dynamics.core import DynamicsCore
from dreamer.world_model.decoder import DecoderConfig
from dreamer.world_model.images import ImageConfig
from dreamer.world_model.objectives.objective import Objective
from dreamer.world_model.objectives.r2 import R2, R2Config
from dreamer.world_model.objectives.reconstruction import Reconstruction

ObjectiveName = Literal["reconstruction", "r2"]


@dataclass(frozen=True)
class RepresentationConfig:
    """Objective that makes states informative about observations."""

    objective: Annotated[ObjectiveName, tyro.conf.arg(aliases=("--objective",))] = "reconstruction"
    """Representation objective: reconstruction (a decoder) or r2 (redundancy reduction, no decoder)."""
    r2: R2Config = field(default_factory=R2Config)
    """Settings of `r2`; `reconstruction` uses the decoder's settings."""


def make_objective(
    config: RepresentationConfig,
    decoder: DecoderConfig,
    image: ImageConfig,
    core: DynamicsCore[Any],
    embed_dim: int,
    shapes: Shapes,
) -> Objective:
    """Build the configured objective for a core and an encoder of observations of the given shapes."""
    constructors: dict[str, Callable[[], Objective]] = {
        "reconstruction": lambda: Reconstruction(decoder, image, core.decoder_dim, core.decoder_deter, shapes),
        "r2": lambda: R2(config.r2, core.decoder_dim, embed_dim),
    }
    return constructors[config.objective]()
