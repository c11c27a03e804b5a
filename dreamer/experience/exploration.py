"""Random actions held for a while, which bring rows into replay that the policy alone would not visit."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from dreamer.batch import ActionSpec


class Exploration:
    """Temporally extended epsilon-greedy (Dabney et al., 2021): now and then an environment holds one random action.

    Wherever the policy is free, a burst begins with probability `epsilon`. It lasts for 1 to `longest` steps, each as
    likely, or until the episode ends. Continuous actions are uniform in [-1, 1]. All draws are from PyTorch's generator
    of the CPU, and there are none where `epsilon` is 0.
    """

    def __init__(self, num_envs: int, action: ActionSpec, epsilon: float, longest: int):
        self.action, self.epsilon, self.longest = action, epsilon, longest
        self.left = torch.zeros(num_envs, dtype=torch.int64)
        self.held = torch.zeros(num_envs, action.dim)

    def __call__(
        self, action: Float[Tensor, "env action"], is_first: Bool[Tensor, " env"]
    ) -> Float[Tensor, "env action"]:
        """The actions to take, given those of the policy; `is_first` marks environments in which an episode begins."""
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
        """What goes on in every environment."""
        return {"left": self.left.clone(), "held": self.held.clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on with what `state_dict` returned."""
        self.left, self.held = state["left"].clone(), state["held"].clone()
