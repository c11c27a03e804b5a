"""World models of the exam: the same data, the same updates and no policy for every core."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dreamer.batch import Batch
from dreamer.config import Config, compose
from dreamer.dynamics import LATENTS, DynamicsConfig
from dreamer.experience.spaces import Spec
from dreamer.experiments.ablation.grid import core_settings
from dreamer.experiments.exam.recordings import Recording
from dreamer.nn.optim import LaProp
from dreamer.tracking.progress import follow
from dreamer.training.matching import match_params
from dreamer.world_model.world_model import WorldModel

WARMUP = 50


def exam_config(
    variant: str,
    size: str,
    free_nats: float,
    spec: Spec,
    stoch: int = 32,
    learning_rate: float = 1e-3,
    sigma: float | None = None,
) -> Config:
    """Return the settings of a core variant (`core` or `core:latent`), as large as the reference agent of that size.

    `stoch` is the number of groups or dimensions of a latent. With known observation noise `sigma` the loss is the
    exact evidence lower bound: squared errors without symlog times 1 / (2 sigma^2), and a scale of 1 for `rep`, as for
    `dyn`.
    """
    changes: dict[str, Any] = {**core_settings(variant)}
    for name in LATENTS:
        wanted = {"free_nats": free_nats, "stoch": stoch}
        settings = getattr(DynamicsConfig(), name)
        changes |= {f"agent.dynamics.{name}.{key}": value for key, value in wanted.items() if hasattr(settings, key)}
    if sigma is not None:
        changes |= {f"agent.world_model.{part}.symlog": False for part in ("encoder", "decoder")}
        changes |= {"agent.world_model.scales.reconstruction": 0.5 / sigma**2, "agent.world_model.scales.rep": 1.0}
    optimizer = {"agent.optimizer.learning_rate": learning_rate, "agent.optimizer.warmup": WARMUP}
    return match_params(compose("dmc_proprio", size, **changes, **optimizer), spec)


@dataclass(frozen=True)
class Stage:
    """Part of training with windows of one length, in steps."""

    updates: int
    batch_size: int
    length: int
    from_start: bool = False
    """True for windows that begin with their episode. Others begin anywhere."""

    def scaled(self, effort: float) -> Stage:
        """Return the stage with more or fewer updates, at least one."""
        return dataclasses.replace(self, updates=max(1, round(self.updates * effort)))


def train_model(config: Config, recording: Recording, stages: Sequence[Stage], seed: int) -> tuple[WorldModel, float]:
    """Train a world model on random windows of a recording, stage by stage, and return it with its last loss.

    The learning rate falls linearly to a twentieth. Filtering starts from the initial state inside an episode, too, as
    in PlaNet.
    """
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    model = WorldModel(
        config.agent.world_model, config.agent.dynamics, recording.spec.obs_shapes, recording.spec.action.dim
    )
    total = sum(stage.updates for stage in stages)
    optimizer = LaProp(model.parameters(), dataclasses.replace(config.agent.optimizer, decay=total), model)
    loss = torch.zeros(())
    for stage in stages:
        for _ in follow(range(stage.updates), "training", stage.updates, "updates"):
            episodes = random.integers(recording.episodes, size=stage.batch_size)
            last = 0 if stage.from_start else recording.length - stage.length
            starts = random.integers(last + 1, size=stage.batch_size)
            batch = with_initial_context(model, recording.windows(episodes, starts, stage.length))
            embeds = model.embed(batch.obs)
            states = model.observe(batch, embeds)
            terms, _ = model.losses(states, model.core.features(states), embeds, batch)
            loss = torch.stack([model.scales[name] * term.mean() for name, term in terms.items()]).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval(), loss.item()


def with_initial_context(model: WorldModel, batch: Batch) -> Batch:
    """Return the batch with the initial state as the context of every sequence."""
    count = batch.reward.shape[0]
    return dataclasses.replace(batch, context=model.core.pack(model.core.initial_state(count)))
