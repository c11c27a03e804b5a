"""Restoring environments to a saved row by stepping their open episodes again."""

from __future__ import annotations

import numpy as np

import envs
from dreamer.batch import ROW_SCALARS, Row
from dreamer.errors import UserError, first_line
from envs.vector import Vector

OpenActions = list[list[np.ndarray | np.generic]]
"""Actions of each environment's open episode, as the environment took them: vectors or class indices."""


def reopen(
    vector: Vector, indices: list[int], episodes: list[int], actions: OpenActions, saved: Row
) -> tuple[Row, np.ndarray]:
    """Bring every environment to its `saved` row; returns the present row, and which environments are lost `[env]`.

    `episodes` and `actions` are the number of each open episode and its actions so far. An environment whose episode
    does not repeat itself is lost: it starts its next episode, and both lists are changed accordingly. Raises
    `UserError` where that fails.
    """
    lost = np.zeros(len(indices), bool)
    while True:
        found, same = _step_again(vector, indices, episodes, actions, saved)
        diverged = ~same & ~lost
        if not diverged.any():
            break
        lost |= diverged
        for i in np.flatnonzero(diverged):
            episodes[i] += 1
            actions[i] = []
    if lost.any():
        _start(vector, {indices[i]: episodes[i] for i in np.flatnonzero(lost)}, indices, found)
    fresh = first_row(found, len(indices), saved.prev_action.shape[1])
    return _where(lost, fresh, saved), lost


def first_row(obs: dict[str, np.ndarray], num_envs: int, action_dim: int) -> Row:
    """The row of these observations where every environment starts an episode."""
    yes, no = np.ones(num_envs, bool), np.zeros(num_envs, bool)
    action = np.zeros((num_envs, action_dim), np.float32)
    return Row(obs, action, np.zeros(num_envs, np.float32), yes, no, no.copy())


def _step_again(
    vector: Vector, indices: list[int], episodes: list[int], actions: OpenActions, saved: Row
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Step the environments to the ends of `actions`; returns the observations, and where the row equals `saved`."""
    plans = {index: (episode, done) for index, episode, done in zip(indices, episodes, actions, strict=True)}
    obs, rewards, terminated, truncated = envs.restore_vector(vector, plans)
    equal = {key: (obs[key] == value).reshape(len(value), -1) for key, value in saved.obs.items()}
    same = np.all([np.all(values, -1) for values in equal.values()], 0)
    same &= saved.is_first | (rewards.astype(np.float32) == saved.reward)
    return obs, same & (saved.is_terminal == terminated) & (saved.is_last == (terminated | truncated))


def _start(vector: Vector, episodes: dict[int, int], indices: list[int], obs: dict[str, np.ndarray]) -> None:
    """Start the given episode of each environment index and put its first row into `obs`."""
    for place, (first, failure) in envs.restart_vector(vector, episodes).items():
        if failure:
            raise UserError(f"environment {indices[place]} cannot be restored: {first_line(failure)}")
        for key, value in first.items():
            obs[key][place] = value


def _where(mask: np.ndarray, yes: Row, no: Row) -> Row:
    """The rows of `yes` where `mask` is true, and those of `no` elsewhere."""

    def pick(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return np.where(mask.reshape(-1, *[1] * (left.ndim - 1)), left, right)

    fields = {name: pick(getattr(yes, name), getattr(no, name)) for name in (*ROW_SCALARS, "prev_action")}
    return Row({key: pick(yes.obs[key], no.obs[key]) for key in no.obs}, **fields)
