"""World models alone: the same data, the same updates, and no policy, for every core."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch

from dreamer.batch import Batch
from dreamer.config import Config, compose
from dreamer.experiments.exam.recordings import Recording
from dreamer.matching import Spec, match_params
from dreamer.nn.optim import LaProp
from dreamer.world_model.world_model import WorldModel

LEARNING_RATE = 1e-3
WARMUP = 50


def exam_config(variant: str, size: str, free_nats: float, spec: Spec, sigma: float | None = None) -> Config:
    """Settings of a core variant (`core` or `core:latent`) with as many parameters as the reference of that size.

    Where the observation noise is known to be `sigma`, reconstruction becomes its exact likelihood: squared errors
    without symlog, times 1 / (2 sigma^2).
    """
    core, _, latent = variant.partition(":")
    changes: dict[str, Any] = {"agent.dynamics.core": core, "agent.dynamics.latent": latent or "auto"}
    changes |= {f"agent.dynamics.{name}.free_nats": free_nats for name in ("rssm", "ssm")}
    if sigma is not None:
        changes |= {f"agent.world_model.{part}.symlog": False for part in ("encoder", "decoder")}
        changes["agent.world_model.scales.reconstruction"] = 0.5 / sigma**2
    optimizer = {"agent.optimizer.learning_rate": LEARNING_RATE, "agent.optimizer.warmup": WARMUP}
    return match_params(compose("dmc_proprio", size, **changes, **optimizer), spec)


def train_model(
    config: Config, recording: Recording, updates: int, batch_size: int, length: int, seed: int
) -> tuple[WorldModel, list[float]]:
    """Train a world model on random windows of a recording; returns it with its loss at every update.

    The learning rate falls linearly to a twentieth. Windows begin anywhere; those that begin inside an episode are
    filtered from the initial state, as PlaNet does.
    """
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    model = WorldModel(
        config.agent.world_model, config.agent.dynamics, recording.spec.obs_sizes, recording.spec.action.dim
    )
    optimizer = LaProp(model.parameters(), dataclasses.replace(config.agent.optimizer, decay=updates))
    losses = []
    for _ in range(updates):
        episodes = random.integers(recording.episodes, size=batch_size)
        starts = random.integers(recording.length - length + 1, size=batch_size)
        batch = with_initial_context(model, recording.windows(episodes, starts, length))
        states = model.observe(batch)
        terms, _ = model.losses(states, model.core.features(states), batch)
        loss = torch.stack([model.scales[name] * term.mean() for name, term in terms.items()]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return model.eval(), losses


def with_initial_context(model: WorldModel, batch: Batch) -> Batch:
    """The batch with initial states as the context of every sequence."""
    count = batch.reward.shape[0]
    return dataclasses.replace(batch, context=model.core.pack(model.core.initial_state(count)))
