"""Failures of an environment as return values, so that one failure does not end a run."""

from __future__ import annotations

import contextlib
import math
import threading
import traceback
from collections.abc import Mapping
from typing import Any, Protocol

import gymnasium
import numpy as np

from envs.errors import UserError, first_line
from envs.interface import Arrival, BuildEnv, Observation, StepResult, StreamPosition
from envs.watchdog import WATCHDOG

LARGEST_REWARD = float(np.finfo(np.float32).max)
"""Largest magnitude of a reward, which replay stores as float32."""


class Guarded(gymnasium.Wrapper):
    """Return zeros and an info with the `failure` for a call that fails; the next `restore` recreates the environment.

    A failure is an exception, an observation that does not fit its space or is not finite, a reward that is not
    finite, or no answer within `timeout` seconds. UserError is not a failure and is raised. A timeout of 0 waits
    forever; timeouts work only in a main thread, and not while the environment is in code that does not return to
    Python. The environment's own info is dropped: nothing here reads it, and environments may have different ones.
    """

    def __init__(self, build: BuildEnv, timeout: float = 0.0) -> None:
        super().__init__(build())
        self._build, self._catching = build, Catching(self, timeout)
        self._spaces: dict[str, Any] = dict(self.observation_space.spaces)  # type: ignore[attr-defined]
        self.index: int = self.env.get_wrapper_attr("index")
        self._failure = ""

    @property
    def spec(self) -> None:  # type: ignore[override]
        """None, as for every prepared environment."""
        return None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        with self._catching:
            self._recreate_failed()
            obs, _ = self.env.reset(seed=seed, options=options)
            self._check(obs, 0.0)
            return obs, {}
        return self.zeros(), {"failure": self._failure}

    def step(self, action: Any) -> StepResult:
        if not self._failure:
            with self._catching:
                obs, reward, terminated, truncated, _ = self.env.step(action)
                self._check(obs, reward)  # type: ignore[arg-type]
                return obs, float(reward), terminated, truncated, {}
        return self.zeros(), 0.0, False, False, {"failure": self._failure}

    def restore(self, positions: Mapping[int, StreamPosition]) -> Arrival:
        """As `SeededEpisodes.restore`; zeros where that fails. The time limit is that of a step for every action."""
        with self._catching:
            self._catching.extend(1 + len(positions[self.index][1]))
            self._recreate_failed()
            arrival: Arrival = self.env.get_wrapper_attr("restore")(positions)
            self._check(*arrival[:2])
            return arrival
        return self.zeros(), 0.0, False, False

    def restart(self, episodes: Mapping[int, int]) -> tuple[Observation, str]:
        """Start the episode that `episodes` gives for this environment's index, if any.

        Returns its first observation, and a new failure or "". An environment that has failed is recreated first.
        """
        if self.index not in episodes:
            return {}, ""
        obs, *_ = self.restore({self.index: (episodes[self.index], ())})
        return obs, self._failure

    def zeros(self) -> Observation:
        """An observation of zeros."""
        return {key: np.zeros(space.shape, space.dtype) for key, space in self._spaces.items()}

    def close(self) -> None:
        if not self._failure:  # one that has failed may hang while it closes
            with contextlib.suppress(Exception):
                self.env.close()

    def _recreate_failed(self) -> None:
        if self._failure:
            with contextlib.suppress(Exception):
                self.env.close()
            try:
                self.env = self._build()
            except UserError as error:  # it could be built before
                raise RuntimeError(error) from error
            self._failure = ""

    def _check(self, obs: Mapping[str, np.ndarray], reward: float) -> None:
        for key, space in self._spaces.items():
            value = obs[key]  # its shape and dtype are those of its space (envs.spaces)
            # A sum is much cheaper than a check of every value, but may overflow where all of them are finite.
            if space.dtype.kind == "f" and not (math.isfinite(_sum(value)) or np.isfinite(value).all()):
                raise ValueError(f"observation '{key}' has a value that is not finite as float32")
        if not abs(reward) <= LARGEST_REWARD:
            raise ValueError(f"the reward is {reward}, which is not finite as float32")


def describe(error: BaseException) -> str:
    """An exception in one line, then its traceback."""
    return f"{type(error).__name__}: {first_line(error)}\n{''.join(traceback.format_exception(error))}"


def _sum(value: np.ndarray) -> float:
    with np.errstate(over="ignore"):
        return float(np.add.reduce(value, None))


class CanFail(Protocol):
    """What keeps the text of its failure."""

    _failure: str


class Catching:
    """Context in which an exception, or a timeout, becomes the failure of an environment."""

    def __init__(self, guarded: CanFail, timeout: float) -> None:
        self._guarded, self._timeout = guarded, timeout

    def __enter__(self) -> None:
        if self._timeout and threading.get_ident() == threading.main_thread().ident:
            WATCHDOG.begin(self._timeout)

    def extend(self, times: int) -> None:
        """Allow a block that has just begun a multiple of its time."""
        WATCHDOG.extend(self._timeout * (times - 1))

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        WATCHDOG.end()
        if error is None or isinstance(error, UserError) or not isinstance(error, Exception | SystemExit):
            return False
        self._guarded._failure = describe(error)
        return True
