"""Part `speed`: seconds per update of the whole agent and per imagined step, with the cores in turn in one process."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from statistics import median
from typing import Any

import torch

from dreamer.agent import Agent
from dreamer.config import Config
from dreamer.experience.spaces import Spec
from dreamer.experiments.bench.costs import random_batch, timed

BATCH, LENGTH = 16, 64


def examine(configs: Mapping[str, Config], spec: Spec, rounds: int) -> dict[str, dict[str, Any]]:
    """Return the median seconds of an update (batch 16 x 64) and of an imagined step of 1,024 states, by core.

    Every round times every core once, so that a slow period of the machine affects all of them.
    """
    torch.manual_seed(0)
    agents = {name: Agent(config.agent, spec.obs_shapes, spec.action) for name, config in configs.items()}
    batches = {name: random_batch(agent, BATCH, LENGTH) for name, agent in agents.items()}
    times: dict[str, dict[str, list[float]]] = {name: {"update": [], "imagine": []} for name in agents}
    for _ in range(rounds + 1):
        for name, agent in agents.items():
            core = agent.world_model.core
            state, action = core.initial_state(BATCH * LENGTH), torch.zeros(BATCH * LENGTH, spec.action.dim)
            times[name]["update"].append(timed(partial(agent.update, batches[name]), agent.device))
            with torch.no_grad():
                times[name]["imagine"].append(timed(partial(core.imagine_step, state, action), agent.device))
    return {
        name: {
            "parameters": sum(agents[name].parameter_counts().values()),
            "seconds_per_update": median(taken["update"][1:]),
            "seconds_per_imagined_step": median(taken["imagine"][1:]),
        }
        for name, taken in times.items()
    }
