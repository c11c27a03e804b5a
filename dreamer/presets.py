"""Sizes and presets, as changes of the defaults. The defaults are the settings of Dreamer V3."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Size:
    """Widths of the networks at one size. As in V3, there are 32 latent groups and 8 blocks at every size."""

    deter: int
    """Dimension of the deterministic state."""
    hidden: int
    """Width of the projections, the prior and the posterior of the core."""
    classes: int
    """Classes per categorical latent group."""
    depth: int
    """Channel multiplier of the image networks."""
    units: int
    """Width of the MLPs."""


SIZES: dict[str, Size] = {
    "100k": Size(128, 32, 4, 2, 32),
    "300k": Size(256, 64, 4, 4, 64),
    "1m": Size(512, 64, 4, 4, 64),
    "12m": Size(2048, 256, 16, 16, 256),
    "25m": Size(3072, 384, 24, 24, 384),
    "50m": Size(4096, 512, 32, 32, 512),
    "100m": Size(6144, 768, 48, 48, 768),
    "200m": Size(8192, 1024, 64, 64, 1024),
    "400m": Size(12288, 1536, 96, 96, 1536),
}

SMALL: dict[str, Any] = {
    "size": "300k",
    "env.num_envs": 4,
    "env.repeat": 4,
    "loop.replay_ratio": 128.0,
    "loop.batch_size": 32,
    "loop.batch_length": 8,
    "loop.learning_starts": 500,
    "loop.checkpoint_every": 5_000,
    "agent.imagination_horizon": 10,
    "agent.world_model.discount_horizon": 80.0,
    "agent.dynamics.rssm.free_nats": 0.1,
    "agent.dynamics.ssm.free_nats": 0.1,
    "agent.dynamics.s5.free_nats": 0.1,
    "agent.dynamics.transformer.free_nats": 0.1,
    "agent.dynamics.transformer.window": 8,
    "agent.optimizer.learning_rate": 7e-4,
    "agent.optimizer.warmup": 100,
}
"""Settings with which a small model learns from few updates on two CPU cores; docs/log.md has the experiments."""

PRESETS: dict[str, dict[str, Any]] = {
    "quick": SMALL
    | {
        "steps": 50_000,
        "env.train_time_limit": 250,
        "agent.optimizer.decay": 1.0,
    },
    "dmc_fast": SMALL
    | {
        "steps": 100_000,
        "env.repeat": 2,
        "loop.replay_ratio": 200.0,
        "loop.batch_size": 8,
        "loop.batch_length": 32,
        "agent.dynamics.transformer.window": 16,
        "loop.epsilon": 0.02,
        "agent.dynamics.latent": "gaussian",
        "agent.world_model.standardize": True,
        "agent.world_model.discount_horizon": 333.0,
        "agent.behavior.tanh_penalty": 0.1,
        "agent.behavior.entropy": 3e-3,
        "agent.behavior.entropy_decay": 1.0,
        "agent.optimizer.decay": 1.0,
    },
    "ablation": SMALL
    | {
        "size": "100k",
        "steps": 40_000,
        "env.repeat": 8,
        "loop.replay_ratio": 256.0,
        "loop.learning_starts": 200,
        "loop.video": "never",
        "agent.behavior.entropy": 1e-3,
        "agent.world_model.discount_horizon": 40.0,
        "agent.optimizer.decay": 1.0,
    },
    "pixels_quick": SMALL
    | {
        "steps": 60_000,
        "env.obs": "pixels",
        "env.shadows": False,
        "env.train_time_limit": 250,
        "loop.batch_size": 16,
        "loop.eval_episodes": 5,
        "loop.checkpoint_every": 10_000,
        "replay.capacity": 50_000,
        "agent.dynamics.latent": "gaussian",
        "agent.world_model.scales.reconstruction": 10.0,
        "agent.optimizer.decay": 1.0,
    },
    "dmc_proprio": {
        "size": "1m",
        "steps": 1_100_000,
        "env.num_envs": 16,
        "loop.replay_ratio": 1024.0,
        "agent.optimizer.clip_groups": "v3",
    },
    "dmc_proprio_2024": {
        "size": "12m",
        "steps": 600_000,
        "env.num_envs": 16,
        "env.repeat": 2,
        "loop.replay_ratio": 512.0,
        "agent.behavior.action_unimix": 0.01,
        "agent.optimizer.clip_groups": "v3",
    },
    "dmc_vision": {
        "size": "200m",
        "steps": 1_100_000,
        "env.obs": "pixels",
        "env.num_envs": 16,
        "loop.replay_ratio": 256.0,
        "agent.optimizer.clip_groups": "v3",
    },
    "dmc_vision_2024": {
        "size": "12m",
        "steps": 1_200_000,
        "env.obs": "pixels",
        "env.num_envs": 8,
        "env.repeat": 2,
        "loop.replay_ratio": 512.0,
        "agent.world_model.image.resampling": "strided",
        "agent.behavior.action_unimix": 0.01,
        "agent.optimizer.clip_groups": "v3",
    },
    "debug": {
        "size": "100k",
        "steps": 2_000,
        "env.num_envs": 2,
        "env.time_limit": 100,
        "loop.replay_ratio": 8.0,
        "loop.batch_size": 4,
        "loop.batch_length": 16,
        "loop.learning_starts": 64,
        "loop.log_every": 100,
        "loop.eval_every": 500,
        "loop.eval_episodes": 2,
        "loop.checkpoint_every": 500,
        "loop.video": "never",
        "loop.imagine_every": 1_000,
        "agent.imagination_horizon": 5,
    },
}

PURPOSES = {
    "quick": "a small model for cartpole_balance on two CPU cores; the default",
    "dmc_fast": "DeepMind Control from state in few steps",
    "pixels_quick": "cartpole_balance from 64x64 pixels",
    "ablation": "comparisons of cores: a smaller model, action repeat 8",
    "dmc_proprio": "DreamerV3 as in its public code, from state",
    "dmc_proprio_2024": "DreamerV3 as in the paper of 2024, from state",
    "dmc_vision": "DreamerV3 as in its public code, from pixels",
    "dmc_vision_2024": "DreamerV3 as in the paper of 2024, from pixels",
    "debug": "every part on a tiny model and short episodes",
}
"""Preset -> its purpose, as help shows it."""
