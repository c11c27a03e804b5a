"""What planners share: the score of candidate plans, and the distributions from which candidates are drawn.

A plan is a sequence of actions `[horizon, action]`. Axes of candidates are `[env, candidate, horizon, action]`. States
are repeated candidate by candidate for each environment, so environments do not mix.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from annotated_types import Interval
from jaxtyping import Float
from torch import Tensor

from dreamer.batch import ActionSpec
from dreamer.behavior.actor_critic import ActorCritic
from dreamer.behavior.imagination import rollout
from dreamer.nn.struct import Struct
from dreamer.world_model.world_model import WorldModel

Candidates = Annotated[int, Interval(ge=1, le=10_000)]
"""Number of plans that are imagined at once for each environment."""
Horizon = Annotated[int, Interval(ge=1, le=1000)]
Iterations = Annotated[int, Interval(ge=1, le=100)]


@dataclass(frozen=True)
class Dream:
    """What a planner imagines and scores with: the networks of an agent and its action space."""

    world_model: WorldModel
    actor_critic: ActorCritic
    action: ActionSpec

    def scores(
        self, state: Struct, plans: Float[Tensor, "env candidate horizon action"], value: bool
    ) -> Float[Tensor, "env candidate"]:
        """Expected discounted return of each plan from each state; with `value` the critic's estimate at its end too.

        Rewards and the discount, which includes the probability to continue, are those that imagination predicts.
        """
        start = state.map(lambda x: x.repeat_interleave(plans.shape[1], 0))
        actions = iter(plans.flatten(0, 1).unbind(1))
        states = rollout(self.world_model.core, lambda _: next(actions), start, plans.shape[2])
        features = torch.stack([features for _, features, _ in states][1:], 1)
        reward, discount = self.world_model.predict(features)
        reached = discount.cumprod(1)
        before = torch.cat([torch.ones_like(reached[:, :1]), reached[:, :-1]], 1)
        total = (before * reward).sum(1)
        if value:
            total = total + reached[:, -1] * self.actor_critic.critic(features[:, -1]).mean()
        return total.float().unflatten(0, plans.shape[:2])

    def policy_plans(self, state: Struct, count: int, horizon: int) -> Float[Tensor, "env candidate horizon action"]:
        """`count` plans of each environment that follow samples of the policy."""
        start = state.map(lambda x: x.repeat_interleave(count, 0))
        states = rollout(self.world_model.core, self.actor_critic.policy(sample=True), start, horizon)
        actions = torch.stack([action for _, _, action in states if action is not None], 1).float()
        return (actions if self.action.discrete else actions.clamp(-1, 1)).unflatten(0, (-1, count))

    def zeros(self, state: Struct, horizon: int) -> Float[Tensor, "env horizon action"]:
        """A plan of zeros for each state."""
        first: Tensor = next(iter(vars(state).values()))
        return first.new_zeros(first.shape[0], horizon, self.action.dim, dtype=torch.float32)

    def proposal(self, mean: Float[Tensor, "env horizon action"], std: float) -> Proposal:
        """The first distribution of candidates: a Gaussian around `mean`, or a uniform categorical plus `mean`."""
        if self.action.discrete:
            return CategoricalProposal((mean + 1 / self.action.dim) / (mean.sum(-1, keepdim=True) + 1))
        return GaussianProposal(mean, torch.full_like(mean, std))


class Proposal(ABC):
    """A distribution over plans with independent steps."""

    mean: Float[Tensor, "env horizon action"]
    """Means, or probabilities of discrete actions."""

    @abstractmethod
    def sample(self, count: int) -> Float[Tensor, "env candidate horizon action"]:
        """`count` plans of each environment."""

    @abstractmethod
    def fitted(
        self,
        elites: Float[Tensor, "env elite horizon action"],
        weights: Float[Tensor, "env elite"],
        bounds: tuple[float, float],
    ) -> Proposal:
        """The maximum-likelihood fit to weighted plans, with standard deviations within `bounds`."""

    @abstractmethod
    def explored(self, action: Float[Tensor, "env action"], noise: float | None) -> Float[Tensor, "env action"]:
        """A first action with exploration: Gaussian noise of deviation `noise`, or of the proposal's own for None; a
        sample of the first step's probabilities where actions are discrete.
        """


class GaussianProposal(Proposal):
    """Independent Gaussians, clipped to the range of actions."""

    def __init__(self, mean: Float[Tensor, "env horizon action"], std: Float[Tensor, "env horizon action"]):
        self.mean, self.std = mean, std

    def sample(self, count: int) -> Float[Tensor, "env candidate horizon action"]:
        """Clipped samples."""
        mean, std = (x.unsqueeze(1).expand(-1, count, -1, -1) for x in (self.mean, self.std))
        return (mean + std * torch.randn_like(std)).clamp(-1, 1)

    def fitted(
        self,
        elites: Float[Tensor, "env elite horizon action"],
        weights: Float[Tensor, "env elite"],
        bounds: tuple[float, float],
    ) -> GaussianProposal:
        """Weighted mean and standard deviation."""
        weights = weights[..., None, None]
        mean = (weights * elites).sum(1)
        variance = (weights * (elites - mean.unsqueeze(1)).square()).sum(1)
        return GaussianProposal(mean, variance.sqrt().clamp(*bounds))

    def explored(self, action: Float[Tensor, "env action"], noise: float | None) -> Float[Tensor, "env action"]:
        """Noise added and clipped."""
        std = self.std[:, 0] if noise is None else noise
        return (action + std * torch.randn_like(action)).clamp(-1, 1)


class CategoricalProposal(Proposal):
    """Independent categoricals; plans are one-hot."""

    def __init__(self, mean: Float[Tensor, "env horizon action"]):
        self.mean = mean

    def sample(self, count: int) -> Float[Tensor, "env candidate horizon action"]:
        """One-hot samples."""
        chosen = torch.multinomial(self.mean.flatten(0, 1), count, replacement=True)
        hot = F.one_hot(chosen, self.mean.shape[-1]).to(self.mean.dtype)
        return hot.unflatten(0, self.mean.shape[:2]).transpose(1, 2)

    def fitted(
        self,
        elites: Float[Tensor, "env elite horizon action"],
        weights: Float[Tensor, "env elite"],
        bounds: tuple[float, float],
    ) -> CategoricalProposal:
        """Weighted frequencies."""
        return CategoricalProposal((weights[..., None, None] * elites).sum(1))

    def explored(self, action: Float[Tensor, "env action"], noise: float | None) -> Float[Tensor, "env action"]:
        """A sample of the first step's probabilities."""
        return self.sample(1)[:, 0, 0]


class Planner(ABC):
    """Chooses the first action of the best plan found."""

    @abstractmethod
    def check(self) -> None:
        """Raise `UserError` for settings that do not fit together."""

    @abstractmethod
    def plan(
        self, dream: Dream, state: Struct, previous: Tensor | None, explore: bool
    ) -> tuple[Float[Tensor, "env action"], Float[Tensor, "env horizon action"] | None]:
        """Actions of the states `[env]`, and what the next call takes as `previous`.

        `previous` is zero where an episode starts; None means that everything starts anew. `explore` adds noise.
        """


def best(
    plans: Float[Tensor, "env candidate horizon action"], scores: Float[Tensor, "env candidate"], count: int
) -> tuple[Float[Tensor, "env elite horizon action"], Float[Tensor, "env elite"]]:
    """The `count` plans of each environment with the highest scores, best first, and these scores."""
    top = scores.topk(count, dim=1)
    index: Any = top.indices[..., None, None].expand(-1, -1, *plans.shape[2:])
    return plans.gather(1, index), top.values
