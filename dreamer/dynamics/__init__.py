"""Dynamics cores: the ablation axis. `core.py` is the interface, one file per core, `make_core` picks one by name.

What changes from one core to the next:

    core         predict                         correct
    rssm         h = f(h, z, a), z ~ p(z | h)    z ~ q(z | h, e)      sees history and observation
    ssm          z ~ p(z | z, a)                 z ~ q(z | prior, e)  no deterministic path
    rnn          h = f(h, m, a), m = mu(h)       m = mu(h, e)         nothing is sampled
    mdn_rnn      h = LSTM(h, z, a), z ~ mixture  z ~ q(z | e)         z does not depend on the history
    gru          h = GRU(h, z, a), z = W h       z ~ q(z | e)         one component, no variance
    s5           x = A x + B [z, a], h = g(x)    z ~ q(z | e)         linear memory x; z ~ p(z | h)
    transformer  h = attention to W past steps   z ~ q(z | e)         memory of bounded length; z ~ p(z | h)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, get_args

import tyro

from dreamer.dynamics.core import DynamicsCore
from dreamer.dynamics.gru import GRUConfig, GRUCore
from dreamer.dynamics.latents import LatentName
from dreamer.dynamics.mdn_rnn import MDNRNN, MDNRNNConfig
from dreamer.dynamics.rnn import RNN, RNNConfig
from dreamer.dynamics.rssm import RSSM, RSSMConfig
from dreamer.dynamics.s5 import S5, S5Config
from dreamer.dynamics.ssm import SSM, SSMConfig
from dreamer.dynamics.transformer import Transformer, TransformerConfig
from dreamer.errors import UserError

CoreName = Literal["rssm", "ssm", "rnn", "gru", "mdn_rnn", "s5", "transformer"]
LatentChoice = Literal["auto", "categorical", "gaussian"]

LATENTS: dict[str, tuple[LatentName, ...]] = {
    "rssm": ("categorical", "gaussian"),
    "ssm": ("categorical", "gaussian"),
    "rnn": (),
    "gru": ("gaussian",),
    "mdn_rnn": ("gaussian",),
    "s5": ("categorical", "gaussian"),
    "transformer": ("categorical", "gaussian"),
}
"""Latent families of each core, its default first."""

WIDTHS = {
    "rssm": "deter",
    "ssm": "hidden",
    "rnn": "deter",
    "gru": "deter",
    "mdn_rnn": "deter",
    "s5": "deter",
    "transformer": "hidden",
}
"""The setting of each core that `--match-params` changes: it determines most of the core's parameters."""


@dataclass(frozen=True)
class DynamicsConfig:
    """Dynamics model."""

    core: Annotated[CoreName, tyro.conf.arg(aliases=("--core",))] = "rssm"
    """Dynamics core."""
    latent: Annotated[LatentChoice, tyro.conf.arg(aliases=("--latent",))] = "auto"
    """Family of the stochastic state; auto is gaussian for gru and mdn_rnn, and categorical for the others."""
    rssm: RSSMConfig = field(default_factory=RSSMConfig)
    """Settings of the `rssm` core."""
    ssm: SSMConfig = field(default_factory=SSMConfig)
    """Settings of the `ssm` core."""
    rnn: RNNConfig = field(default_factory=RNNConfig)
    """Settings of the `rnn` core."""
    gru: GRUConfig = field(default_factory=GRUConfig)
    """Settings of the `gru` core."""
    mdn_rnn: MDNRNNConfig = field(default_factory=MDNRNNConfig)
    """Settings of the `mdn_rnn` core."""
    s5: S5Config = field(default_factory=S5Config)
    """Settings of the `s5` core."""
    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    """Settings of the `transformer` core."""

    @property
    def settings(self) -> Any:
        """Settings of the chosen core."""
        return getattr(self, self.core)

    @property
    def family(self) -> LatentName:
        """Family of the stochastic state of the chosen core; raises `UserError` for one it cannot have."""
        families = LATENTS[self.core]
        if self.latent == "auto":
            return families[0] if families else "gaussian"
        if self.latent not in families:
            can = " or ".join(("auto", *families))
            raise UserError(f"--latent {self.latent}: the {self.core} core cannot have it; use --latent {can}")
        return self.latent

    @property
    def gradient_hint(self) -> str:
        """Predicate for a message: why no gradient passes the core's imagined states, or the latent that passes it."""
        if "gaussian" in LATENTS[self.core] and self.family != "gaussian":
            return "needs --latent gaussian"
        return f"cannot pass the samples of the {self.core} core"


def make_core(config: DynamicsConfig, embed_dim: int, action_dim: int) -> DynamicsCore[Any]:
    """Build the configured core for embeddings and actions of the given sizes; raises `UserError` for wrong sizes."""
    family = config.family
    constructors: dict[str, Callable[[], DynamicsCore[Any]]] = {
        "rssm": lambda: RSSM(config.rssm, family, embed_dim, action_dim),
        "ssm": lambda: SSM(config.ssm, family, embed_dim, action_dim),
        "rnn": lambda: RNN(config.rnn, embed_dim, action_dim),
        "gru": lambda: GRUCore(config.gru, embed_dim, action_dim),
        "mdn_rnn": lambda: MDNRNN(config.mdn_rnn, embed_dim, action_dim),
        "s5": lambda: S5(config.s5, family, embed_dim, action_dim),
        "transformer": lambda: Transformer(config.transformer, family, embed_dim, action_dim),
    }
    settings = config.settings
    if getattr(settings, "cell", "") == "block_gru" and settings.deter % settings.blocks:
        flag = f"--agent.dynamics.{config.core.replace('_', '-')}.deter"
        raise UserError(f"{flag} {settings.deter} must be a multiple of its {settings.blocks} blocks")
    return constructors[config.core]()


assert set(LATENTS) == set(WIDTHS) == set(get_args(CoreName))
