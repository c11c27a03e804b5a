"""Imagined rollouts: the policy acts in the world model, which predicts with its prior."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dreamer.batch import Trajectory
from dreamer.dynamics.core import DynamicsCore
from dreamer.nn.struct import Struct
from dreamer.world_model.world_model import WorldModel

Policy = Callable[[Float[Tensor, "start feature"]], Float[Tensor, "start action"]]
"""Features to actions."""


def rollout(
    core: DynamicsCore[Any], policy: Policy, start: Struct, horizon: int
) -> Iterator[tuple[Struct, Float[Tensor, "start feature"], Float[Tensor, "start action"] | None]]:
    """Yield `horizon` + 1 states `[start]`, their features, and the actions that led to them: None at the start."""
    state, features = start, core.features(start)
    yield state, features, None
    for _ in range(horizon):
        action = policy(features.detach())
        state = core.imagine_step(state, action)
        features = core.features(state)
        yield state, features, action


def imagine(world_model: WorldModel, policy: Policy, start: Struct, horizon: int) -> Trajectory:
    """Imagined rollouts of `horizon` transitions from the states `start` (leading axis `[start]`).

    Rewards and discounts are predicted for all horizon + 1 states, including the start. Under `torch.no_grad()` nothing
    is recorded. Otherwise gradients flow from all results to the actions, through the dynamics. They do not flow
    through the input of the policy, which is always detached (V1, V3).
    """
    features, actions = [], []
    for _, feature, action in rollout(world_model.core, policy, start, horizon):
        features.append(feature)
        if action is not None:
            actions.append(action)
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
