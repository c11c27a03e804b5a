"""Prior-only rollouts of the policy inside the world model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dreamer.batch import Trajectory
from dreamer.nn.layers import MLP, JointLinear
from dreamer.nn.struct import Struct
from dreamer.world_model.world_model import WorldModel


@runtime_checkable
class Policy(Protocol):
    """Chooses actions for features, given what the actor's first linear map makes of them, if that is known."""

    def __call__(
        self, features: Float[Tensor, "start feature"], first: Float[Tensor, "start _"] | None = None
    ) -> Float[Tensor, "start action"]:
        """Actions."""
        ...


def imagine(world_model: WorldModel, policy: Policy, start: Struct, horizon: int) -> Trajectory:
    """Roll the policy out from `start` (leading axis `[start]`) for `horizon` transitions, by the prior alone.

    Rewards and discounts are predicted on all horizon + 1 states, the start included. Gradients follow the caller's
    mode: under `torch.no_grad()` nothing is recorded; otherwise they reach the policy through actions and dynamics,
    and the policy's own input is always stopped (V1, V3).
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


@torch.no_grad()
def imagine_fast(
    world_model: WorldModel, policy: Policy, readers: Mapping[str, MLP], start: Struct, horizon: int
) -> Trajectory:
    """`imagine` without gradients, the same numbers for less work.

    One matrix product computes the first linear maps of all that reads the features, while they are in the cache: those
    of the reward and continue heads, and of `readers` ("actor" among them), which the trajectory keeps.
    """
    core = world_model.core
    heads = {"reward": world_model.reward.mlp, "cont": world_model.cont.mlp, **readers}
    joint = JointLinear(list(heads.values()))
    state, x = start, core.features(start)
    visited, actions, first = _Steps(horizon + 1), _Steps(horizon), {name: _Steps(horizon + 1) for name in heads}
    for step in range(horizon + 1):
        visited.append(x)
        for steps, value in zip(first.values(), joint(x), strict=True):
            steps.append(value)
        if step < horizon:
            action = policy(x, first["actor"].last)
            actions.append(action)
            state = core.imagine_step(state, action)
            x = core.features(state)
    known = {name: steps.all for name, steps in first.items()}
    reward, discount = world_model.predict(visited.all, known)
    return Trajectory(visited.all, actions.all, reward, discount, {name: known[name] for name in readers})


class _Steps:
    """`torch.stack(..., 1)` of tensors as they come, so that each is copied while it is in the cache."""

    def __init__(self, count: int):
        self.count, self.filled = count, 0

    def append(self, value: Tensor) -> None:
        if not self.filled:
            self.all = value.new_empty(value.shape[0], self.count, *value.shape[1:])
        self.all[:, self.filled] = value
        self.last = value
        self.filled += 1


@contextlib.contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """Record no gradients for the modules' parameters while still passing gradients through their outputs."""
    params = [param for module in modules for param in module.parameters() if param.requires_grad]
    for param in params:
        param.requires_grad_(False)
    try:
        yield
    finally:
        for param in params:
            param.requires_grad_(True)
