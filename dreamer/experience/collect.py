"""Collector: steps a vector environment with a policy and returns arrival rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic

import numpy as np
import torch
from torch import Tensor

import envs
from dreamer.batch import ROW_SCALARS, Row
from dreamer.errors import NotFinite, UserError, first_line
from dreamer.experience.exploration import Exploration
from dreamer.experience.policy import ActingPolicy, CarryT
from dreamer.experience.restore import OpenActions, first_row, reopen
from envs.vector import Vector


@dataclass(frozen=True)
class Episode:
    """A finished training episode."""

    reward: float
    """Undiscounted sum of rewards."""
    length: int
    """Agent steps."""


class Collector(Generic[CarryT]):
    """Steps a vector environment with a policy, one arrival row of every environment at a time.

    A step is `act`, then storing `arrived` with the packed memory that `act` returned, then `advance`. An environment
    that fails starts its next episode, at most `restarts` times without finishing one. At each step an environment
    begins with probability `epsilon` to hold a random action for up to `hold` steps (see `Exploration`).
    """

    def __init__(
        self,
        policy: ActingPolicy[CarryT],
        vector: Vector,
        indices: list[int],
        restarts: int = 3,
        *,
        epsilon: float = 0.0,
        hold: int = 1,
    ):
        self.policy, self.vector, self.indices, self.restarts = policy, vector, indices, restarts
        self.num_envs = len(indices)
        self.carry = policy.initial_carry(self.num_envs)
        self.exploration = Exploration(self.num_envs, policy.action, epsilon, hold)
        self.action = self.carry.action.cpu().numpy()
        self.episodes = [-1] * self.num_envs
        self.actions: OpenActions = [[] for _ in indices]
        self.returns = np.zeros(self.num_envs)
        self.lengths = np.zeros(self.num_envs, np.int64)
        self.failures = np.zeros(self.num_envs, np.int64)
        self.failure_log: list[tuple[int, str]] = []
        """Index of each environment that has failed, and its error; the caller empties the list."""
        self._row: Row | None = None

    def reset(self) -> None:
        """Start the first episode of every environment; raises `UserError` when one cannot start."""
        obs, info = self.vector.reset()
        for place, text in envs.failures(info).items():
            raise UserError(f"environment {self.indices[place]} cannot begin an episode: {first_line(text)}")
        self._arrive(first_row(obs, self.num_envs, self.policy.action.dim))

    def act(self) -> np.ndarray:
        """Filter the arrived row and choose actions; returns the packed memory `[env, packed]`.

        Raises `NotFinite` when the memory or an action is not finite.
        """
        row = self.arrived
        device = self.policy.device
        obs = {key: torch.from_numpy(value).to(device) for key, value in row.obs.items()}
        is_first = torch.from_numpy(row.is_first)
        carry = self.policy.step(obs, is_first.to(device), self.carry)
        self.carry = replace(carry, action=self.exploration(carry.action, is_first))
        packed = self.policy.pack_carry(self.carry).cpu().numpy()
        self.action = self.carry.action.cpu().numpy()
        if not (np.isfinite(packed).all() and np.isfinite(self.action).all()):
            raise NotFinite("acting led to a state or an action that is not finite")
        return packed

    def advance(self) -> list[Episode]:
        """Step the environments with the chosen actions; returns the episodes that ended.

        Raises `UserError` when an environment fails too often.
        """
        before = self.arrived
        env_actions = self.policy.action.to_env(self.carry.action)
        for actions, action in zip(self.actions, env_actions, strict=True):
            actions.append(action)  # environments ignore one that follows a last row; the next episode clears the list
        obs, rewards, terminated, truncated, info = self.vector.step(env_actions)
        is_first = before.is_last.copy()
        self._restart(envs.failures(info), obs, is_first)
        prev_action = np.where(is_first[:, None], 0.0, self.action).astype(np.float32)
        reward = np.where(is_first, 0.0, rewards).astype(np.float32)
        # An environment may return the end of an episode and then fail together with its process.
        is_last = np.logical_or(terminated, truncated) & ~is_first
        self._arrive(Row(obs, prev_action, reward, is_first, is_last, np.logical_and(terminated, is_last)))
        return [Episode(float(self.returns[i]), int(self.lengths[i])) for i in np.flatnonzero(self.arrived.is_last)]

    @property
    def arrived(self) -> Row:
        """The row that has arrived and that the policy has not acted on."""
        if self._row is None:
            raise RuntimeError("call reset() or load_state_dict() first")
        return self._row

    def _restart(self, failed: dict[int, str], obs: dict[str, np.ndarray], is_first: np.ndarray) -> None:
        """Start the next episode of each failed environment and put its first row into `obs` and `is_first`."""
        while failed:
            for place, text in failed.items():
                self.failure_log.append((self.indices[place], text))
                self.failures[place] += 1
                if self.failures[place] > self.restarts:
                    times = f"{self.failures[place]} times without finishing an episode"
                    raise UserError(f"environment {self.indices[place]} failed {times}: {first_line(text)}")
                self.episodes[place] += int(is_first[place])  # skips the episode that was about to start
                is_first[place] = True
            episodes = {self.indices[place]: self.episodes[place] + 1 for place in failed}
            answers = envs.restart_vector(self.vector, episodes)
            for place, (first, _) in answers.items():
                for key, value in first.items():
                    obs[key][place] = value
            failed = {place: text for place, (_, text) in answers.items() if text}

    def _arrive(self, row: Row) -> None:
        self._row = row
        self.failures[row.is_last] = 0
        for i in np.flatnonzero(row.is_first):
            self.episodes[i] += 1
            self.actions[i] = []
        self.returns = np.where(row.is_first, 0.0, self.returns + row.reward)
        self.lengths = np.where(row.is_first, 0, self.lengths + 1)

    # Saving

    @property
    def _plan(self) -> Tensor | None:
        """What a planner keeps for its next decision `[env, horizon, action]`."""
        return getattr(self.carry, "plan", None)

    def state_dict(self) -> dict[str, Any]:
        """State from which `load_state_dict` brings the environments back to the present row."""
        row = self.arrived
        return {
            "row": {name: torch.from_numpy(np.array(getattr(row, name))) for name in (*ROW_SCALARS, "prev_action")},
            "obs": {key: torch.from_numpy(np.array(value)) for key, value in row.obs.items()},
            "state": self.policy.pack_carry(self.carry).cpu(),
            "action": self.carry.action.cpu(),
            "plan": None if self._plan is None else self._plan.cpu(),
            "exploration": self.exploration.state_dict(),
            "episodes": list(self.episodes),
            "actions": [torch.from_numpy(np.array(actions)) for actions in self.actions],
            "returns": torch.from_numpy(self.returns.copy()),
            "lengths": torch.from_numpy(self.lengths.copy()),
            "failures": self.failures.tolist(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore everything but the environments; `reopen` must follow. Raises `ValueError` for impossible shapes."""
        self._check_shapes(state)
        device = self.policy.device
        self.carry = self.policy.unpack_carry(state["state"].to(device), state["action"].to(device))
        if state.get("plan") is not None:  # older versions had no planners
            changes: dict[str, Any] = {"plan": state["plan"].to(device)}
            self.carry = replace(self.carry, **changes)
        self.exploration.load_state_dict(state["exploration"])
        self.episodes = list(state["episodes"])
        self.actions = [list(actions.numpy()) for actions in state["actions"]]
        self.returns, self.lengths = state["returns"].numpy().copy(), state["lengths"].numpy().copy()
        self.failures = np.array(state["failures"], np.int64)
        obs = {key: value.numpy() for key, value in state["obs"].items()}
        self._row = Row(obs, **{name: value.numpy() for name, value in state["row"].items()})

    def reopen(self) -> list[int]:
        """Step the restored episodes again; returns the environments that did not reach the same row.

        Those start a new episode. The one that was cut off ends at its last stored row, which `Replay.sample` marks.
        """
        self._row, lost = reopen(self.vector, self.indices, self.episodes, self.actions, self.arrived)
        self.returns[lost], self.lengths[lost] = 0.0, 0
        return [self.indices[i] for i in np.flatnonzero(lost)]

    def _check_shapes(self, state: Mapping[str, Any]) -> None:
        """Raise `ValueError` unless the arrays of a saved state have the shapes of these environments."""
        envs, dim, row = self.num_envs, self.policy.action.dim, state["row"]
        packed = self.policy.pack_carry(self.carry).shape[1:]
        spaces: Mapping[str, Any] = self.vector.single_observation_space.spaces  # type: ignore[attr-defined]
        expected = [
            (row, dict.fromkeys(ROW_SCALARS, ()) | {"prev_action": (dim,)}),
            (state["obs"], {key: space.shape for key, space in spaces.items()}),
            (state, {"state": packed, "action": (dim,), "returns": (), "lengths": ()}),
            (state["exploration"], {"left": (), "held": (dim,)}),
        ]
        for arrays, shapes in expected:
            for name, shape in shapes.items():
                if tuple(arrays[name].shape) != (envs, *shape):
                    raise ValueError(f"{name} has shape {tuple(arrays[name].shape)} and not {(envs, *shape)}")
        plan = state.get("plan")
        if plan is not None and (plan.ndim != 3 or (plan.shape[0], plan.shape[2]) != (envs, dim)):
            raise ValueError(f"plan has shape {tuple(plan.shape)} and not {(envs, 'horizon', dim)}")
        counted = all(isinstance(number, int) for number in state["episodes"])
        if not counted or not all(len(state[name]) == envs for name in ("episodes", "actions", "failures")):
            raise ValueError(f"episodes must be those of {envs} environments")
