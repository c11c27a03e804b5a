"""Actor and critic, learned from finished imagined trajectories (Dreamer V3 section "Actor-critic learning")."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import asdict, dataclass, field
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Le, Lt
from jaxtyping import Float
from torch import Tensor, nn

from dreamer.batch import ActionSpec, Batch, Trajectory
from dreamer.behavior.imagination import Policy, frozen
from dreamer.behavior.returns import ReturnNormalizer, lambda_return, replay_return
from dreamer.nn.distributions import ActionDistribution, BoundedNormal, OneHot
from dreamer.nn.layers import MLP, Linear
from dreamer.world_model.heads import HeadConfig, ScalarHead

Metrics = dict[str, Float[Tensor, ""]]
FINAL_ENTROPY = 0.1  # of the entropy's weight, after its decay
SATURATED = 2.0  # in front of the tanh of a policy's mean, whose slope is 0.07 there


@dataclass(frozen=True)
class BehaviorScales:
    """Weights of the actor-critic's loss terms; the names must equal the names of the terms."""

    actor: Annotated[float, Ge(0)] = 1.0
    """Policy gradient and entropy."""
    critic: Annotated[float, Ge(0)] = 1.0
    """Critic on imagined states."""
    replay_critic: Annotated[float, Ge(0)] = 0.3
    """Critic on replayed states; its gradient reaches the world model."""


@dataclass(frozen=True)
class ActorCriticConfig:
    """Actor and critic."""

    actor: HeadConfig = field(default_factory=lambda: HeadConfig(layers=3))
    """Policy network."""
    critic: HeadConfig = field(default_factory=lambda: HeadConfig(layers=3))
    """Value network."""
    actor_gradient: Literal["reinforce", "dynamics", "both"] = "reinforce"
    """reinforce (V3); dynamics: back-propagate returns through imagined actions (V1; Gaussian latents); both (V2)."""
    mix: Annotated[float, Ge(0), Le(1)] = 0.5
    """Share of reinforce in both (rho of V2)."""
    entropy: Annotated[float, Ge(0)] = 3e-4
    """Weight of the policy's entropy, in units of normalized return per nat."""
    entropy_decay: Annotated[int, Ge(0)] = 0
    """Updates over which this weight falls linearly to 0, down to 10 % at least; 0 keeps it constant."""
    tanh_penalty: Annotated[float, Ge(0)] = 0.0
    """Weight of max(|m| - 2, 0)^2, which keeps means tanh(m) of continuous actions where they can move; 0 is V3."""
    lambda_: Annotated[float, Ge(0), Le(1)] = 0.95
    """Mixing of multi-step returns."""
    min_std: Annotated[float, Gt(0)] = 0.1
    """Smallest standard deviation of continuous actions."""
    max_std: Annotated[float, Gt(0)] = 1.0
    """Largest standard deviation of continuous actions."""
    action_unimix: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Share of a uniform distribution mixed into discrete policies (0.01 in the paper-era release)."""
    slow_critic_tau: Annotated[float, Gt(0), Le(1)] = 0.02
    """Step of the slow critic toward the critic after every update."""
    slow_scale: Annotated[float, Ge(0)] = 1.0
    """Weight of the critic's pull toward the slow critic."""
    return_ema_rate: Annotated[float, Gt(0), Le(1)] = 0.01
    """Step of the running return percentiles."""
    scales: BehaviorScales = field(default_factory=BehaviorScales)
    """Weights of the loss terms."""

    @property
    def reinforce_share(self) -> float:
        """Share of reinforce in the policy's gradient; what remains goes through the dynamics."""
        return {"reinforce": 1.0, "dynamics": 0.0, "both": self.mix}[self.actor_gradient]


class Actor(nn.Module):
    """Policy: features to a distribution over action vectors."""

    def __init__(self, config: ActorCriticConfig, feature_dim: int, action: ActionSpec):
        super().__init__()
        self.config = config
        self.discrete = action.discrete
        self.mlp = MLP(feature_dim, config.actor.units, config.actor.layers)
        self.output = Linear(self.mlp.out_features, action.dim * (1 if action.discrete else 2), scale=0.01)

    def forward(
        self, features: Float[Tensor, "*batch feature"], first: Float[Tensor, "*batch units"] | None = None
    ) -> ActionDistribution:
        """Distribution of the action in states with these features; `first` as in `MLP.forward`."""
        params = self.output(self.mlp(features, first))
        if self.discrete:
            return OneHot.from_logits(params, self.config.action_unimix)
        raw_mean, raw_std = params.chunk(2, -1)
        return BoundedNormal.from_params(raw_mean, raw_std, self.config.min_std, self.config.max_std)


