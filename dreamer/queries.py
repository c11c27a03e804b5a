"""Methods of an agent for research: filter, imagine, and ask the networks about states. docs/python.md shows them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from dreamer.batch import ActionSpec, Shapes
from dreamer.behavior.acting import ActionMode, Carry, check_mode
from dreamer.behavior.actor_critic import ActorCritic
from dreamer.behavior.imagination import rollout
from dreamer.errors import UserError
from dreamer.experience.spaces import action_steps, action_tensor, episode_starts, observation_tensors
from dreamer.nn.distributions import ActionDistribution, multiplies_bfloat16
from dreamer.nn.struct import Struct, shapes
from dreamer.planning.planner import Dream, Planner
from dreamer.world_model.world_model import WorldModel

if TYPE_CHECKING:
    from dreamer.agent import AgentConfig


@dataclass(frozen=True)
class Imagination:
    """Imagined rollouts: state 0 is the given state, states 1..horizon follow the prior alone.

    Entry i of `rewards` and `continues` belongs to the arrival at state i; `actions[:, i]` leads from state i to i + 1.
    """

    states: Struct
    """Core states `[start, states]`, for `Agent.value`, `policy` and `decode`."""
    features: Float[Tensor, "start states feature"]
    """Input of heads, actor and critic."""
    actions: Float[Tensor, "start states-1 action"]
    """Action vectors: the given ones, or those of the policy, which are not clipped."""
    rewards: Float[Tensor, "start states"]
    """Expected rewards."""
    continues: Float[Tensor, "start states"]
    """Probabilities that the episode continues, times the discount factor `config.world_model.discount`."""
    values: Float[Tensor, "start states"]
    """The critic's expected discounted returns."""
    decode: Callable[[Struct], dict[str, Tensor]]
    """`Agent.decode`."""

    def __repr__(self) -> str:
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        return f"Imagination(states={self.states}, {shapes(tensors)})"

    def observations(self) -> dict[str, Tensor]:
        """Decoded observations `[start, states, ...]` by key; raises `UserError` for an agent without a decoder."""
        return self.decode(self.states)


