"""Can a core remember? A cue is shown once, and decides the reward 10, 50 and 200 steps later."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from dreamer.config import Config
from dreamer.experiments.exam.learner import train_model, with_initial_context
from dreamer.experiments.exam.recordings import Recording, record, uniform_actions
from envs import make

DELAYS = (10, 50, 200)
UPDATES = 400


def recordings(train_episodes: int, test_episodes: int) -> tuple[Recording, Recording]:
    """Training and test episodes."""

    def recall(index: int) -> Any:
        return make("toy:recall", index=index)

    steps = max(DELAYS)
    train = record(recall, train_episodes, steps, uniform_actions(1))
    return train, record(recall, test_episodes, steps, uniform_actions(1), first_index=1_000_000)


def examine(
    config: Config, train: Recording, test: Recording, updates: int, seed: int, batch_size: int = 16
) -> dict[str, Any]:
    """Train a core on whole episodes; accuracy is how often the predicted reward of a query has the cue's sign."""
    model, losses = train_model(config, train, updates, batch_size, train.length, seed)
    torch.manual_seed(seed)
    everything = np.arange(test.episodes)
    batch = with_initial_context(model, test.windows(everything, np.zeros_like(everything), test.length))
    with torch.no_grad():
        states = model.observe(batch)
        predicted, _ = model.predict(model.core.features(states))
    cue = batch.obs["cue"][:, 0, 0]
    correct = {delay: (predicted[:, delay] * cue > 0).float().mean().item() for delay in DELAYS}
    return {"loss": losses[-1], "accuracy": {str(delay): value for delay, value in correct.items()}}
