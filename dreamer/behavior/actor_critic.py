"""Actor and critic, trained on finished imagined trajectories (Dreamer V3, section "Actor-critic learning")."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import asdict, dataclass, field
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dreamer.batch import ActionSpec, Batch, Trajectory
from dreamer.behavior.imagination import Policy, frozen
from dreamer.behavior.returns import ReturnNormalizer, lambda_return, replay_return
from dreamer.errors import UserError
from dreamer.nn.distributions import ActionDistribution, BoundedNormal, OneHot
from dreamer.nn.layers import MLP, ExactLinear, Linear
from dreamer.nn.optim import Decay
from dreamer.world_model.heads import HeadConfig, ScalarHead
from envs.ranges import Deviation, Fraction, NonNegative, Probability, Rate, Schedule

Metrics = dict[str, Float[Tensor, ""]]
FINAL_ENTROPY = 0.1
"""Fraction of the initial entropy weight that remains after the decay."""
SATURATED = 2.0
"""abs(m) from which a mean tanh(m) counts as saturated; the slope of tanh is 0.07 there."""


@dataclass(frozen=True)
class BehaviorScales:
    """Weights of the actor-critic's loss terms, by the name of the term."""

    actor: NonNegative = 1.0
    """Policy gradient and entropy."""
    critic: NonNegative = 1.0
    """Critic on imagined states."""
    replay_critic: NonNegative = 0.3
    """Critic on replayed states; the gradient reaches the world model."""


@dataclass(frozen=True)
class ActorCriticConfig:
    """Actor and critic."""

    on_resume: ClassVar = {"entropy_decay": "schedule"}
    actor: HeadConfig = field(default_factory=lambda: HeadConfig(layers=3))
    """Policy network."""
    critic: HeadConfig = field(default_factory=lambda: HeadConfig(layers=3))
    """Value network."""
    actor_gradient: Literal["reinforce", "dynamics", "both"] = "reinforce"
    """reinforce (V3); dynamics: back-propagate returns through imagined actions (V1; Gaussian latents); both (V2)."""
    mix: Fraction = 0.5
    """Weight of reinforce where actor_gradient is both; the gradient through the dynamics has the rest (rho of V2)."""
    entropy: NonNegative = 3e-4
    """Weight of the policy's entropy, in units of normalized return per nat."""
    entropy_decay: Schedule = 0
    """Fraction of the planned updates over which this weight falls linearly towards 0, to no less than 10 %; 0 keeps it
    constant. A value above 1 is a number of updates."""
    tanh_penalty: NonNegative = 0.0
    """Tanh saturation penalty: weight of max(|m| - 2, 0)^2 for means tanh(m) of continuous actions; 0 is V3."""
    lambda_: Fraction = 0.95
    """Mixing of multi-step returns."""
    min_std: Deviation = 0.1
    """Smallest standard deviation of continuous actions."""
    max_std: Deviation = 1.0
    """Largest standard deviation of continuous actions."""
    action_unimix: Probability = 0.0
    """Weight of the uniform distribution mixed into discrete policies (0.01 in the paper-era release)."""
    slow_critic_tau: Rate = 0.02
    """Fraction by which the slow critic moves towards the critic after every update."""
    slow_scale: NonNegative = 1.0
    """Weight of the critic's cross-entropy to the slow critic's prediction."""
    return_ema_rate: Rate = 0.01
    """Rate of the running return percentiles."""
    scales: BehaviorScales = field(default_factory=BehaviorScales)
    """Weights of the loss terms."""

    @property
    def reinforce_share(self) -> float:
        """Weight of reinforce in the policy's gradient; the gradient through the dynamics has the rest."""
        return {"reinforce": 1.0, "dynamics": 0.0, "both": self.mix}[self.actor_gradient]


class Actor(nn.Module):
    """Policy network: features to a distribution over action vectors."""

    def __init__(self, config: ActorCriticConfig, feature_dim: int, action: ActionSpec):
        super().__init__()
        self.config = config
        self.discrete = action.discrete
        self.mlp = MLP(feature_dim, config.actor.units, config.actor.layers)
        output, params = (Linear, action.dim) if action.discrete else (ExactLinear, 2 * action.dim)
        self.output = output(self.mlp.out_features, params, scale=0.01)
        self.output.heads = [] if action.discrete else [action.dim, action.dim]

    def forward(self, features: Float[Tensor, "*batch feature"]) -> ActionDistribution:
        """Distribution of the action in states with these features."""
        params = self.output(self.mlp(features))
        if self.discrete:
            return OneHot.from_logits(params, self.config.action_unimix)
        raw_mean, raw_std = params.chunk(2, -1)
        return BoundedNormal.from_params(raw_mean, raw_std, self.config.min_std, self.config.max_std)


