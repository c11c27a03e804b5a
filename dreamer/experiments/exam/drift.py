"""Part `drift`: error of open-loop predictions on DeepMind Control, by the number of steps ahead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from dreamer.config import Config
from dreamer.errors import UserError
from dreamer.experiments.exam.learner import Stage, train_model, with_initial_context
from dreamer.experiments.exam.recordings import TEST_INDEX, Recording, record, smooth_actions, train_and_test
from dreamer.openloop.rollouts import ErrorCurves, predict
from envs import make

CONTEXT = 5
HORIZON = 50
STEPS = 200
EPISODES = (200, 64)
STAGES = (Stage(1000, 16, 50),)
SETTINGS: dict[str, Any] = {}
SAMPLES = 32
REPEAT = 2


def recordings(train_episodes: int, test_episodes: int, task: str) -> tuple[Recording, Recording]:
    """Return training and test episodes.

    The simulator is deterministic, so a perfect model makes no error. Raises `UserError` when the first test episode,
    recorded a second time, differs.
    """

    def control(index: int) -> Any:
        return make(task, index=index, repeat=REPEAT, time_limit=(STEPS + 1) * REPEAT)

    actions = smooth_actions(control(0).action_space.shape[0])
    train, test = train_and_test(control, STEPS, actions, train_episodes, test_episodes)
    again = record(control, 1, STEPS, actions, first_index=TEST_INDEX)
    if any(not np.array_equal(again.obs[key][0], test.obs[key][0]) for key in test.obs):
        raise UserError(f"--task {task}: the simulator is not deterministic, so predictions have no ground truth")
    return train, test


def examine(
    config: Config, train: Recording, test: Recording, stages: Sequence[Stage], seed: int, samples: int = SAMPLES
) -> dict[str, Any]:
    """Train a core, filter `CONTEXT` steps of test windows, and predict `HORIZON` more from their actions.

    Returns the curves of `ErrorCurves`, in standard deviations of each observed dimension over the training data.
    """
    model, loss = train_model(config, train, stages, seed)
    torch.manual_seed(seed)
    random = np.random.default_rng(0)  # the same windows for every core and seed
    episodes = np.arange(test.episodes)
    starts = random.integers(test.length - CONTEXT - HORIZON, size=test.episodes)
    batch = with_initial_context(model, test.windows(episodes, starts, CONTEXT + HORIZON))
    keys = sorted(test.obs)
    scale = torch.from_numpy(np.concatenate([train.obs[key].std((0, 1)) for key in keys]).clip(1e-3))
    truth = torch.cat([batch.obs[key] for key in keys], -1)
    target = truth / scale
    curves = ErrorCurves()
    with torch.no_grad():
        start = model.observe(batch)[:, CONTEXT - 1].map(lambda x: x.repeat_interleave(samples, 0))
        states = predict(model.core, start, batch.prev_action[:, CONTEXT:], samples)
        for t, state in enumerate(states, start=CONTEXT):
            decoded = model.decode(state)
            predicted = torch.cat([decoded[key] for key in keys], -1).unflatten(0, (-1, samples)) / scale
            curves.add(predicted, target[:, t], target[:, CONTEXT - 1])
    return {"loss": loss, **curves.curves}
