"""Model predictive path integral control, the planner of TD-MPC2 (arXiv 2310.16828, appendix; arXiv 1509.01149).

mean of the last plan, shifted -> candidates, and plans of the policy -> rewards + value of the last state
    -> weights exp((score - best) / temperature) of the best ones -> refit -> ... -> first action of one of them
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dreamer.errors import UserError
from dreamer.nn.struct import Struct
from dreamer.planning.planner import Candidates, Dream, Horizon, Iterations, Planner, best
from envs.ranges import Deviation


@dataclass(frozen=True)
class MPPI(Planner):
    """Model predictive path integral control: policy, critic and a short search."""

    horizon: Horizon = 3
    """Steps of a plan; the critic values what follows."""
    candidates: Candidates = 512
    """Plans that each iteration scores, those of the policy included."""
    policy_plans: Candidates = 24
    """Plans that follow the policy; fewer than all."""
    iterations: Iterations = 6
    """Times that the distribution of plans is fitted to its best candidates."""
    elites: Candidates = 64
    """Best candidates to which it is fitted; at most all."""
    temperature: Deviation = 2.0
    """Difference of returns at which a plan weighs e times less (TD-MPC2 multiplies by its inverse, 0.5)."""
    min_std: Deviation = 0.05
    """Smallest standard deviation of candidates."""
    max_std: Deviation = 2.0
    """Largest standard deviation of candidates, and the first one."""

    def check(self) -> None:
        """Raise `UserError` for more elites or policy plans than candidates, and for crossed deviations."""
        if self.elites > self.candidates:
            raise UserError(f"mppi.elites {self.elites} must not exceed mppi.candidates {self.candidates}")
        if self.policy_plans >= self.candidates:
            raise UserError(f"mppi.policy-plans {self.policy_plans} must be below mppi.candidates {self.candidates}")
        if self.min_std > self.max_std:
            raise UserError(f"mppi.min-std {self.min_std} must not exceed mppi.max-std {self.max_std}")

    def plan(
        self, dream: Dream, state: Struct, previous: Tensor | None, explore: bool
    ) -> tuple[Float[Tensor, "env action"], Float[Tensor, "env horizon action"]]:
        """First action of one of the best plans, drawn by its weight; the next call starts from the fitted mean."""
        zeros = dream.zeros(state, self.horizon)
        mean = zeros if previous is None else torch.cat([previous[:, 1:], zeros[:, :1]], 1)
        proposal = dream.proposal(mean, self.max_std)
        followed = dream.policy_plans(state, self.policy_plans, self.horizon)
        for _ in range(self.iterations):
            plans = torch.cat([followed, proposal.sample(self.candidates - self.policy_plans)], 1)
            elites, scores = best(plans, dream.scores(state, plans, value=True), self.elites)
            weights = torch.softmax(scores / self.temperature, 1)
            proposal = proposal.fitted(elites, weights, (self.min_std, self.max_std))
        chosen = torch.multinomial(weights, 1)
        action = elites[:, :, 0].gather(1, chosen.unsqueeze(-1).expand(-1, -1, dream.action.dim))[:, 0]
        return (proposal.explored(action, None) if explore else action), proposal.mean
