"""Part `speed`: seconds per update of the whole agent and per imagined step, with the cores in turn in one process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from statistics import median
from typing import Any

import torch

from dreamer.agent import Agent
from dreamer.config import Config
from dreamer.experience.spaces import Spec
from dreamer.experiments.bench.costs import in_turn, random_batch

BATCH, LENGTH = 16, 64


def examine(configs: Mapping[str, Config], spec: Spec, rounds: int) -> dict[str, dict[str, Any]]:
    """Return the median seconds of an update (batch 16 x 64) and of an imagined step of 1,024 states, by core."""
    torch.manual_seed(0)
    agents = {name: Agent(config.agent, spec.obs_shapes, spec.action) for name, config in configs.items()}
    calls: dict[str, Callable[[], Any]] = {}
    for name, agent in agents.items():
        core = agent.world_model.core
        state, action = core.initial_state(BATCH * LENGTH), torch.zeros(BATCH * LENGTH, spec.action.dim)
        calls[f"update {name}"] = partial(agent.update, random_batch(agent, BATCH, LENGTH))
        calls[f"imagine {name}"] = torch.no_grad()(partial(core.imagine_step, state, action))
    times = in_turn(calls, torch.device("cpu"), 1 + rounds)
    return {
        name: {
            "parameters": sum(agent.parameter_counts().values()),
            "seconds_per_update": median(times[f"update {name}"][1:]),
            "seconds_per_imagined_step": median(times[f"imagine {name}"][1:]),
        }
        for name, agent in agents.items()
    }
