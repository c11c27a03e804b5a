"""Cross-entropy method, the planner of PlaNet (arXiv 1811.04551, algorithm 2).

    N(0, 1) -> candidates -> scores in imagination -> refit to the best ones -> ... -> first action of the mean

Each decision starts anew. Only predicted rewards count, and no critic.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from dreamer.errors import UserError
from dreamer.nn.distributions import one_hot_argmax
from dreamer.nn.struct import Struct
from dreamer.planning.planner import Candidates, Dream, Horizon, Iterations, Planner, best
from envs.ranges import NonNegative

SMALLEST_STD = 1e-3


@dataclass(frozen=True)
class CEM(Planner):
    """Cross-entropy method: rewards of imagined plans, refitted several times."""

    horizon: Horizon = 12
    """Steps of a plan."""
    candidates: Candidates = 1000
    """Plans that each iteration draws."""
    iterations: Iterations = 10
    """Times that the distribution of plans is fitted to its best candidates."""
    elites: Candidates = 100
    """Best candidates to which it is fitted; at most all."""
    noise: NonNegative = 0.3
    """Standard deviation of the noise on actions while collecting; discrete actions are sampled instead."""

    def check(self) -> None:
        """Raise `UserError` for more elites than candidates."""
        if self.elites > self.candidates:
            raise UserError(f"cem.elites {self.elites} must not exceed cem.candidates {self.candidates}")

    def plan(
        self, dream: Dream, state: Struct, previous: Tensor | None, explore: bool
    ) -> tuple[Float[Tensor, "env action"], None]:
        """First action of the fitted mean, or the likeliest one of discrete actions."""
        mean = dream.zeros(state, self.horizon)
        proposal = dream.proposal(mean, std=1.0)
        weights = mean.new_full((mean.shape[0], self.elites), 1 / self.elites)
        for _ in range(self.iterations):
            plans = proposal.sample(self.candidates)
            elites, _ = best(plans, dream.scores(state, plans, value=False), self.elites)
            proposal = proposal.fitted(elites, weights, (SMALLEST_STD, math.inf))
        action = proposal.mean[:, 0]
        if explore:
            return proposal.explored(action, self.noise), None
        return (one_hot_argmax(action) if dream.action.discrete else action), None
