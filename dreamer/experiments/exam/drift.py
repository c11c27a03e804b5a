"""How far can a core see? Open-loop prediction on DeepMind Control data after five observed steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from dreamer.config import Config
from dreamer.errors import UserError
from dreamer.experiments.exam.learner import Stage, train_model, with_initial_context
from dreamer.experiments.exam.recordings import Recording, record, smooth_actions
from envs import make

CONTEXT = 5
HORIZON = 50
STEPS = 200
STAGES = (Stage(1000, 16, 50),)
REPEAT = 2


def recordings(task: str, train_episodes: int, test_episodes: int) -> tuple[Recording, Recording]:
    """Training and test episodes.

    The simulator repeats itself exactly, so a perfect model makes no error; a task that does not repeat itself (checked
    on the first test episode) raises `UserError`.
    """

    def control(index: int) -> Any:
        return make(task, index=index, repeat=REPEAT, time_limit=(STEPS + 1) * REPEAT)

    size = control(0).action_space.shape[0]
    train = record(control, train_episodes, STEPS, smooth_actions(size))
    test = record(control, test_episodes, STEPS, smooth_actions(size), first_index=1_000_000)
    again = record(control, 1, STEPS, smooth_actions(size), first_index=1_000_000)
    if any(not np.array_equal(again.obs[key][0], test.obs[key][0]) for key in test.obs):
        raise UserError(f"--task {task}: the simulator does not repeat itself, so its predictions have no truth")
    return train, test


def examine(
    config: Config, train: Recording, test: Recording, stages: Sequence[Stage], samples: int, seed: int
) -> dict[str, Any]:
    """Train a core, filter `CONTEXT` rows of test windows, and predict `HORIZON` more from their actions alone.

    All errors are in standard deviations of each observed number over the training data, then averaged over numbers
    and windows: `rmse` of the mean of the samples, `crps` of their distribution (equal to the absolute error where all
    samples agree), `spread` of the samples, and `copy_rmse`, `copy_crps` of repeating the last observed row.
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
    with torch.no_grad():
        states = model.observe(batch)[:, CONTEXT - 1].map(lambda x: x.repeat_interleave(samples, 0))
        predictions = []
        for t in range(CONTEXT, CONTEXT + HORIZON):
            states = model.core.imagine_step(states, batch.prev_action[:, t].repeat_interleave(samples, 0))
            decoded = model.decode(states)
            predictions.append(torch.cat([decoded[key] for key in keys], -1).unflatten(0, (-1, samples)))
    predicted = torch.stack(predictions, 2) / scale  # [window, sample, horizon, number]
    target = truth[:, CONTEXT:] / scale
    last = (truth[:, CONTEXT - 1 : CONTEXT] / scale).expand_as(target)
    return {
        "loss": loss,
        "rmse": _curve((predicted.mean(1) - target).square()).sqrt().tolist(),
        "crps": _curve(crps(predicted, target)).tolist(),
        "spread": _curve(predicted.std(1) if samples > 1 else torch.zeros_like(target)).tolist(),
        "copy_rmse": _curve((last - target).square()).sqrt().tolist(),
        "copy_crps": _curve((last - target).abs()).tolist(),
    }


def crps(samples: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Continuous ranked probability score of samples `[batch, sample, ...]` for targets `[batch, ...]`.

    E|X - y| - E|X - X'| / 2 over distinct pairs (the fair estimate, Ferro 2014), computed by sorting.
    """
    count = samples.shape[1]
    error = (samples - target.unsqueeze(1)).abs().mean(1)
    if count == 1:
        return error
    ordered = samples.sort(1).values
    weight = (2 * torch.arange(1, count + 1, device=samples.device) - count - 1).to(samples.dtype)
    weight = weight.view(1, -1, *[1] * (samples.ndim - 2))
    return error - (ordered * weight).sum(1) / (count * (count - 1))


def _curve(errors: torch.Tensor) -> torch.Tensor:
    """Mean over windows and numbers of `[window, horizon, number]`."""
    return errors.mean((0, 2))
