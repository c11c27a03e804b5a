"""What goes wrong in an environment becomes an answer, so that one failure does not end a run."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

import gymnasium
import numpy as np

from envs.errors import UserError, first_line
from envs.wrappers import Plan, Step

Restored = tuple[dict[str, np.ndarray], float, bool, bool]


class Guarded(gymnasium.Wrapper):
    """Answers a failed call with zeros and an info whose `failure` says what happened; the next `restore` mends it.

    A failure is an exception (UserError is none: it is raised as it is), an observation that does not fit its space
    or holds a number that is not finite, such a reward, or no answer within `timeout` seconds (0 waits for ever; only
    in a main thread, and not while the environment is inside code that never returns to Python).
    The environment's own info is dropped: nothing here reads it, and what it holds need not fit those of others.
    """

    def __init__(self, make_env: Callable[[], gymnasium.Env], timeout: float = 0.0) -> None:
        super().__init__(make_env())
        self._make_env, self._catching = make_env, _Catching(self, timeout)
        self._spaces: dict[str, Any] = dict(self.observation_space.spaces)  # type: ignore[attr-defined]
        self.index: int = self.env.get_wrapper_attr("index")
        self._failure = ""

    @property
    def spec(self) -> None:  # type: ignore[override]
        """None, as for every prepared environment."""
        return None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        with self._catching:
            self._mend()
            obs, _ = self.env.reset(seed=seed, options=options)
            self._check(obs, 0.0)
            return obs, {}
        return self.blank(), {"failure": self._failure}

    def step(self, action: Any) -> Step:
        if not self._failure:
            with self._catching:
                obs, reward, terminated, truncated, _ = self.env.step(action)
                self._check(obs, float(reward))
                return obs, float(reward), terminated, truncated, {}
        return self.blank(), 0.0, False, False, {"failure": self._failure}

    def restore(self, plans: Mapping[int, Plan]) -> Restored:
        """As `SeededEpisodes.restore`; zeros when that fails. Every action has the time that a step has."""
        with self._catching:
            self._catching.extend(1 + len(plans[self.index][1]))
            self._mend()
            restored = self.env.get_wrapper_attr("restore")(plans)
            self._check(*restored[:2])
            return restored
        return self.blank(), 0.0, False, False

    def restart(self, episodes: Mapping[int, int]) -> tuple[dict[str, np.ndarray], str]:
        """Start the episode that `episodes` gives for this environment's index, if any; its first row and any failure.

        An environment that has failed is made anew for it.
        """
        if self.index not in episodes:
            return {}, ""
        obs, *_ = self.restore({self.index: (episodes[self.index], ())})
        return obs, self._failure

    def blank(self) -> dict[str, np.ndarray]:
        """An observation of zeros."""
        return {key: np.zeros(space.shape, space.dtype) for key, space in self._spaces.items()}

    def close(self) -> None:
        if not self._failure:  # one that has failed cannot be trusted to close
            with contextlib.suppress(Exception):  # nothing is wanted of it any more
                self.env.close()

    def _mend(self) -> None:
        if self._failure:
            with contextlib.suppress(Exception):
                self.env.close()
            self.env = self._make_env()
            self._failure = ""

    def _check(self, obs: Mapping[str, np.ndarray], reward: float) -> None:
        for key, space in self._spaces.items():
            numbers = obs[key]
            if numbers.shape != space.shape:
                raise ValueError(f"observation '{key}' has {numbers.shape} numbers where its space has {space.shape}")
            # A sum costs a fraction of a look at every number, but may overflow where all of them are finite.
            if space.dtype.kind == "f" and not (math.isfinite(_sum(numbers)) or np.isfinite(numbers).all()):
                raise ValueError(f"observation '{key}' holds a number that is not finite")
        if not math.isfinite(reward):
            raise ValueError(f"the reward is {reward}")


def _sum(numbers: np.ndarray) -> float:
    with np.errstate(over="ignore"):
        return float(np.add.reduce(numbers, None))


class _Catching:
    """A block whose exceptions, and whose slowness, become the failure of an environment."""

    def __init__(self, guarded: Guarded, timeout: float) -> None:
        self._guarded, self._timeout = guarded, timeout

    def __enter__(self) -> None:
        if self._timeout and threading.get_ident() == threading.main_thread().ident:
            WATCHDOG.begin(self._timeout)

    def extend(self, times: int) -> None:
        """Allow a block that has just begun so many times its time."""
        WATCHDOG.extend(self._timeout * (times - 1))

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        WATCHDOG.end()
        if error is None or isinstance(error, UserError) or not isinstance(error, Exception | SystemExit):
            return False
        self._guarded._failure = describe(error)
        return True


class _Watchdog:
    """Raises TimeoutError in the main thread when what `begin` began has not come to its `end` in time.

    A thread looks and sends the main thread a signal, which also ends a sleep or a wait for input; beginning and ending
    cost next to nothing.
    """

    def __init__(self) -> None:
        self._deadline, self._seconds, self._period = math.inf, 0.0, 1.0
        self._thread: threading.Thread | None = None

    def begin(self, seconds: float) -> None:
        if self._thread is None or not self._thread.is_alive():
            signal.signal(signal.SIGVTALRM, self._stop)
            self._thread = threading.Thread(target=self._watch, name="environments' watchdog", daemon=True)
            self._thread.start()
        self._seconds, self._period = seconds, min(self._period, seconds / 4)
        self._deadline = time.monotonic() + seconds

    def extend(self, seconds: float) -> None:
        self._deadline += seconds  # an infinite one stays so
        self._seconds += seconds

    def end(self) -> None:
        self._deadline = math.inf

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if time.monotonic() > self._deadline:  # it may have come to its end while the signal was on its way
            self._deadline = math.inf
            raise TimeoutError(f"no answer within {self._seconds:g} seconds")

    def _watch(self) -> None:
        while True:
            time.sleep(self._period)
            if time.monotonic() > self._deadline:
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGVTALRM)


WATCHDOG = _Watchdog()


def describe(error: BaseException) -> str:
    """An exception in one line, then its traceback."""
    return f"{type(error).__name__}: {first_line(error)}\n{''.join(traceback.format_exception(error))}"