class Queries(nn.Module):
    """Methods that take observations and states and change nothing in the agent.

    A state is a core state (`Struct`) with leading axes, or the `Carry` that `act` returned. Results are tensors on the
    agent's device. Autograd records nothing, unless `gradients` is true; then gradients also reach the parameters.
    Latents are sampled, so results depend on the global random state. Wrong arguments raise `UserError`.
    """

    config: AgentConfig
    obs_shapes: Shapes
    action: ActionSpec
    world_model: WorldModel
    actor_critic: ActorCritic

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return next(self.parameters()).device

    def autocast(self) -> AbstractContextManager[Any]:
        """Context in which matrix products have the configured precision."""
        auto = self.config.precision == "auto" and self.device.type == "cuda"
        short = self.config.precision == "bfloat16" or (auto and multiplies_bfloat16())
        return torch.autocast(self.device.type, torch.bfloat16) if short else contextlib.nullcontext()

    def observe(
        self,
        obs: Any,
        action: Any = None,
        is_first: Any = False,
        state: Struct | Carry | None = None,
        gradients: bool = False,
    ) -> Struct:
        """Filter observations: the states that follow `state` (default: the initial state).

        Args:
            obs: observations by key, as in `act`, of one step (no leading axis, or `[env]`) or of sequences
                `[batch, time]`.
            action: the action that led to each observation, with the same leading axes: action vectors, or indices of
                discrete actions. None is no action, as on the first step of an episode.
            is_first: True where an episode starts; the state before and the action are ignored there. A single True
                marks the first step of every sequence.
            state: state before the first of these steps, leading axis `[env]` or `[batch]`.
            gradients: let autograd record.

        Returns:
            States `[env]` (`[1]` without a leading axis), or `[batch, time]`.
        """
        tensors, leading = observation_tensors(obs, self.obs_shapes, axes=2)
        shape = leading if len(leading) == 2 else (leading or (1,)) + (1,)
        rows = {key: value.to(self.device).reshape(*shape, *self.obs_shapes[key]) for key, value in tensors.items()}
        actions = action_tensor(action, self.action, leading).to(self.device).reshape(*shape, -1)
        first = episode_starts(is_first, leading or (1,)).reshape(shape)
        first[:, 0] |= state is None
        before = None if state is None else self._state(state, shape[:1])
        with self._recording(gradients):
            states = self.world_model.core.observe(self.world_model.embed(rows), actions, first.to(self.device), before)
        return (states if len(leading) == 2 else states[:, 0]).map(Tensor.float)

    def imagine(
        self,
        state: Struct | Carry,
        horizon: int | None = None,
        actions: Any = None,
        mode: ActionMode = "sample",
        gradients: bool = False,
    ) -> Imagination:
        """Imagine from states `[start]` with the prior alone, as training does.

        Args:
            state: states `[start]`; index or `flatten` those of sequences.
            horizon: number of transitions, at least 1; the default is that of `actions`, or else of training.
            actions: action vectors `[start, horizon, action]`, or indices `[start, horizon]` of discrete actions. None
                lets the policy act.
            mode: "sample" or "mode" of the policy.
            gradients: let autograd record. Gradients then flow from all results to `state` and `actions`, but not
                through the input of the policy. Those through categorical latents are straight-through estimates.
        """
        start = self._state(state)
        leading = _leading(start)
        if len(leading) != 1 or not leading[0]:
            hint = "index or flatten its leading axes, as in states[:, -1]"
            raise UserError(f"imagine starts from states with one leading axis, got {list(leading)}; {hint}")
        check_mode(mode)
        if horizon is None:
            horizon = self.config.imagination_horizon if actions is None else action_steps(actions, self.action)
        if isinstance(horizon, bool) or not isinstance(horizon, int | np.integer) or horizon < 1:
            raise UserError(f"horizon must be a whole number of at least 1, got {horizon!r}")
        policy = self.actor_critic.policy(mode == "sample")
        if actions is not None:
            given = iter(action_tensor(actions, self.action, (*leading, int(horizon))).to(self.device).unbind(1))
            policy = lambda features: next(given)  # noqa: E731
        with self._recording(gradients):
            states, features, chosen = zip(*rollout(self.world_model.core, policy, start, int(horizon)), strict=True)
            stacked = torch.stack(features, 1)
            rewards, continues = self.world_model.predict(stacked)
            return Imagination(
                states=type(start).stack(states, 1),
                features=stacked,
                actions=torch.stack(chosen[1:], 1),
                rewards=rewards,
                continues=continues,
                values=self.actor_critic.critic(stacked).mean(),
                decode=partial(self.decode, gradients=gradients),
            )

    def encode(self, obs: Any, gradients: bool = False) -> Float[Tensor, "*batch embed"]:
        """Embeddings of observations by key, with at most two leading axes; no history enters them."""
        tensors, _ = observation_tensors(obs, self.obs_shapes, axes=2)
        with self._recording(gradients):
            return self.world_model.embed({key: value.to(self.device) for key, value in tensors.items()}).float()

    def decode(self, state: Struct | Carry, gradients: bool = False) -> dict[str, Tensor]:
        """Observations decoded from states `[*batch]`: vectors `[*batch, size]` in their own units, probabilities
        `[*batch, element, class]` of discrete values, and images `[*batch, height, width, channel]` from 0 to 1.

        Raises `UserError` for an agent without a decoder (`--objective r2`).
        """
        state = self._state(state)
        with self._recording(gradients):
            return {key: value.float() for key, value in self.world_model.decode(state).items()}

    def value(self, state: Struct | Carry, gradients: bool = False) -> Float[Tensor, "*batch"]:
        """Expected discounted return of the policy from states `[*batch]`, as the critic predicts it."""
        state = self._state(state)
        with self._recording(gradients):
            return self.actor_critic.critic(self.world_model.core.features(state)).mean()

    def policy(self, state: Struct | Carry, gradients: bool = False) -> ActionDistribution:
        """Distribution of the action in states `[*batch]`, with `sample`, `mode`, `log_prob` and `entropy`."""
        state = self._state(state)
        with self._recording(gradients):
            return self.actor_critic.actor(self.world_model.core.features(state))

    @property
    def dream(self) -> Dream:
        """What planners imagine and score with."""
        return Dream(self.world_model, self.actor_critic, self.action)

    def plan(self, state: Struct | Carry, planner: Planner, explore: bool = False) -> Float[Tensor, "env action"]:
        """Actions that a planner finds for states `[env]`: vectors, one-hot where actions are discrete.

        `planner` is `dreamer.planning.cem.CEM(...)` or `dreamer.planning.mppi.MPPI(...)`. `explore` adds the noise of
        collection. Set `agent.planner` to act with a planner; then each plan continues the last one.
        """
        planner.check()
        start = self._state(state)
        if len(_leading(start)) != 1:
            raise UserError(f"plan starts from states with one leading axis, got {list(_leading(start))}")
        with self._recording(False):
            return planner.plan(self.dream, start, None, explore)[0].float()

    @contextlib.contextmanager
    def _recording(self, gradients: bool) -> Iterator[None]:
        """Context of the configured precision, in which autograd records if `gradients` is true."""
        with torch.set_grad_enabled(gradients), self.autocast():
            yield

    def _state(self, state: Struct | Carry, leading: tuple[int, ...] | None = None) -> Struct:
        """A core state that autograd can use; raises `UserError` for one of another agent or other leading axes."""
        state = state.state if isinstance(state, Carry) else state
        own = self.world_model.core.initial_state(1)
        if type(state) is not type(own) or _sizes(state) != _sizes(own):
            raise UserError("state is not one of this agent's; pass what its observe, imagine or act returned")
        if leading is not None and _leading(state) != leading:
            raise UserError(f"state has leading axes {list(_leading(state))}; the observations need {list(leading)}")
        return state.map(lambda x: (x.clone() if x.is_inference() else x).to(self.device))


def _leading(state: Struct) -> tuple[int, ...]:
    return tuple(next(iter(vars(state).values())).shape[:-1])


def _sizes(state: Struct) -> list[int]:
    return [value.shape[-1] for value in vars(state).values()]
