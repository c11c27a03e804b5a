"""Episodes that training never saw, and rollouts of the model alone: with given actions, or with the policy's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass

import gymnasium
import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

import envs
from dreamer.agent import Agent
from dreamer.batch import ROW_SCALARS, Batch, Row
from dreamer.behavior.imagination import Policy
from dreamer.dynamics import DynamicsCore
from dreamer.experience.collect import Collector
from dreamer.nn.struct import Struct
from envs import EVAL_INDEX


@dataclass(frozen=True)
class Windows:
    """The same rows of several episodes."""

    batch: Batch
    """Rows `[window, time]`; filtering begins with the initial state."""
    alive: Bool[Tensor, "window time"]
    """Which rows belong to the window's episode; those behind its last row do not."""


def held_out(
    agent: Agent,
    make_env: Callable[[int], gymnasium.Env],
    episodes: int,
    rows: int,
    skip: int,
    timeout: float = 0.0,
) -> Windows:
    """Let the policy act in evaluation environments; rows `skip` to `skip + rows` of their first episodes.

    Fewer rows where no episode lasts that long. `timeout` is as of `envs.make_vector`.
    """
    indices = [EVAL_INDEX + i for i in range(episodes)]
    arrived: list[Row] = []
    with closing(envs.make_vector(make_env, indices, timeout=timeout)) as vector:
        collector = Collector(agent, vector, indices)
        collector.reset()
        for _ in range(skip + rows):
            if arrived:
                collector.advance()
            arrived.append(collector.arrived)
            collector.act()

    def stacked(arrays: list[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.stack(arrays, 1)).to(agent.device)

    firsts = stacked([row.is_first for row in arrived]).int().cumsum(1)
    alive = (firsts == 1)[:, skip:]
    lasting = int(alive.any(0).sum())
    scalars = {name: stacked([getattr(row, name) for row in arrived[skip:]])[:, :lasting] for name in ROW_SCALARS}
    core = agent.world_model.core
    batch = Batch(
        obs={key: stacked([row.obs[key] for row in arrived[skip:]])[:, :lasting] for key in arrived[0].obs},
        prev_action=stacked([row.prev_action for row in arrived[skip:]])[:, :lasting],
        context=core.pack(core.initial_state(episodes)),
        **scalars,
    )
    return Windows(batch, alive[:, :lasting])


def predict(
    core: DynamicsCore, start: Struct, actions: Float[Tensor, "window horizon action"], samples: int
) -> Iterator[Struct]:
    """Prior-only states `[window * sample]` that follow `start` (`[window * sample]`), one for each action."""
    state = start
    for action in actions.unbind(1):
        state = core.imagine_step(state, action.repeat_interleave(samples, 0))
        yield state


def dream(core: DynamicsCore, start: Struct, policy: Policy, horizon: int) -> Iterator[Struct]:
    """Prior-only states `[start]` in which the policy chooses every action."""
    state = start
    for _ in range(horizon):
        state = core.imagine_step(state, policy(core.features(state)))
        yield state
