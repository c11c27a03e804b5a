"""Dynamics cores: the ablation axis. `core.py` is the interface, one file per core, `make_core` picks one by name."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import tyro

from dreamer.dynamics.core import DynamicsCore
from dreamer.dynamics.latents import LatentName
from dreamer.dynamics.rssm import RSSM, RSSMConfig

CoreName = Literal["rssm"]


@dataclass(frozen=True)
class DynamicsConfig:
    """Which dynamics model stands between observations and behavior."""

    core: Annotated[CoreName, tyro.conf.arg(prefix_name=False)] = "rssm"
    """Dynamics core."""
    latent: Annotated[LatentName, tyro.conf.arg(prefix_name=False)] = "categorical"
    """Family of the stochastic state."""
    rssm: RSSMConfig = field(default_factory=RSSMConfig)
    """Settings of the `rssm` core."""


def make_core(config: DynamicsConfig, embed_dim: int, action_dim: int) -> DynamicsCore[Any]:
    """Build the configured core for embeddings and actions of the given sizes."""
    constructors = {"rssm": lambda: RSSM(config.rssm, config.latent, embed_dim, action_dim)}
    return constructors[config.core]()
