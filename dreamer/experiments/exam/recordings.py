"""Recorded episodes on which every core is trained and examined."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.signal
import torch

from dreamer.batch import Batch
from dreamer.experience.spaces import Spec, spec_of
from dreamer.tracking.progress import follow
from envs import MakeEnv

TEST_INDEX = 1_000_000
"""Index of the first environment of a recording for tests."""
ActionSampler = Callable[[np.random.Generator, int], np.ndarray]
"""Function that draws the actions `[time, action]` of an episode of that many steps."""


@dataclass(frozen=True)
class Recording:
    """Episodes of equal length as arrival rows, with the first row of each."""

    obs: dict[str, np.ndarray]
    """Observations `[episode, time, size]` by key."""
    prev_action: np.ndarray
    """Actions that led to each row `[episode, time, action]`."""
    reward: np.ndarray
    """Rewards on arrival `[episode, time]`."""
    truth: np.ndarray
    """`info["position"]` of every row `[episode, time]`; NaN in environments without it."""
    spec: Spec
    """Sizes of observations and actions."""

    @property
    def episodes(self) -> int:
        """Number of episodes."""
        return len(self.reward)

    @property
    def length(self) -> int:
        """Number of rows of an episode."""
        return self.reward.shape[1]

    def windows(self, episodes: np.ndarray, starts: np.ndarray, length: int) -> Batch:
        """Return a batch of `length` rows from each (episode, start); filtering starts from the initial state."""
        rows = starts[:, None] + np.arange(length)
        picked = episodes[:, None], rows

        def tensor(array: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(np.ascontiguousarray(array[picked]))

        is_first = torch.from_numpy(rows == 0)
        is_last = torch.from_numpy(rows == self.length - 1)
        return Batch(
            obs={key: tensor(value) for key, value in self.obs.items()},
            prev_action=tensor(self.prev_action),
            reward=tensor(self.reward),
            is_first=is_first,
            is_last=is_last,
            is_terminal=torch.zeros_like(is_last),
            context=torch.zeros(len(episodes), 0),
        )


def record(make_env: MakeEnv, episodes: int, steps: int, sampler: ActionSampler, first_index: int = 0) -> Recording:
    """Return one episode of `steps` actions in each of `episodes` environments; no episode may end before.

    Environment `first_index + i` determines episode i with its actions, so recordings are reproducible.
    """
    rows = []
    for i in follow(range(first_index, first_index + episodes), "recording", episodes, "episodes"):
        env = make_env(i)
        actions = sampler(np.random.default_rng(i), steps)
        obs, info = env.reset()
        seen, rewards, truth = [obs], [0.0], [info.get("position", np.nan)]
        for action in actions:
            obs, reward, *_, info = env.step(action)
            seen.append(obs)
            rewards.append(float(reward))
            truth.append(info.get("position", np.nan))
        spec = Spec(*spec_of(env.observation_space, env.action_space))
        env.close()
        prev_action = np.concatenate([np.zeros((1, actions.shape[1])), actions])
        rows.append(({key: np.stack([o[key] for o in seen]) for key in obs}, prev_action, rewards, truth))
    obs_rows, prev_actions, rewards_of, truths = zip(*rows, strict=True)
    return Recording(
        obs={key: np.stack([o[key] for o in obs_rows]) for key in obs_rows[0]},
        prev_action=np.array(prev_actions, np.float32),
        reward=np.array(rewards_of, np.float32),
        truth=np.array(truths),
        spec=spec,
    )


def train_and_test(
    make_env: MakeEnv, steps: int, sampler: ActionSampler, train: int, test: int
) -> tuple[Recording, Recording]:
    """Return recordings of `train` and of `test` episodes; no environment is in both."""
    return record(make_env, train, steps, sampler), record(make_env, test, steps, sampler, first_index=TEST_INDEX)


def uniform_actions(size: int) -> ActionSampler:
    """Return a sampler of independent uniform actions in [-1, 1]."""
    return lambda random, steps: random.uniform(-1, 1, (steps, size)).astype(np.float32)


def smooth_actions(size: int, correlation: float = 0.9) -> ActionSampler:
    """Return a sampler of correlated actions in [-1, 1], which move a simulated body further than independent ones."""

    def draw(random: np.random.Generator, steps: int) -> np.ndarray:
        noise, first = random.normal(size=(steps, size)), random.normal(size=(1, size))
        weight = (1 - correlation**2) ** 0.5
        values, _ = scipy.signal.lfilter([weight], [1, -correlation], noise, axis=0, zi=correlation * first)
        return np.clip(values, -1, 1).astype(np.float32)

    return draw
