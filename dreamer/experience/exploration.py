"""Temporally extended epsilon-greedy: exploration by random actions that are held for several steps."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from dreamer.batch import ActionSpec


class Exploration:
    """Temporally extended epsilon-greedy (Dabney et al., 2021): environments now and then hold one random action.

    An environment that holds none begins to with probability `epsilon`. The number of steps is uniform in 1 to
    `longest`, cut at the end of the episode. Continuous actions are uniform in [-1, 1]. All draws come from PyTorch's
    generator of the CPU; with `epsilon` 0 there are none.
    """

    def __init__(self, num_envs: int, action: ActionSpec, epsilon: float, longest: int):
        self.action, self.epsilon, self.longest = action, epsilon, longest
        self.left = torch.zeros(num_envs, dtype=torch.int64)
        self.held = torch.zeros(num_envs, action.dim)

    def __call__(
        self, action: Float[Tensor, "env action"], is_first: Bool[Tensor, " env"]
    ) -> Float[Tensor, "env action"]:
        """The actions to take, given those of the policy; `is_first` marks environments that start an episode."""
        if not self.epsilon:
            return action
        num_envs = len(self.left)
        free = (self.left == 0) | is_first
        begins = free & (torch.rand(num_envs) < self.epsilon)
        self.left = torch.where(free, 0, self.left)
        self.left = torch.where(begins, torch.randint(1, self.longest + 1, (num_envs,)), self.left)
        self.held = torch.where(begins.unsqueeze(1), self._random(num_envs), self.held)
        holds = self.left > 0
        self.left = (self.left - 1).clamp(min=0)
        return torch.where(holds.unsqueeze(1).to(action.device), self.held.to(action.device), action)

    def _random(self, num_envs: int) -> Float[Tensor, "env action"]:
        if self.action.discrete:
            return F.one_hot(torch.randint(self.action.dim, (num_envs,)), self.action.dim).float()
        return torch.rand(num_envs, self.action.dim) * 2 - 1

    def state_dict(self) -> dict[str, Tensor]:
        """The held action of every environment and the steps that are left."""
        return {"left": self.left.clone(), "held": self.held.clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        self.left, self.held = state["left"].clone(), state["held"].clone()
