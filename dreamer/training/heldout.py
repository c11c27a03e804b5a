"""Held-out errors: predictions of the world model and the critic, compared with evaluation episodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float

from dreamer.agent import Agent
from dreamer.behavior.acting import Carry
from dreamer.system.randomness import own_randomness

EVERY = 5
"""Steps from one comparison to the next; the steps between cost nothing."""


class HeldOut:
    """Compares predictions with the outcome of `episodes` episodes that are stepped together.

    Call `chosen` after every choice of actions, and `arrived` with the environments' answer. The caller's random state
    is left as it was, so that the episodes are the same with and without the comparison.
    """

    def __init__(self, agent: Agent, episodes: int):
        self._agent = agent
        self._values: list[list[tuple[int, float]]] = [[] for _ in range(episodes)]
        self._rewards: list[list[float]] = [[] for _ in range(episodes)]
        self._errors: list[np.ndarray] = []
        self._gaps: list[Float[np.ndarray, " state"]] = []
        self._decided: list[Float[np.ndarray, " state"]] = []
        self._returns: list[Float[np.ndarray, " state"]] = []
        self._predicted: torch.Tensor | None = None

    @torch.no_grad()
    def chosen(self, carry: Carry, running: np.ndarray) -> None:
        """Record the critic's values of the filtered states, and predict the outcome of the chosen actions."""
        self._predicted = None
        step = max(map(len, self._rewards))
        if step % EVERY:
            return
        values = self._value(carry)
        for i in np.flatnonzero(running):
            self._values[i].append((step, float(values[i])))
        core = self._agent.world_model.core
        with own_randomness(self._agent.device):
            predicted = core.imagine_step(carry.state, carry.action)
        self._predicted = core.decoder_input(predicted, core.features(predicted))

    @torch.no_grad()
    def arrived(
        self,
        obs: Mapping[str, np.ndarray],
        rewards: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
        running: np.ndarray,
        carry: Carry,
    ) -> None:
        """Compare predictions with the outcome of the actions of `carry`, where environments were `running`."""
        if self._predicted is not None:
            tensors = {key: torch.as_tensor(obs[key]).to(self._agent.device) for key in self._agent.obs_shapes}
            model = self._agent.world_model
            error = model.objective.reconstruction_error(self._predicted, model.standardize(tensors))
            if error is not None:
                self._errors.append(error.cpu().numpy()[running])
        for i in np.flatnonzero(running):
            self._rewards[i].append(float(rewards[i]))
        ended = running & (terminated | truncated)
        if ended.any():
            with own_randomness(self._agent.device):
                _, carry = self._agent.act({key: obs[key] for key in self._agent.obs_shapes}, False, carry)
            after = np.where(terminated, 0.0, self._value(carry))
            for i in np.flatnonzero(ended):
                self._finish(self._values[i], self._rewards[i], float(after[i]), bool(terminated[i]))

    def metrics(self) -> dict[str, float]:
        """`eval/model_error` (where there is a decoder), `eval/value_bias` and `eval/discounted_return`.

        The last two are of the episodes that ended. A metric with nothing to compare is absent.
        """
        errors = {"eval/model_error": float(np.concatenate(self._errors).mean())} if self._errors else {}
        if not self._decided:
            return errors
        decided = np.concatenate(self._decided).sum()
        return errors | {
            "eval/value_bias": float(np.concatenate(self._gaps).sum() / decided),
            "eval/discounted_return": float(np.abs(np.concatenate(self._returns)).sum() / decided),
        }

    def _finish(self, values: Sequence[tuple[int, float]], rewards: Sequence[float], after: float, over: bool) -> None:
        """Compare the values of an episode with its discounted returns.

        After a time limit the return is bootstrapped with the critic's own value. A constant bias of the critic then
        cancels in part, so both are divided by the share `1 - discount^steps` that the episode itself decides.
        """
        discount = self._agent.config.world_model.discount
        returns = [after]
        for reward in reversed(rewards):
            returns.append(reward + discount * returns[-1])
        returns.reverse()
        steps, predicted = (np.array(column) for column in zip(*values, strict=True))
        followed, left = np.array(returns)[steps], discount ** (len(rewards) - steps)
        self._gaps.append(predicted - followed)
        self._returns.append(followed - left * after)
        self._decided.append(np.ones(len(steps)) if over else 1 - left)

    def _value(self, carry: Carry) -> Float[np.ndarray, " env"]:
        critic = self._agent.actor_critic.critic
        return critic(self._agent.world_model.core.features(carry.state)).mean().cpu().numpy()
