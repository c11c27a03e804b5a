"""A study of one run's imagination: predictions of held-out episodes beside what happened, and free dreams."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated

import gymnasium
import numpy as np
import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor

from dreamer.agent import Agent
from dreamer.errors import UserError
from dreamer.nn.struct import Struct
from dreamer.openloop.errors import ErrorCurves
from dreamer.openloop.rollouts import Windows, dream, held_out, predict
from dreamer.system.randomness import own_randomness

DREAMS = 4
"""Samples and dreams of an episode that are shown side by side."""
SAMPLES, IMAGE_SAMPLES = 64, 16
"""Samples of an episode where no number is asked for: images take long to decode and to compare."""
UNCHANGING = 1e-3
"""Standard deviation below which a number counts as constant and is measured in its own units."""


@dataclass(frozen=True)
class StudySettings:
    """What is observed and what is predicted."""

    context: Annotated[int, Ge(1)] = 5
    """Rows that the model observes before it predicts."""
    horizon: Annotated[int, Ge(1)] = 50
    """Rows that it predicts, fewer where episodes end before."""
    episodes: Annotated[int, Ge(1)] = 8
    """Held-out episodes."""
    samples: Annotated[int, Ge(0)] = 0
    """Predictions drawn for each episode; 0 is 64, or 16 where images are observed."""
    skip: Annotated[int, Ge(0)] = 0
    """Rows of each episode before the observed ones, which the model does not get to see."""
    shown: Annotated[int, Ge(1)] = 3
    """Episodes that pictures and films show."""
    seed: Annotated[int, Ge(0)] = 0
    """Seed of the policy's actions and of the samples."""


GLANCE = StudySettings(episodes=4, samples=16)
"""What training affords itself."""


@dataclass(frozen=True)
class Signal:
    """One observation key, or the reward, in the episodes shown; arrays are float32, images in [0, 1]."""

    real: np.ndarray
    """What happened `[window, time, ...]`; rows behind the end of an episode are NaN."""
    samples: np.ndarray
    """What the model imagines `[window, sample, time, ...]`, observed rows reconstructed; of images `DREAMS`."""
    dreams: np.ndarray
    """What follows the observed rows when the policy acts in the model `[window, dream, time, ...]`."""
    errors: dict[str, list[float]]
    """Curves of `ErrorCurves` over the predicted rows of all episodes."""

    @property
    def is_image(self) -> bool:
        """Whether rows are images `[height, width, channel]` rather than vectors."""
        return self.real.ndim == 5

    @property
    def unit(self) -> str:
        """Unit of the errors."""
        return "brightness from 0 to 1" if self.is_image else "standard deviations"


@dataclass(frozen=True)
class Study:
    """Everything that pictures, films and numbers of an imagination are made from."""

    settings: StudySettings
    """What was asked for."""
    signals: dict[str, Signal]
    """Observation keys, then the reward."""
    alive: list[int]
    """Episodes that still go on at each predicted row."""


@torch.no_grad()
def study(
    agent: Agent, make_env: Callable[[int], gymnasium.Env], settings: StudySettings, timeout: float = 0.0
) -> Study:
    """Show the model the first rows of held-out episodes and let it predict the rest, and dream on.

    An environment that gives no answer within `timeout` seconds has failed (0 waits for ever). Leaves the global random
    state as it was. Raises `UserError` for a model without a decoder, and when every episode
    ends within the observed rows.
    """
    agent.world_model.decode(agent.world_model.core.initial_state(1))  # one without a decoder says so before any work
    with own_randomness(agent.device, settings.seed):
        rows = settings.context + settings.horizon
        windows = held_out(agent, make_env, settings.episodes, rows, settings.skip, timeout)
        if windows.alive.shape[1] <= settings.context:
            raise UserError(
                f"the held-out episodes end after {settings.skip + windows.alive.shape[1]} rows, "
                f"so none is left to predict; lower --context {settings.context} or --skip {settings.skip}"
            )
        images = any(_is_image(value[:, 0]) for value in windows.batch.obs.values())
        samples = settings.samples or (IMAGE_SAMPLES if images else SAMPLES)
        return _Observer(agent, windows, replace(settings, samples=samples)).study()


