"""Open-loop evaluation of a world model: predictions of held-out episodes beside the truth, and imagined rollouts."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dreamer.agent import Agent
from dreamer.batch import images
from dreamer.behavior.imagination import rollout
from dreamer.errors import UserError
from dreamer.nn.struct import Struct
from dreamer.openloop.rollouts import ErrorCurves, HeldOut, held_out, predict
from dreamer.system.randomness import own_randomness
from dreamer.tracking.progress import follow
from envs import MakeEnv
from envs.ranges import Few, Many, ManyOrNone, Seed, checked, flag

SHOWN_SAMPLES = 4
"""Samples, and imagined rollouts, of an episode that are shown side by side."""
SAMPLES, IMAGE_SAMPLES = 64, 16
"""Default samples of an episode, without and with images, which take long to decode and to compare."""
CONSTANT = 1e-3
"""Standard deviation below which a dimension counts as constant and keeps its own units."""


@dataclass(frozen=True)
class OpenLoopSettings:
    """Number of observed steps, predicted steps, episodes and samples."""

    context: Many = 5
    """Steps that the model observes before it predicts."""
    horizon: Many = 50
    """Steps that it predicts; fewer when all episodes end earlier."""
    episodes: Few = 8
    """Held-out episodes."""
    samples: ManyOrNone = 0
    """Predictions sampled for each episode; 0 is 64, or 16 with images."""
    skip: ManyOrNone = 0
    """Steps of each episode before the observed ones, which the model does not see."""
    shown: Few = 3
    """Episodes in pictures and videos."""
    seed: Seed = 0
    """Seed of the actions of the policy and of the samples."""


DURING_TRAINING = OpenLoopSettings(episodes=4, samples=16)
"""Settings of the evaluations in the course of training."""


@dataclass(frozen=True)
class Signal:
    """One observation key, or the reward, in the episodes shown. Arrays are float32, images in [0, 1]."""

    real: np.ndarray
    """Truth `[episode, time, ...]`; NaN behind the end of an episode."""
    samples: np.ndarray
    """Samples of the model `[episode, sample, time, ...]`, with reconstructions of the observed steps.

    Of images only the first `SHOWN_SAMPLES` are kept.
    """
    rollouts: np.ndarray
    """Imagined rollouts, in which the policy acts after the observed steps `[episode, rollout, time, ...]`."""
    errors: dict[str, list[float]]
    """Curves of `ErrorCurves` over the predicted steps of all episodes."""

    def __repr__(self) -> str:
        sizes = [f"{name}={list(getattr(self, name).shape)}" for name in ("real", "samples", "rollouts")]
        return f"Signal({', '.join(sizes)}, errors={list(self.errors)})"

    @property
    def is_image(self) -> bool:
        """True for images `[height, width, channel]`, False for vectors."""
        return self.real.ndim == 5

    @property
    def unit(self) -> str:
        """Unit of the errors."""
        return "brightness from 0 to 1" if self.is_image else "standard deviations"


@dataclass(frozen=True)
class OpenLoopEvaluation:
    """Result of an open-loop evaluation, from which pictures, videos and numbers are made."""

    settings: OpenLoopSettings
    """Settings, with the number of samples filled in."""
    signals: dict[str, Signal]
    """Observation keys, then the reward."""
    alive: list[int]
    """Number of episodes that have not ended at each predicted step."""


@torch.no_grad()
def evaluate(agent: Agent, make_env: MakeEnv, settings: OpenLoopSettings, timeout: float = 0.0) -> OpenLoopEvaluation:
    """Evaluate the predictions of a model on held-out episodes. The global random state stays as it is.

    An environment without an answer within `timeout` seconds has failed; 0 waits for ever. Raises `UserError` for a
    model without a decoder, and when every episode ends within the observed steps.
    """
    settings = checked(settings, flag)
    agent.world_model.decode(agent.world_model.core.initial_state(1))  # raises before any work without a decoder
    settings = replace(settings, samples=samples_of(agent, settings))
    with own_randomness(agent.device, settings.seed):
        steps = settings.context + settings.horizon
        episodes = held_out(agent, make_env, settings.episodes, steps, settings.skip, timeout)
        if episodes.alive.shape[1] <= settings.context:
            raise UserError(
                f"the held-out episodes end after {settings.skip + episodes.alive.shape[1]} steps, "
                f"so none is left to predict; lower --context {settings.context} or --skip {settings.skip}"
            )
        return _Evaluator(agent, episodes, settings).evaluate()


def samples_of(agent: Agent, settings: OpenLoopSettings) -> int:
    """Samples of each episode, the default filled in."""
    return settings.samples or (IMAGE_SAMPLES if images(agent.obs_shapes) else SAMPLES)


def least_bytes(agent: Agent, settings: OpenLoopSettings) -> int:
    """The least number of bytes that the held-out episodes, the filtered states and one predicted step take."""
    observed = sum(map(math.prod, agent.obs_shapes.values()))
    steps, states = settings.context + settings.horizon, settings.context * agent.world_model.core.packed_dim
    return 4 * settings.episodes * (steps * observed + samples_of(agent, settings) * (states + observed))


class _Evaluator:
    """One pass over the steps of held-out episodes, which keeps the signals shown and the errors of all."""

    def __init__(self, agent: Agent, episodes: HeldOut, settings: OpenLoopSettings) -> None:
        self.agent, self.model, self.settings = agent, agent.world_model, settings
        self.batch, self.alive = episodes.batch, episodes.alive
        real = {key: _as_float(value) for key, value in self.batch.obs.items()}
        self.reward = "reward" if "reward" not in real else "reward_"
        self.real = real | {self.reward: self.batch.reward.unsqueeze(-1)}
        self.scale = {key: self._scale(value) for key, value in self.real.items()}
        self.curves = {key: ErrorCurves() for key in self.real}
        self.samples: dict[str, list[Tensor]] = {key: [] for key in self.real}
        self.rollouts: dict[str, list[Tensor]] = {key: [] for key in self.real}

    def evaluate(self) -> OpenLoopEvaluation:
        """Filter the observed steps, predict the rest from the actions taken, and imagine it with the policy."""
        settings, core = self.settings, self.model.core
        context, samples = settings.context, settings.samples
        filtered = self._filter()
        for t in range(context):
            self._keep(self.samples, self._decode(filtered[:, t], samples))
        start = filtered[:, context - 1]
        horizon = self.alive.shape[1] - context
        states = predict(core, start, self.batch.prev_action[:, context:], samples)
        for t, state in enumerate(follow(states, "imagining", horizon, "predicted steps"), start=context):
            decoded = self._decode(state, samples)
            self._compare(t, decoded)
            self._keep(self.samples, decoded)
        beside = min(samples, SHOWN_SAMPLES)
        shown = start.map(lambda x: x.unflatten(0, (-1, samples))[: settings.shown, :beside].flatten(0, 1))
        policy = self.agent.actor_critic.policy(sample=True)
        steps = rollout(core, policy, shown, horizon)
        for state, _, action in follow(steps, "imagining", horizon, "steps of rollouts"):
            if action is not None:
                self._keep(self.rollouts, self._decode(state, beside))
        signals = {key: self._signal(key) for key in self.real}
        return OpenLoopEvaluation(settings, signals, self.alive.sum(0)[context:].tolist())

    def _filter(self) -> Struct:
        """States `[episode * sample, time]` of the observed steps; every sample filters separately."""
        context, samples = self.settings.context, self.settings.samples
        embeds = self.model.embed({key: value[:, :context] for key, value in self.batch.obs.items()})
        inputs = (embeds, self.batch.prev_action[:, :context], self.batch.is_first[:, :context])
        return self.model.core.observe(*(value.repeat_interleave(samples, 0) for value in inputs))

    def _decode(self, states: Struct, samples: int) -> dict[str, Tensor]:
        """Decoded states `[episode * sample]`, `[episode, sample, ...]` by key."""
        reward, _ = self.model.predict(self.model.core.features(states))
        decoded = self.model.decode(states) | {self.reward: reward.unsqueeze(-1)}
        return {key: _flat(value.float().unflatten(0, (-1, samples))) for key, value in decoded.items()}

    def _compare(self, t: int, decoded: dict[str, Tensor]) -> None:
        """Add the errors of predictions of step t, in the episodes that last that long."""
        alive = self.alive[:, t]
        for key, value in decoded.items():
            scale, real = self.scale[key], self.real[key]
            target, last = (real[alive, step].flatten(1) / scale for step in (t, self.settings.context - 1))
            self.curves[key].add(value[alive].flatten(2) / scale, target, last)

    def _keep(self, store: dict[str, list[Tensor]], decoded: dict[str, Tensor]) -> None:
        for key, value in decoded.items():
            kept = value[: self.settings.shown]
            store[key].append((kept[:, :SHOWN_SAMPLES] if _is_image(value) else kept).cpu())

    def _scale(self, real: Tensor) -> Tensor:
        """Standard deviation of each dimension of a vector over the held-out steps; 1 for an image."""
        if _is_image(real):
            return torch.ones((), device=real.device)
        deviation = real[self.alive].std(0, correction=0)
        return torch.where(deviation < CONSTANT, 1.0, deviation)

    def _signal(self, key: str) -> Signal:
        shown = slice(self.settings.shown)
        dead = ~self.alive[shown].reshape(*self.alive[shown].shape, *[1] * (self.real[key].ndim - 2))
        return Signal(
            real=self.real[key][shown].masked_fill(dead, torch.nan).cpu().numpy(),
            samples=torch.stack(self.samples[key], 2).numpy(),
            rollouts=torch.stack(self.rollouts[key], 2).numpy(),
            errors=self.curves[key].curves,
        )


def _is_image(values: Tensor) -> bool:
    """True when values `[episode, time or sample, ...]` of a key are images."""
    return values.ndim == 5


def _as_float(value: Tensor) -> Float[Tensor, "episode time *dimensions"]:
    """Observations as floats: images in [0, 1], vectors in their own units, one-hot vectors as one."""
    return value.float() / 255 if value.dtype == torch.uint8 else _flat(value)


def _flat(value: Tensor) -> Tensor:
    """The same values, discrete ones `[episode, time or sample, element, class]` as one vector."""
    return value.flatten(2) if value.ndim == 4 else value
