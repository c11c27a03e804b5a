"""Imagined rollouts: the policy acts in the world model, which predicts with its prior."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dreamer.batch import Trajectory
from dreamer.nn.struct import Struct
from dreamer.world_model.world_model import WorldModel

Policy = Callable[[Float[Tensor, "start feature"]], Float[Tensor, "start action"]]
"""Features to actions."""


def imagine(world_model: WorldModel, policy: Policy, start: Struct, horizon: int) -> Trajectory:
    """Imagined rollouts of `horizon` transitions from the states `start` (leading axis `[start]`).

    Rewards and discounts are predicted for all horizon + 1 states, including the start. Under `torch.no_grad()` nothing
    is recorded. Otherwise gradients flow from all results to the actions, through the dynamics. They do not flow
    through the input of the policy, which is always detached (V1, V3).
    """
    core = world_model.core
    state = start
    features, actions = [core.features(state)], []
    for _ in range(horizon):
        action = policy(features[-1].detach())
        state = core.imagine_step(state, action)
        actions.append(action)
        features.append(core.features(state))
    stacked = torch.stack(features, 1)
    reward, discount = world_model.predict(stacked)
    return Trajectory(stacked, torch.stack(actions, 1), reward, discount)


@contextlib.contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """Context in which the modules' parameters get no gradients, while gradients still pass through their outputs."""
    params = [param for module in modules for param in module.parameters() if param.requires_grad]
    for param in params:
        param.requires_grad_(False)
    try:
        yield
    finally:
        for param in params:
            param.requires_grad_(True)
