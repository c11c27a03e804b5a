"""The agent: acting, and one update of the world model, the actor and the critic. Read this second, after `batch.py`.

`act` filters observations and chooses actions. `update` takes one gradient step on a batch; `loss_terms` computes its
losses, step by step. In training, `training/accelerate.py` calls `update` with faster equivalents of some methods. The
agent owns the optimizers and everything else that learning changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dreamer.batch import ActionSpec, Batch, Shapes, Trajectory
from dreamer.behavior.acting import ActionMode, Carry, checked_carry
from dreamer.behavior.actor_critic import ActorCritic, ActorCriticConfig, Metrics
from dreamer.behavior.imagination import frozen, imagine
from dreamer.dynamics import DynamicsConfig
from dreamer.errors import UserError
from dreamer.experience.spaces import episode_starts, observation_tensors
from dreamer.nn.optim import LaProp, OptimizerConfig
from dreamer.nn.struct import Struct
from dreamer.planning import PlanningConfig
from dreamer.queries import Queries
from dreamer.world_model.world_model import WorldModel, WorldModelConfig
from envs.ranges import CountOrNone, Many


@dataclass(frozen=True)
class AgentConfig:
    """The agent."""

    dynamics: DynamicsConfig = field(default_factory=DynamicsConfig)
    """Dynamics core."""
    world_model: WorldModelConfig = field(default_factory=WorldModelConfig)
    """World model around the core."""
    behavior: ActorCriticConfig = field(default_factory=ActorCriticConfig)
    """Actor and critic."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """Optimizer of everything."""
    imagination_horizon: Many = 15
    """Transitions per imagined rollout."""
    imagination_starts: CountOrNone = 0
    """Number of last steps of each sequence from which imagined rollouts start, at least 2; 0 means all steps."""
    planning: PlanningConfig = field(default_factory=PlanningConfig)
    """Planner in the policy's place."""
    precision: Literal["auto", "float32", "bfloat16"] = field(default="auto", metadata={"before": "float32"})
    """Type of matrix products; auto is bfloat16 on GPUs that have it and float32 elsewhere. Parameters, distributions,
    divergences and returns are always float32."""


