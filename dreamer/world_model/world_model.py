"""The world model: encoder, dynamics core, objective, reward and continue heads, and their losses by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, get_args

import torch
from annotated_types import Interval
from jaxtyping import Float
from torch import Tensor, nn

from dreamer.batch import Batch, Shapes, vectors
from dreamer.dynamics import DynamicsConfig, make_core
from dreamer.nn.struct import Struct
from dreamer.world_model.decoder import DecoderConfig
from dreamer.world_model.encoder import Encoder, EncoderConfig
from dreamer.world_model.heads import ContinueHead, HeadConfig, ScalarHead
from dreamer.world_model.images import ImageConfig
from dreamer.world_model.objectives import ObjectiveName, RepresentationConfig, make_objective
from dreamer.world_model.standardize import Standardizer
from envs.ranges import NonNegative


@dataclass(frozen=True)
class ModelScales:
    """Weights of the world model's loss terms, by the name of the term."""

    reconstruction: NonNegative = 1.0
    """Error of the decoded observations, summed over dimensions, pixels and keys (objective reconstruction): squared,
    or the cross-entropy of discrete values."""
    r2: NonNegative = 0.05
    """Redundancy reduction between states and embeddings (objective r2)."""
    reward: NonNegative = 1.0
    """Cross-entropy of the reward head."""
    cont: NonNegative = 1.0
    """Binary cross-entropy of the continue head (logged as `continue`)."""
    dyn: NonNegative = 1.0
    """Dynamics loss of the core: trains its prediction."""
    rep: NonNegative = 0.1
    """Representation loss of the core: makes states predictable."""


@dataclass(frozen=True)
class WorldModelConfig:
    """World model."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """Observation encoder."""
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    """Observation decoder."""
    image: ImageConfig = field(default_factory=ImageConfig)
    """Image networks of encoder and decoder."""
    representation: RepresentationConfig = field(default_factory=RepresentationConfig)
    """Objective that makes states informative about observations."""
    reward: HeadConfig = field(default_factory=HeadConfig)
    """Reward head."""
    cont: HeadConfig = field(default_factory=HeadConfig)
    """Continue head."""
    discount_horizon: Annotated[float, Interval(gt=1, le=1_000_000)] = 333.0
    """Time scale of discounting in agent steps: the discount factor is 1 - 1 / discount_horizon."""
    standardize: bool = False
    """Standardize vectors by their running mean and standard deviation, before symlog."""
    scales: ModelScales = field(default_factory=ModelScales)
    """Weights of the loss terms."""

    @property
    def discount(self) -> float:
        """Discount factor per agent step."""
        return 1.0 - 1.0 / self.discount_horizon


class WorldModel(nn.Module):
    """Filters observations into states, and predicts observations, rewards and continuation from states."""

    def __init__(self, config: WorldModelConfig, dynamics: DynamicsConfig, obs_shapes: Shapes, action_dim: int):
        super().__init__()
        self.config = config
        self.standardizer = Standardizer(obs_shapes) if config.standardize and vectors(obs_shapes) else None
        self.encoder = Encoder(config.encoder, config.image, obs_shapes)
        embed_dim = self.encoder.embed_dim
        self.core = make_core(dynamics, embed_dim, action_dim)
        self.objective = make_objective(
            config.representation, config.decoder, config.image, self.core, embed_dim, obs_shapes
        )
        self.reward = ScalarHead(config.reward, self.core.feature_dim)
        self.cont = ContinueHead(config.cont, self.core.feature_dim, config.discount)

    def standardize(self, obs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Observations as encoder and decoder see them: standardized if configured."""
        return obs if self.standardizer is None else self.standardizer(obs)

    def adapt(self, obs: Mapping[str, Tensor]) -> None:
        """Update the running statistics of observations with a batch; does nothing without `standardize`."""
        if self.standardizer is not None:
            self.standardizer.update(obs)

    def embed(self, obs: Mapping[str, Tensor]) -> Float[Tensor, "*batch embed"]:
        """Embeddings of observations `[*batch, ...]` by key."""
        return self.encoder(self.standardize(obs))

    def observe(self, batch: Batch, embeds: Float[Tensor, "batch time embed"] | None = None) -> Struct:
        """Filter a batch, starting from the stored states of its context rows; returns states `[batch, time]`.

        `embeds` is `embed(batch.obs)` if the caller has already computed it.
        """
        embeds = self.embed(batch.obs) if embeds is None else embeds
        return self.core.observe(embeds, batch.prev_action, batch.is_first, self.core.unpack(batch.context))

    def losses(
        self,
        states: Struct,
        features: Float[Tensor, "batch time feature"],
        embeds: Float[Tensor, "batch time embed"],
        batch: Batch,
    ) -> tuple[dict[str, Float[Tensor, "batch time"]], dict[str, Float[Tensor, ""]]]:
        """Unreduced, unscaled loss terms of filtered states, and scalars to log.

        `states` are those filtered from `embeds`, and `features` is `core.features(states)`. Terms: `reward`, `cont`,
        the objective's term, and the core's `dyn` and `rep`.
        """
        representation, objective_metrics = self.objective.loss(
            self.core.decoder_input(states, features), embeds, self.standardize(batch.obs)
        )
        reward = self.reward(features)
        cont_logits = self.cont(features)
        core_terms, core_metrics = self.core.loss(states)
        terms = {
            self.objective.term: representation,
            "reward": reward.cross_entropy((batch.reward, 1.0)),
            "cont": self.cont.loss(cont_logits, batch.is_terminal),
            **core_terms,
        }
        with torch.no_grad():
            metrics: dict[str, Any] = {
                "model/reward_error": (reward.mean() - batch.reward).abs().mean(),
                "model/continue_accuracy": ((cont_logits > 0) == ~batch.is_terminal).float().mean(),
                **objective_metrics,
                **core_metrics,
            }
        return terms, metrics

    def vision_losses(
        self, states: Struct, embeds: Float[Tensor, "batch time embed"], batch: Batch
    ) -> dict[str, Float[Tensor, "batch time"]]:
        """The loss terms of the vision stage: the objective's term, and `rep` of the core."""
        inputs = self.core.decoder_input(states, self.core.features(states))
        representation, _ = self.objective.loss(inputs, embeds, self.standardize(batch.obs))
        return {self.objective.term: representation, "rep": self.core.loss(states)[0]["rep"]}

    def decode(self, states: Struct) -> dict[str, Tensor]:
        """Decoded observations by key, see `Decoder.forward`. Raises UserError where the objective has no decoder."""
        decoded = self.objective.decode(self.core.decoder_input(states, self.core.features(states)))
        return decoded if self.standardizer is None else self.standardizer.inverse(decoded)

    def vision_modules(self) -> list[nn.Module]:
        """Modules that staged training trains first and then freezes; empty without staged training."""
        return [self.encoder, self.objective, *self.core.vision_modules()] if self.core.vision_updates else []

    @property
    def scales(self) -> dict[str, float]:
        """Weight of each loss term by name."""
        unused = set(get_args(ObjectiveName)) - {self.objective.term}
        return {name: scale for name, scale in asdict(self.config.scales).items() if name not in unused}

    @property
    def parts(self) -> dict[str, nn.Module]:
        """Modules by the name that tables use."""
        return {
            "encoder": self.encoder,
            "dynamics": self.core,
            self.objective.part: self.objective,
            "reward": self.reward,
            "continue": self.cont,
        }

    def predict(
        self, features: Float[Tensor, "*batch feature"]
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        """Expected reward on arrival at states with these features, and discount times probability to continue."""
        return self.reward(features).mean(), torch.sigmoid(self.cont(features).float())