class ActorCritic(nn.Module):
    """Actor, critic and slow critic. They learn from a finished `Trajectory` and have no access to the world model."""

    def __init__(self, config: ActorCriticConfig, feature_dim: int, action: ActionSpec):
        super().__init__()
        if config.reinforce_share < 1 and action.discrete:
            flag = f"--agent.behavior.actor-gradient {config.actor_gradient}"
            raise UserError(f"{flag} needs continuous actions; use reinforce")
        if config.min_std > config.max_std:
            raise UserError(f"--agent.behavior.min-std {config.min_std} must not exceed max-std {config.max_std}")
        self.config, self.decay = config, Decay(config.entropy_decay, FINAL_ENTROPY)
        self.actor = Actor(config, feature_dim, action)
        self.critic = ScalarHead(config.critic, feature_dim)
        self.slow_critic = deepcopy(self.critic).requires_grad_(False)
        self.normalizer = ReturnNormalizer(config.return_ema_rate)

    @property
    def scales(self) -> dict[str, float]:
        """Weight of each loss term by name."""
        return asdict(self.config.scales)

    def losses(
        self, trajectory: Trajectory, updates: Float[Tensor, ""] | None = None
    ) -> tuple[dict[str, Float[Tensor, " start"]], Float[Tensor, "start horizon"], Metrics]:
        """Loss terms `actor` and `critic` of each start state, the lambda-returns, and scalars to log.

        Also updates the running percentiles of returns. `updates` is the number of updates so far, for the schedule of
        the entropy weight; without it the weight has its initial value. Unless `actor_gradient` is reinforce, rewards
        and features of the trajectory must have gradients with respect to its actions.
        """
        config = self.config
        features = trajectory.features.detach()
        critic = self.critic(features)
        with torch.no_grad():
            value, slow_value = critic.mean(), self.slow_critic(features).mean()
        weight = torch.cumprod(trajectory.discount.detach(), 1)[:, :-1]

        returns = self._returns(trajectory, value)
        target = returns.detach()
        self.normalizer.update(target)
        advantage = (target - value[:, :-1]) / self.normalizer.scale

        policy = self.actor(features)
        objective = self._objective(policy[:, :-1], trajectory.action.detach(), advantage, returns)
        entropy, entropy_weight = policy.entropy()[:, :-1], self._entropy_weight(updates)
        actor_loss = -(weight * (objective + entropy_weight * entropy)).mean(1)

        cross_entropy = critic[:, :-1].cross_entropy((target, 1.0), (slow_value[:, :-1], config.slow_scale))
        critic_loss = (weight * cross_entropy).mean(1)

        with torch.no_grad():
            metrics = {
                "behavior/return_mean": target.mean(),
                "behavior/return_scale": self.normalizer.scale,
                "behavior/value_mean": value.mean(),
                "behavior/value_error": (value[:, :-1] - target).abs().mean(),
                "behavior/advantage_std": advantage.std(),
                "behavior/entropy": entropy.mean(),
                "behavior/action_abs": trajectory.action.abs().mean(),
                "behavior/weight_mean": weight.mean(),
                "behavior/imagined_reward": trajectory.reward[:, 1:].mean(),
            }
            if isinstance(policy, BoundedNormal):
                metrics["behavior/action_std"] = policy.std.mean()
                metrics["behavior/saturation"] = (policy.raw_mean.abs() > SATURATED).float().mean()
            if isinstance(entropy_weight, Tensor):
                metrics["behavior/entropy_weight"] = entropy_weight
        return {"actor": actor_loss, "critic": critic_loss}, target, metrics

    def replay_loss(
        self,
        features: Float[Tensor, "batch time feature"],
        batch: Batch,
        bootstrap: Float[Tensor, "batch time"],
        discount: float,
    ) -> Float[Tensor, "batch time-1"]:
        """Critic loss on replayed states. Its gradient also trains the world model, through `features`.

        Last rows of episodes are masked, because the next row belongs to another episode.
        """
        args = (batch.reward, batch.is_last, batch.is_terminal, bootstrap.detach())
        target = replay_return(*args, discount, self.config.lambda_)
        features = features[:, :-1]
        with torch.no_grad():
            slow_value = self.slow_critic(features).mean()
        loss = self.critic(features).cross_entropy((target, 1.0), (slow_value, self.config.slow_scale))
        return loss.masked_fill(batch.is_last[:, :-1], 0.0)

    def _objective(
        self, policy: ActionDistribution, action: Tensor, advantage: Tensor, returns: Tensor
    ) -> Float[Tensor, "start horizon"]:
        """Objective of the policy without entropy: log-probability times advantage (V3), return (V1), or both (V2)."""
        share = self.config.reinforce_share
        objective: Tensor = (1 - share) * returns / self.normalizer.scale if share < 1 else torch.zeros(())
        if share > 0:
            objective = objective + share * policy.log_prob(action) * advantage.detach()
        if self.config.tanh_penalty and isinstance(policy, BoundedNormal):
            excess = (policy.raw_mean.abs() - SATURATED).clamp(min=0)
            objective = objective - self.config.tanh_penalty * excess.square().sum(-1)
        return objective

    def _entropy_weight(self, updates: Tensor | None) -> float | Float[Tensor, ""]:
        if updates is None or not self.config.entropy_decay:
            return self.config.entropy * self.decay.value
        return self.config.entropy * self.decay(updates.float())

    def _returns(self, trajectory: Trajectory, value: Tensor) -> Float[Tensor, "start horizon"]:
        """Lambda-returns; with gradients if the actor learns through the dynamics."""
        if self.config.reinforce_share < 1:
            with frozen(self.critic):
                value = self.critic(trajectory.features).mean()
        return lambda_return(trajectory.reward, trajectory.discount, value, self.config.lambda_)

    @torch.no_grad()
    def update_slow_critic(self) -> None:
        """Move the slow critic towards the critic."""
        torch._foreach_lerp_(
            list(self.slow_critic.parameters()), list(self.critic.parameters()), self.config.slow_critic_tau
        )

    def policy(self, sample: bool) -> Policy:
        """Function from features to actions: samples of the policy, or its mode."""

        def choose(features: Tensor) -> Tensor:
            distribution = self.actor(features)
            return distribution.sample() if sample else distribution.mode()

        return choose