class _Observer:
    """Walks through the rows of windows once, keeping what is shown and the errors of everything."""

    def __init__(self, agent: Agent, windows: Windows, settings: StudySettings) -> None:
        self.agent, self.model, self.settings = agent, agent.world_model, settings
        self.batch, self.alive = windows.batch, windows.alive
        real = {key: _unit(value) for key, value in self.batch.obs.items()}
        self.reward = "reward" if "reward" not in real else "reward_"
        self.real = real | {self.reward: self.batch.reward.unsqueeze(-1)}
        self.scale = {key: self._scale(value) for key, value in self.real.items()}
        self.curves = {key: ErrorCurves() for key in self.real}
        self.samples: dict[str, list[Tensor]] = {key: [] for key in self.real}
        self.dreams: dict[str, list[Tensor]] = {key: [] for key in self.real}

    def study(self) -> Study:
        """Filter, predict, dream."""
        settings, core = self.settings, self.model.core
        context, samples, beside = settings.context, settings.samples, min(settings.samples, DREAMS)
        states = self._filter()
        for t in range(context):
            self._keep(self.samples, self._decode(states[:, t], samples))
        start = states[:, context - 1]
        for t, state in enumerate(predict(core, start, self.batch.prev_action[:, context:], samples), start=context):
            decoded = self._decode(state, samples)
            self._judge(t, decoded)
            self._keep(self.samples, decoded)
        shown = start.map(lambda x: x.unflatten(0, (-1, samples))[: settings.shown, :beside].flatten(0, 1))
        policy = self.agent.actor_critic.policy(sample=True)
        for state in dream(core, shown, policy, self.alive.shape[1] - context):
            self._keep(self.dreams, self._decode(state, beside))
        return Study(settings, {key: self._signal(key) for key in self.real}, self.alive.sum(0)[context:].tolist())

    def _filter(self) -> Struct:
        """States `[window * sample, time]` of the observed rows: every sample filters on its own."""
        context, samples = self.settings.context, self.settings.samples
        embeds = self.model.embed({key: value[:, :context] for key, value in self.batch.obs.items()})
        rows = (embeds, self.batch.prev_action[:, :context], self.batch.is_first[:, :context])
        return self.model.core.observe(*(value.repeat_interleave(samples, 0) for value in rows))

    def _decode(self, states: Struct, samples: int) -> dict[str, Tensor]:
        """What states `[window * sample]` stand for, `[window, sample, ...]` by key."""
        reward, _ = self.model.predict(self.model.core.features(states))
        decoded = self.model.decode(states) | {self.reward: reward.unsqueeze(-1)}
        return {key: value.float().unflatten(0, (-1, samples)) for key, value in decoded.items()}

    def _judge(self, t: int, decoded: dict[str, Tensor]) -> None:
        """Compare predictions of row t with what happened in the episodes that last so long."""
        alive = self.alive[:, t]
        for key, value in decoded.items():
            scale, real = self.scale[key], self.real[key]
            target, last = (real[alive, row].flatten(1) / scale for row in (t, self.settings.context - 1))
            self.curves[key].add(value[alive].flatten(2) / scale, target, last)

    def _keep(self, store: dict[str, list[Tensor]], decoded: dict[str, Tensor]) -> None:
        for key, value in decoded.items():
            kept = value[: self.settings.shown]
            store[key].append((kept[:, :DREAMS] if _is_image(value[:, 0]) else kept).cpu())

    def _scale(self, real: Tensor) -> Tensor:
        """Standard deviations of a vector's numbers in the held-out rows; an image is measured in its own units."""
        if _is_image(real[:, 0]):
            return torch.ones((), device=real.device)
        deviation = real[self.alive].std(0, correction=0)
        return torch.where(deviation < UNCHANGING, 1.0, deviation)

    def _signal(self, key: str) -> Signal:
        shown = slice(self.settings.shown)
        dead = ~self.alive[shown].reshape(*self.alive[shown].shape, *[1] * (self.real[key].ndim - 2))
        return Signal(
            real=self.real[key][shown].masked_fill(dead, torch.nan).cpu().numpy(),
            samples=torch.stack(self.samples[key], 2).numpy(),
            dreams=torch.stack(self.dreams[key], 2).numpy(),
            errors=self.curves[key].curves,
        )


def _is_image(rows: Tensor) -> bool:
    """Whether rows `[window, ...]` of a key are images."""
    return rows.ndim == 4


def _unit(value: Tensor) -> Float[Tensor, "window time *numbers"]:
    """Observations as floats: images in [0, 1], vectors in their own units."""
    return value.float() / 255 if value.dtype == torch.uint8 else value.float()
