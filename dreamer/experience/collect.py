"""Vector environments + policy -> arrival rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

import envs
from dreamer.agent import Agent, Carry
from dreamer.batch import ROW_SCALARS, Row
from dreamer.errors import NotFinite, UserError
from dreamer.experience.exploration import Exploration
from envs.vector import Vector


@dataclass(frozen=True)
class Episode:
    """A finished training episode."""

    reward: float
    """Undiscounted sum of rewards."""
    length: int
    """Agent steps."""


class Collector:
    """Steps a vector environment with the agent, one arrival row of every environment at a time.

    A step is `act`, then storing `arrived` with the states that `act` returned, then `advance`. An environment that
    fails begins its next episode instead, at most `restarts` times without finishing one. With probability `epsilon` a
    step begins to hold a random action for up to `hold` steps (see `Exploration`).
    """

    def __init__(
        self,
        agent: Agent,
        vector: Vector,
        indices: list[int],
        restarts: int = 3,
        *,
        epsilon: float = 0.0,
        hold: int = 1,
    ):
        self.agent, self.vector, self.indices, self.restarts = agent, vector, indices, restarts
        self.num_envs = len(indices)
        self.carry = agent.initial_carry(self.num_envs)
        self.exploration = Exploration(self.num_envs, agent.action, epsilon, hold)
        self.action = self.carry.action.cpu().numpy()
        self.episodes = [-1] * self.num_envs
        self.actions: list[list[np.ndarray]] = [[] for _ in indices]
        self.returns = np.zeros(self.num_envs)
        self.lengths = np.zeros(self.num_envs, np.int64)
        self.failures = np.zeros(self.num_envs, np.int64)
        self.told: list[tuple[int, str]] = []
        self._row: Row | None = None

    def reset(self) -> None:
        """Start the first episode of every environment; raises `UserError` when one cannot begin at all."""
        obs, info = self.vector.reset()
        for place, text in envs.failures(info).items():
            raise UserError(f"environment {self.indices[place]} cannot begin an episode: {_first_line(text)}")
        self._arrive(self._first_row(obs))

    def act(self) -> np.ndarray:
        """Filter the arrived row and choose actions; returns the packed core states `[env, packed]`.

        Raises `NotFinite` when a state or an action is not finite.
        """
        row = self.arrived
        device = self.agent.device
        obs = {key: torch.from_numpy(value).to(device) for key, value in row.obs.items()}
        is_first = torch.from_numpy(row.is_first)
        carry = self.agent.step(obs, is_first.to(device), self.carry)
        self.carry = replace(carry, action=self.exploration(carry.action, is_first))
        packed = self.agent.world_model.core.pack(self.carry.state).cpu().numpy()
        self.action = self.carry.action.cpu().numpy()
        if not (np.isfinite(packed).all() and np.isfinite(self.action).all()):
            raise NotFinite("acting led to a state or an action that is not finite")
        return packed

    def advance(self) -> list[Episode]:
        """Step the environments with the chosen actions; returns the training episodes that ended.

        Raises `UserError` when an environment fails again and again.
        """
        before = self.arrived
        env_actions = self.agent.env_action(self.carry.action)
        for actions, action in zip(self.actions, env_actions, strict=True):
            actions.append(action)  # environments ignore one that follows a last row; the next episode clears the list
        obs, rewards, terminated, truncated, info = self.vector.step(env_actions)
        is_first = before.is_last.copy()
        self._begin_anew(envs.failures(info), obs, is_first)
        prev_action = np.where(is_first[:, None], 0.0, self.action).astype(np.float32)
        reward = np.where(is_first, 0.0, rewards).astype(np.float32)
        # An environment may answer the end of an episode and fail afterwards, with the process that it is in.
        is_last = np.logical_or(terminated, truncated) & ~is_first
        self._arrive(Row(obs, prev_action, reward, is_first, is_last, np.logical_and(terminated, is_last)))
        return [Episode(float(self.returns[i]), int(self.lengths[i])) for i in np.flatnonzero(self.arrived.is_last)]

    def _begin_anew(self, failed: dict[int, str], obs: dict[str, np.ndarray], is_first: np.ndarray) -> None:
        """Start the next episode where an environment failed, and put its first row into `obs` and `is_first`."""
        while failed:
            for place, text in failed.items():
                self.told.append((self.indices[place], text))
                self.failures[place] += 1
                if self.failures[place] > self.restarts:
                    times = f"{self.failures[place]} times without finishing an episode"
                    raise UserError(f"environment {self.indices[place]} failed {times}: {_first_line(text)}")
                self.episodes[place] += int(is_first[place])  # the episode that was to begin is given up
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

    def _first_row(self, obs: dict[str, np.ndarray]) -> Row:
        yes, no = np.ones(self.num_envs, bool), np.zeros(self.num_envs, bool)
        action = np.zeros((self.num_envs, self.agent.action.dim), np.float32)
        return Row(obs, action, np.zeros(self.num_envs, np.float32), yes, no, no.copy())

    @property
    def arrived(self) -> Row:
        """The row that has arrived and has not been acted on."""
        if self._row is None:
            raise RuntimeError("call reset() or load_state_dict() first")
        return self._row

    # Saving

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs to bring the environments back to the present row."""
        row = self.arrived
        return {
            "row": {name: torch.from_numpy(np.array(getattr(row, name))) for name in (*ROW_SCALARS, "prev_action")},
            "obs": {key: torch.from_numpy(np.array(value)) for key, value in row.obs.items()},
            "state": self.agent.world_model.core.pack(self.carry.state).cpu(),
            "action": self.carry.action.cpu(),
            "exploration": self.exploration.state_dict(),
            "episodes": list(self.episodes),
            "actions": [torch.from_numpy(np.array(actions)) for actions in self.actions],
            "returns": torch.from_numpy(self.returns.copy()),
            "lengths": torch.from_numpy(self.lengths.copy()),
            "failures": self.failures.tolist(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> list[int]:
        """Restore by re-stepping the open episodes; returns the environments that did not come back to the same row.

        Those start a new episode; the cut-off one ends at its last stored row, which replay marks when it is sampled.
        """
        core, device = self.agent.world_model.core, self.agent.device
        self.carry = Carry(core.unpack(state["state"].to(device)), state["action"].to(device))
        self.exploration.load_state_dict(state["exploration"])
        self.episodes = list(state["episodes"])
        self.actions = [list(actions.numpy()) for actions in state["actions"]]
        self.returns, self.lengths = state["returns"].numpy().copy(), state["lengths"].numpy().copy()
        self.failures = np.array(state["failures"], np.int64)
        obs = {key: value.numpy() for key, value in state["obs"].items()}
        saved = Row(obs, **{name: value.numpy() for name, value in state["row"].items()})
        lost = np.zeros(self.num_envs, bool)
        while True:
            found, same = self._restep(saved)
            strayed = ~same & ~lost
            if not strayed.any():
                break
            lost |= strayed
            for i in np.flatnonzero(strayed):
                self.episodes[i] += 1
                self.actions[i] = []
        if lost.any():
            self._open(lost, found)
        self._row = _choose(lost, self._first_row(found), saved)
        self.returns[lost], self.lengths[lost] = 0.0, 0
        return [self.indices[i] for i in np.flatnonzero(lost)]

    def _open(self, lost: np.ndarray, obs: dict[str, np.ndarray]) -> None:
        """Start the episodes of the environments that are `lost` and put their first rows into `obs`.

        Raises `UserError` where one fails again.
        """
        answers = envs.restart_vector(self.vector, {self.indices[i]: self.episodes[i] for i in np.flatnonzero(lost)})
        for place, (first, failure) in answers.items():
            if failure:
                raise UserError(f"environment {self.indices[place]} cannot go on: {_first_line(failure)}")
            for key, value in first.items():
                obs[key][place] = value

    def _restep(self, saved: Row) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Bring the environments to the ends of `actions`; returns what they show, and which show the saved row."""
        opened = zip(self.indices, self.episodes, self.actions, strict=True)
        plans = {index: (episode, actions) for index, episode, actions in opened}
        obs, rewards, terminated, truncated = envs.restore_vector(self.vector, plans)
        alike = {key: (obs[key] == value).reshape(len(value), -1) for key, value in saved.obs.items()}
        same = np.all([np.all(numbers, -1) for numbers in alike.values()], 0)
        same &= saved.is_first | (rewards.astype(np.float32) == saved.reward)
        return obs, same & (saved.is_terminal == terminated) & (saved.is_last == (terminated | truncated))


def _first_line(text: str) -> str:
    return text.partition("\n")[0]


def _choose(mask: np.ndarray, yes: Row, no: Row) -> Row:
    """The rows of `yes` where `mask` is true, and those of `no` elsewhere."""

    def pick(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return np.where(mask.reshape(-1, *[1] * (left.ndim - 1)), left, right)

    fields = {name: pick(getattr(yes, name), getattr(no, name)) for name in (*ROW_SCALARS, "prev_action")}
    return Row({key: pick(yes.obs[key], no.obs[key]) for key in no.obs}, **fields)
