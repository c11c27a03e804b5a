"""Part `uncertainty`: two outcomes of one action. A pushed box moves or sticks, with a known distribution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy import stats
from scipy.special import logsumexp

from dreamer.config import Config
from dreamer.experiments.exam.learner import Stage, train_model, with_initial_context
from dreamer.experiments.exam.recordings import Recording, train_and_test, uniform_actions
from dreamer.world_model.world_model import WorldModel
from envs import make
from envs.push import MOVE_PROBABILITY, SIGMA, next_observation_modes, predictive_log_density

STEPS = 4
EPISODES = (8000, 130)
STAGES = (Stage(5000, 256, STEPS + 1),)
SETTINGS = {"stoch": 8, "learning_rate": 3e-3, "sigma": SIGMA}
SAMPLES = 1000
TEST_STEPS = (1, 2, 3)
"""Steps of the test episodes whose next observation is predicted."""


def recordings(train_episodes: int, test_episodes: int) -> tuple[Recording, Recording]:
    """Return training and test episodes of random pushes."""

    def push(index: int) -> Any:
        return make("toy:push", index=index)

    return train_and_test(push, STEPS, uniform_actions(1), train_episodes, test_episodes)


def examine(
    config: Config, train: Recording, test: Recording, stages: Sequence[Stage], seed: int, samples: int = SAMPLES
) -> dict[str, Any]:
    """Train a core and return the measures of its predictions of the next observation."""
    model, loss = train_model(config, train, stages, seed)
    torch.manual_seed(seed)
    return {"loss": loss} | judge(predict(model, test, samples), test)


def judge(decoded: np.ndarray, test: Recording) -> dict[str, Any]:
    """Return measures of decoded samples `[episode, step, sample]` of the observations that follow `TEST_STEPS`.

    The density of a model is the mean of N(decoded sample, sigma^2). `nll_gap` is in nats above the true distribution
    given the true position. `nll_gap_floor` is the gap of a perfect filter, which has to infer the position from noisy
    observations. `moved` and `stuck` are the fractions of samples within half the distance between the two outcomes of
    each outcome.
    """
    before, after = np.array(TEST_STEPS), np.array(TEST_STEPS) + 1
    seen = test.obs["position"][:, after, 0]
    action = test.prev_action[:, after, 0]
    means, weights, sigma = next_observation_modes(test.truth[:, before], action)
    true_log = logsumexp(stats.norm.logpdf(seen[..., None], means, sigma), b=weights, axis=-1)
    best_log = np.stack(
        [
            predictive_log_density(obs[:, 0], actions[1:, 0])[before]
            for obs, actions in zip(test.obs["position"], test.prev_action, strict=True)
        ]
    )
    model_log = logsumexp(stats.norm.logpdf(seen[..., None], decoded, sigma), axis=-1) - np.log(decoded.shape[-1])
    moved, stuck = mode_masses(decoded, means)
    pit = stats.norm.cdf((seen[..., None] - decoded) / sigma).mean(-1).ravel()
    return {
        "nll": float(-model_log.mean()),
        "nll_gap": float((true_log - model_log).mean()),
        "nll_gap_floor": float((true_log - best_log).mean()),
        "moved": float(moved.mean()),
        "stuck": float(stuck.mean()),
        "neither": float(1 - moved.mean() - stuck.mean()),
        "true_moved": MOVE_PROBABILITY,
        "moved_error_per_state": float(np.abs(moved - MOVE_PROBABILITY).mean()),
        "pit_histogram": (np.histogram(pit, 10, (0, 1))[0] / len(pit)).tolist(),
        "pit_ks": float(stats.kstest(pit, "uniform").statistic),
        "coverage_50": float(np.mean((pit > 0.25) & (pit < 0.75))),
        "coverage_90": float(np.mean((pit > 0.05) & (pit < 0.95))),
        "example": {
            "samples": decoded[0, -1][:1000].round(4).tolist(),
            "means": means[0, -1].tolist(),
            "weights": weights[0, -1].tolist(),
            "sigma": sigma,
        },
    }


@torch.no_grad()
def predict(model: WorldModel, test: Recording, samples: int) -> np.ndarray:
    """Return decoded prior samples `[episode, step, sample]` of the observations that follow `TEST_STEPS`."""
    everything = np.arange(test.episodes)
    batch = with_initial_context(model, test.windows(everything, np.zeros_like(everything), test.length))
    states = model.observe(batch)
    decoded = []
    for step in TEST_STEPS:
        start = states[:, step].map(lambda x: x.repeat_interleave(samples, 0))
        action = batch.prev_action[:, step + 1].repeat_interleave(samples, 0)
        positions = model.decode(model.core.imagine_step(start, action))["position"]
        decoded.append(positions.reshape(test.episodes, samples))
    return torch.stack(decoded, 1).double().numpy()


def mode_masses(decoded: np.ndarray, means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the fractions of samples `[..., sample]` within half the distance between two means `[..., 2]` of each."""
    half = np.abs(means[..., :1] - means[..., 1:]) / 2
    moved, stuck = (np.mean(np.abs(decoded - means[..., i : i + 1]) < half, -1) for i in range(2))
    return moved, stuck
