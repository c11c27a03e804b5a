"""Settings that decay with the planned updates of a run: learning rates, and the weight of the entropy."""

from __future__ import annotations

from collections.abc import Mapping

from dreamer.agent import Agent
from dreamer.nn.optim import Decay, LaProp


def decays(agent: Agent) -> dict[str, tuple[Decay, LaProp]]:
    """Each decay, and the optimizer whose updates it follows."""
    main, vision = agent.optimizer, agent.vision_optimizer
    found = {"learning rate": (main.decay, main), "entropy bonus": (agent.actor_critic.decay, main)}
    return found | ({"learning rate of vision": (vision.decay, vision)} if vision is not None else {})


def plan_decays(agent: Agent, updates: int) -> list[str]:
    """Spread the decays over the planned updates of a run; returns the course of each from now on.

    In staged training, vision has the first of these updates, and everything else those that follow. A decay whose end
    is moved continues from its present value.
    """
    staged, courses = min(agent.world_model.core.vision_updates, updates), []
    for name, (decay, optimizer) in decays(agent).items():
        at = float(optimizer.updates)
        decay.plan(staged if optimizer is agent.vision_optimizer else updates - staged, at)
        courses += [f"the {name} {course}"] if (course := decay.describe(at)) else []
    return courses


def decays_state(agent: Agent) -> dict[str, list[float]]:
    """Start, value there and end of each decay, for checkpoints."""
    return {name: [decay.start, decay.value, decay.end] for name, (decay, _) in decays(agent).items()}


def load_decays(agent: Agent, state: Mapping[str, list[float]]) -> None:
    """Restore what `decays_state` returned; an older version kept none."""
    for name, (decay, _) in decays(agent).items():
        if name in state:
            decay.start, decay.value, decay.end = map(float, state[name])