class Agent(Queries):
    """A Dreamer agent for fixed observation shapes and one action space. `Queries` has the methods for research."""

    def __init__(self, config: AgentConfig, obs_shapes: Shapes, action: ActionSpec):
        super().__init__()
        if config.imagination_starts == 1:
            starts = "must be 0 (all steps) or at least 2: the replay critic needs two steps"
            raise UserError(f"--agent.imagination-starts {starts}")
        self.config = config
        self.obs_shapes = dict(obs_shapes)
        self.action = action
        self.world_model = WorldModel(config.world_model, config.dynamics, obs_shapes, action.dim)
        if config.behavior.reinforce_share < 1 and not self.world_model.core.differentiable:
            flag = f"--agent.behavior.actor-gradient {config.behavior.actor_gradient}"
            raise UserError(f"{flag} {config.dynamics.gradient_hint}; or use reinforce")
        self.actor_critic = ActorCritic(config.behavior, self.world_model.core.feature_dim, action)
        self.vision_updates = 0
        self.planner = config.planning.make()
        """Acts in the policy's place; may be exchanged at any time."""

    @property
    def optimizer(self) -> LaProp:
        """Optimizer of all parameters; of all but vision when vision is trained first."""
        return self._optimizers[0]

    @property
    def vision_optimizer(self) -> LaProp | None:
        """Optimizer of vision in staged training; None otherwise."""
        return self._optimizers[1]

    @cached_property
    def _optimizers(self) -> tuple[LaProp, LaProp | None]:
        """Both optimizers, made on first use, on the device that the parameters were moved to."""
        vision = [p for module in self.world_model.vision_modules() for p in module.parameters()]
        others = {id(p) for p in vision}
        rest = [p for p in self.parameters() if p.requires_grad and id(p) not in others]
        config = self.config.optimizer
        return LaProp(rest, config, self), LaProp(vision, config, self) if vision else None

    @property
    def in_vision_stage(self) -> bool:
        """True while updates train vision alone (staged training)."""
        return self.vision_updates < self.world_model.core.vision_updates

    # Acting

    def initial_carry(self, num_envs: int) -> Carry:
        """State of acting before the first observation."""
        action = torch.zeros(num_envs, self.action.dim, device=self.device)
        return Carry(self.world_model.core.initial_state(num_envs), action)

    @torch.inference_mode()
    def step(
        self,
        obs: Mapping[str, Tensor],
        is_first: Bool[Tensor, " env"],
        carry: Carry,
        mode: ActionMode = "sample",
        deterministic: bool = False,
    ) -> Carry:
        """Filter one row of every environment and choose actions. Acting is filtering a sequence of length one.

        `carry.action` must be the action that led to `obs`. Returns the filtered state and the new action. With a
        `planner`, its action takes the place of the policy's; it explores in mode "sample".
        """
        core = self.world_model.core
        with self.autocast():
            embeds = self.world_model.embed(obs).unsqueeze(1)
            state = core.observe(embeds, carry.action.unsqueeze(1), is_first.unsqueeze(1), carry.state)[:, 0]
            state = core.at_mode(state) if deterministic else state
            if self.planner is None:
                action = self.actor_critic.policy(mode == "sample" and not deterministic)(core.features(state))
                return Carry(state.map(Tensor.float), action)
            previous = None if carry.plan is None else carry.plan.masked_fill(is_first[:, None, None], 0.0)
            action, plan = self.planner.plan(self.dream, state, previous, explore=mode == "sample")
        return Carry(state.map(Tensor.float), action.float(), plan)

    def act(
        self,
        obs: Any,
        is_first: Any = False,
        state: Carry | None = None,
        mode: ActionMode = "sample",
        deterministic: bool = False,
    ) -> tuple[Any, Carry]:
        """Choose an action for one observation, as `envs.make` environments return them (a dict of numpy arrays).

        A bare array is the observation of an agent with one key. A leading environment axis is allowed. Pass the
        returned state to the next call; at the start of an episode pass `is_first=True`, or no state. `mode` is
        "sample" or "mode": a sample of the policy or its mode, both on a sampled latent. With `deterministic` policy
        and latent take their mode, and the same observations always give the same actions. With a `planner`, its
        action takes the place of the policy's. Returns the action (a float array `[action]` clipped to [-1, 1], or an
        integer) and the new state. Raises `UserError` for a wrong argument.
        """
        if deterministic and self.planner is not None:
            raise UserError("a planner draws its candidates at random; leave out deterministic")
        tensors, leading = observation_tensors(obs, self.obs_shapes)
        (num_envs,) = leading or (1,)
        first = episode_starts(is_first, (num_envs,)) | (state is None)
        carry = checked_carry(state, self.initial_carry(num_envs), mode)
        rows = {key: (value if leading else value[None]).to(self.device) for key, value in tensors.items()}
        carry = self.step(rows, first.to(self.device), carry, mode, deterministic)
        action = self.action.to_env(carry.action)
        return (action if leading else action[0]), carry

    def pack_carry(self, carry: Carry) -> Float[Tensor, "env packed"]:
        """The core state of a carry as replay and checkpoints keep it."""
        return self.world_model.core.pack(carry.state)

    def unpack_carry(self, packed: Float[Tensor, "env packed"], action: Float[Tensor, "env action"]) -> Carry:
        """The carry of packed core states and the actions chosen last."""
        return Carry(self.world_model.core.unpack(packed), action)

    # Learning

    def update(self, batch: Batch) -> tuple[Metrics, Float[Tensor, "batch time packed"]]:
        """One gradient step on a batch; returns metrics and the filtered states, packed for replay.

        Metrics are tensors on the agent's device, so the host never waits. When the loss or a gradient is not finite,
        the parameters stay unchanged, `optim/skipped` is 1, and the states must not be stored. In staged training
        (`core.vision_updates`) the first updates train vision alone; afterwards it is frozen.
        """
        if self.in_vision_stage or self.vision_optimizer is None:  # frozen vision keeps its input scale
            self.world_model.adapt(batch.obs)
        if self.in_vision_stage:
            return self._update_vision(batch)

        # Loss
        with frozen(*self.world_model.vision_modules()), self.autocast():
            total, metrics, packed = self.loss(batch, self.optimizer.updates)

        # Step
        self.optimizer.zero_grad()
        total.backward()
        optimizer_metrics = self.optimizer.step(loss=total.detach())
        self.actor_critic.update_slow_critic()
        return metrics | {f"optim/{name}": value for name, value in optimizer_metrics.items()}, packed

    def loss(
        self, batch: Batch, updates: Float[Tensor, ""] | None = None
    ) -> tuple[Float[Tensor, ""], Metrics, Float[Tensor, "batch time packed"]]:
        """Sum of the means of all loss terms times their scales, metrics, and the filtered states packed for replay.

        A term without a configured scale has scale 1. `updates` is the number of updates so far; weights that change
        with it have their initial value without it.
        """
        terms, metrics, packed = self.loss_terms(batch, updates)
        total, loss_metrics = self._weighted_sum(terms)
        return total, metrics | loss_metrics, packed

    def loss_terms(
        self, batch: Batch, updates: Float[Tensor, ""] | None = None
    ) -> tuple[dict[str, Tensor], Metrics, Float[Tensor, "batch time packed"]]:
        """Unreduced, unscaled loss terms by name, metrics, and the filtered states packed for replay; see `loss`."""
        world_model, core, actor_critic = self.world_model, self.world_model.core, self.actor_critic

        # Encode
        embeds = world_model.embed(batch.obs)

        # Filter
        states = world_model.observe(batch, embeds)
        features = core.features(states)

        # Model losses
        model_terms, model_metrics = world_model.losses(states, features, embeds, batch)

        # Imagine, from the last `rows` steps of every sequence
        length = features.shape[1]
        rows = min(self.config.imagination_starts or length, length)
        trajectory = self.imagine_trajectory(states[:, -rows:].detach().flatten())

        # Actor and critic
        behavior_terms, returns, behavior_metrics = actor_critic.losses(trajectory, updates)

        # Replay critic, whose gradient reaches the world model through the features
        bootstrap = returns[:, 0].unflatten(0, (-1, rows))
        discount = self.config.world_model.discount
        replay_term = actor_critic.replay_loss(features[:, -rows:], batch.tail(rows), bootstrap, discount)

        terms = {**model_terms, **behavior_terms, "replay_critic": replay_term}
        return terms, model_metrics | behavior_metrics, core.pack(states.detach())

    def _weighted_sum(self, terms: Mapping[str, Tensor]) -> tuple[Float[Tensor, ""], Metrics]:
        scales = self.world_model.scales | self.actor_critic.scales
        means = {name: term.mean() for name, term in terms.items()}
        total = torch.stack([scales.get(name, 1.0) * mean for name, mean in means.items()]).sum()
        names = {"cont": "continue"}
        metrics = {f"loss/{names.get(name, name)}": mean.detach() for name, mean in means.items()}
        return total, metrics | {"loss/total": total.detach()}

    def imagine_trajectory(self, start: Struct) -> Trajectory:
        """Imagined rollouts of the policy from states `[start]`, with gradients only if the actor needs them."""
        policy, horizon = self.actor_critic.policy(sample=True), self.config.imagination_horizon
        if self.config.behavior.reinforce_share == 1:
            with torch.no_grad():
                return imagine(self.world_model, policy, start, horizon)
        with frozen(self.world_model):
            return imagine(self.world_model, policy, start, horizon)

    def _update_vision(self, batch: Batch) -> tuple[Metrics, Float[Tensor, "batch time packed"]]:
        """One gradient step that trains only vision (staged training)."""
        optimizer = self.vision_optimizer
        assert optimizer is not None, "a core with vision updates has vision modules"
        with self.autocast():
            embeds = self.world_model.embed(batch.obs)
            states = self.world_model.observe(batch, embeds)
            total, metrics = self._weighted_sum(self.world_model.vision_losses(states, embeds, batch))
        optimizer.zero_grad()
        total.backward()
        metrics |= {f"optim/{name}": value for name, value in optimizer.step(loss=total.detach()).items()}
        self.vision_updates += 1
        return metrics, self.world_model.core.pack(states.detach())

    # Saving

    def learner_state(self) -> dict[str, Any]:
        """Everything that learning changes: parameters, statistics, slow critic, optimizers."""
        vision = self.vision_optimizer
        return {
            "modules": self.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "vision_optimizer": vision.state_dict() if vision is not None else {},
            "vision_updates": self.vision_updates,
        }

    def load_learner_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `learner_state` returned, onto this agent's device."""
        self.load_state_dict(state["modules"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.vision_optimizer is not None:
            self.vision_optimizer.load_state_dict(state["vision_optimizer"])
        self.vision_updates = state["vision_updates"]

    def parameter_counts(self) -> dict[str, int]:
        """Trainable parameters of each part."""
        parts = self.world_model.parts | {"actor": self.actor_critic.actor, "critic": self.actor_critic.critic}
        return {name: sum(p.numel() for p in part.parameters() if p.requires_grad) for name, part in parts.items()}
