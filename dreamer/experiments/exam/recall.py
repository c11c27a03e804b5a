"""Part `memory`: recall of a cue that is shown once and decides the reward 10, 50 and 200 steps later."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from dreamer.config import Config
from dreamer.experiments.exam.learner import Stage, train_model, with_initial_context
from dreamer.experiments.exam.recordings import Recording, train_and_test, uniform_actions
from envs import prepare
from envs.recall import Recall

DELAYS = (10, 50, 200)
LENGTHS = {4: (1000, 128), 8: (500, 128), 16: (400, 64), 32: (200, 64), 64: (100, 32), 128: (60, 32), 201: (40, 16)}
"""Updates and batch size by the length of windows, which grows in the course of training."""
STAGES = tuple(Stage(updates, batch, length, from_start=True) for length, (updates, batch) in LENGTHS.items())
EPISODES = (500, 200)
QUERY_PROBABILITY = 0.3
SETTINGS = {"stoch": 8}
"""Size of the latent. The cue is one bit, and every further random dimension adds noise to its memory."""


def recordings(train_episodes: int, test_episodes: int) -> tuple[Recording, Recording]:
    """Return training and test episodes."""

    def recall(index: int) -> Any:
        return prepare(Recall(DELAYS, QUERY_PROBABILITY), seed=0, index=index)

    return train_and_test(recall, max(DELAYS), uniform_actions(1), train_episodes, test_episodes)


def examine(config: Config, train: Recording, test: Recording, stages: Sequence[Stage], seed: int) -> dict[str, Any]:
    """Train a core on longer and longer windows and return the accuracy of the predicted sign of rewards, by delay."""
    model, loss = train_model(config, train, stages, seed)
    torch.manual_seed(seed)
    everything = np.arange(test.episodes)
    batch = with_initial_context(model, test.windows(everything, np.zeros_like(everything), test.length))
    with torch.no_grad():
        states = model.observe(batch)
        predicted, _ = model.predict(model.core.features(states))
    cue = batch.obs["cue"][:, 0, 0]
    correct = {delay: (predicted[:, delay] * cue > 0).float().mean().item() for delay in DELAYS}
    return {"loss": loss, "accuracy": {str(delay): value for delay, value in correct.items()}}