class ActorCritic(nn.Module):
    """Learns from `Trajectory` values alone: it cannot reach the world model that imagined them."""

    def __init__(self, config: ActorCriticConfig, feature_dim: int, action: ActionSpec):
        super().__init__()
        self.config = config
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
        """Terms `actor` and `critic` per start state, the lambda-returns, and scalars worth logging.

        The entropy's weight decays with `updates`, how many there were; without it the weight is what it begins with.
        Unless `actor_gradient` is reinforce, the trajectory must carry gradients from rewards and features to actions.
        """
        features, first = trajectory.features.detach(), trajectory.first
        hidden = self.critic.mlp(features, first.get("critic"))
        value = self.critic.value(hidden)
        slow_value = self._slow_value(features, first.get("slow_critic"))
        weight = torch.cumprod(trajectory.discount.detach(), 1)[:, :-1]
        policy = self.actor(features, first.get("actor"))
        entropy = policy.entropy()[:, :-1]
        if self.config.reinforce_share == 1:
            returns = self._returns(trajectory, value)
        else:
            with frozen(self.critic):
                returns = self._returns(trajectory, self.critic.mean(self.critic(trajectory.features)))
        target = returns.detach()
        self.normalizer.update(target)
        advantage = (target - value[:, :-1]) / self.normalizer.scale
        gain = self._gain(policy[:, :-1], trajectory.action.detach(), advantage, returns / self.normalizer.scale)
        if self.config.tanh_penalty and isinstance(policy, BoundedNormal):
            excess = (policy.raw_mean[:, :-1].abs() - SATURATED).clamp(min=0)
            gain = gain - self.config.tanh_penalty * excess.square().sum(-1)
        entropy_weight = self._entropy_weight(updates)
        actor_loss = -(weight * (gain + entropy_weight * entropy)).mean(1)
        errors = self.critic.errors(hidden[:, :-1], (target, 1.0), (slow_value[:, :-1], self.config.slow_scale))
        critic_loss = (weight * errors).mean(1)

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
        """Critic loss on replayed states, whose gradient reaches the world model through `features`.

        Rows that end an episode are masked: their successor belongs to another episode.
        """
        args = (batch.reward, batch.is_last, batch.is_terminal, bootstrap.detach())
        target = replay_return(*args, discount, self.config.lambda_)
        features = features[:, :-1]
        slow_value = self._slow_value(features.detach())
        loss = self.critic.errors(self.critic.mlp(features), (target, 1.0), (slow_value, self.config.slow_scale))
        return loss.masked_fill(batch.is_last[:, :-1], 0.0)

    def _gain(
        self, policy: ActionDistribution, action: Tensor, advantage: Tensor, returns: Tensor
    ) -> Float[Tensor, "start horizon"]:
        """What the policy ascends: log-probabilities times advantages (V3), returns (V1), or some of each (V2)."""
        share = self.config.reinforce_share
        if share == 0:
            return returns
        scores = policy.log_prob(action) * advantage.detach()
        return scores if share == 1 else share * scores + (1 - share) * returns

    def _entropy_weight(self, updates: Tensor | None) -> float | Float[Tensor, ""]:
        c = self.config
        if updates is None or not c.entropy_decay:
            return c.entropy
        return c.entropy * (1 - updates.float() / c.entropy_decay).clamp(min=FINAL_ENTROPY)

    def _returns(self, trajectory: Trajectory, value: Tensor) -> Float[Tensor, "start horizon"]:
        return lambda_return(trajectory.reward, trajectory.discount, value, self.config.lambda_)

    @torch.no_grad()
    def _slow_value(self, features: Tensor, first: Tensor | None = None) -> Tensor:
        """The slow critic's prediction, to which the critic's loss pulls it back."""
        return self.slow_critic.value(self.slow_critic.mlp(features, first))

    @property
    def readers(self) -> dict[str, MLP]:
        """The networks that read imagined features, for `imagine_fast`."""
        return {"actor": self.actor.mlp, "critic": self.critic.mlp, "slow_critic": self.slow_critic.mlp}

    @torch.no_grad()
    def update_slow_critic(self) -> None:
        """Move the slow critic toward the critic."""
        torch._foreach_lerp_(
            list(self.slow_critic.parameters()), list(self.critic.parameters()), self.config.slow_critic_tau
        )

    def policy(self, sample: bool) -> Policy:
        """Features to actions, drawn from the policy or its mode."""

        def choose(features: Tensor, first: Tensor | None = None) -> Tensor:
            distribution = self.actor(features, first)
            return distribution.sample() if sample else distribution.mode()

        return choose
