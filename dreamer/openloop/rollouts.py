"""Held-out episodes, rollouts of the model with given actions or with the policy, and errors of its predictions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

import envs
from dreamer.agent import Agent
from dreamer.batch import ROW_SCALARS, Batch, Row
from dreamer.dynamics.core import DynamicsCore
from dreamer.experience.collect import Collector
from dreamer.experience.spaces import Spec, require_spec
from dreamer.nn.struct import Struct
from dreamer.tracking.progress import follow
from envs import EVAL_INDEX, MakeEnv


@dataclass(frozen=True)
class HeldOut:
    """The same steps of several held-out episodes."""

    batch: Batch
    """Rows `[episode, time]`; filtering starts from the initial state."""
    alive: Bool[Tensor, "episode time"]
    """True for rows of the episode, False behind its last row."""


def held_out(agent: Agent, make_env: MakeEnv, episodes: int, steps: int, skip: int, timeout: float = 0.0) -> HeldOut:
    """Let the policy act in evaluation environments and return steps `skip` to `skip + steps` of their first episodes.

    The result is shorter when no episode lasts that long. `timeout` is as in `envs.make_vector`.
    """
    indices = [EVAL_INDEX + i for i in range(episodes)]
    arrived: list[Row] = []
    with closing(envs.make_vector(make_env, indices, timeout=timeout)) as vector:
        require_spec(Spec(agent.obs_shapes, agent.action), vector)
        collector = Collector(agent, vector, indices)
        collector.reset()
        for _ in follow(range(skip + steps), "imagining", skip + steps, "steps of held-out episodes"):
            if arrived:
                collector.advance()
            arrived.append(collector.arrived)
            collector.act()

    def stacked(arrays: list[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.stack(arrays, 1)).to(agent.device)

    firsts = stacked([row.is_first for row in arrived]).int().cumsum(1)
    alive = (firsts == 1)[:, skip:]
    length = int(alive.any(0).sum())
    scalars = {name: stacked([getattr(row, name) for row in arrived[skip:]])[:, :length] for name in ROW_SCALARS}
    core = agent.world_model.core
    batch = Batch(
        obs={key: stacked([row.obs[key] for row in arrived[skip:]])[:, :length] for key in agent.obs_shapes},
        prev_action=stacked([row.prev_action for row in arrived[skip:]])[:, :length],
        context=core.pack(core.initial_state(episodes)),
        **scalars,
    )
    return HeldOut(batch, alive[:, :length])


def predict(
    core: DynamicsCore[Any], start: Struct, actions: Float[Tensor, "episode horizon action"], samples: int
) -> Iterator[Struct]:
    """Yield the prior states `[episode * sample]` that follow `start` (`[episode * sample]`), one for each action."""
    state = start
    for action in actions.unbind(1):
        state = core.imagine_step(state, action.repeat_interleave(samples, 0))
        yield state


class ErrorCurves:
    """Errors of sampled predictions, step by step, as means over episodes and dimensions.

    `rmse` is the error of the mean of the samples. `crps` is the error of their distribution; it equals the absolute
    error where all samples agree. `spread` is their standard deviation. `copy_rmse` and `copy_crps` are the errors of
    repeating the last observation. `coverage_50` and `coverage_90` are the fractions of targets inside the central
    intervals of the samples.
    """

    def __init__(self) -> None:
        self.curves: dict[str, list[float]] = {}

    def add(
        self,
        samples: Float[Tensor, "episode sample dimension"],
        target: Float[Tensor, "episode dimension"],
        last: Float[Tensor, "episode dimension"],
    ) -> None:
        """Add the errors of the next step ahead; `last` is the last observation."""
        below = (samples < target.unsqueeze(1)).float().mean(1)
        step = {
            "rmse": (samples.mean(1) - target).square().mean().sqrt(),
            "crps": crps(samples, target).mean(),
            "spread": samples.std(1).mean() if samples.shape[1] > 1 else torch.zeros(()),
            "copy_rmse": (last - target).square().mean().sqrt(),
            "copy_crps": (last - target).abs().mean(),
            "coverage_50": ((below >= 0.25) & (below <= 0.75)).float().mean(),
            "coverage_90": ((below >= 0.05) & (below <= 0.95)).float().mean(),
        }
        for name, value in step.items():
            self.curves.setdefault(name, []).append(value.item())


def crps(
    samples: Float[Tensor, "episode sample ..."], target: Float[Tensor, "episode ..."]
) -> Float[Tensor, "episode ..."]:
    """Return the continuous ranked probability score of samples for targets.

    E|X - y| - E|X - X'| / 2 over distinct pairs (the fair estimate of Ferro 2014), computed by sorting.
    """
    count = samples.shape[1]
    error = (samples - target.unsqueeze(1)).abs().mean(1)
    if count == 1:
        return error
    ordered = samples.sort(1).values
    weight = (2 * torch.arange(1, count + 1, device=samples.device) - count - 1).to(samples.dtype)
    weight = weight.view(1, -1, *[1] * (samples.ndim - 2))
    return error - (ordered * weight).sum(1) / (count * (count - 1))
