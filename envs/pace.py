"""Whether environments are worth stepping in parallel: what a step takes here, and what processes add to it."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from statistics import median

import gymnasium

from envs.guarded import Guarded

PROCESS_SECONDS = 1e-4
ANSWER_SECONDS = 4e-5
"""What a parallel step adds for each process and for each environment: `toy:counting` with 2, 4 and 8 environments in 2
processes took 0.32, 0.38 and 0.59 ms, and 0.06, 0.09 and 0.15 ms in this process (docs/performance.md)."""
WINS_BY = 1.2
WINS_SECONDS = 1e-3
"""A parallel step is chosen when it is so many times faster and saves so much: processes take memory, and seconds to
start."""
WARM_UP, STEPS = 5, 40
LEAST_STEPS, LONGEST_SECONDS = 4, 1.0
"""A slow environment is measured by as many steps as there is time for, and at least by these."""


@dataclass(frozen=True)
class Pace:
    """Seconds of a step of several environments, from that of one."""

    num_envs: int
    """Environments."""
    processes: int
    """Processes that they would be dealt over."""
    step: float
    """Seconds of a step of one environment."""

    @property
    def in_turn(self) -> float:
        """Seconds of a step of all of them in this process."""
        return self.num_envs * self.step

    @property
    def in_parallel(self) -> float:
        """Seconds of a step of all of them in processes."""
        longest = -(-self.num_envs // self.processes) * self.step
        return longest + self.processes * PROCESS_SECONDS + self.num_envs * ANSWER_SECONDS

    @property
    def parallel(self) -> bool:
        """Whether processes clearly win."""
        saved = self.in_turn - self.in_parallel
        return self.processes > 1 and self.in_turn > WINS_BY * self.in_parallel and saved > WINS_SECONDS

    def __str__(self) -> str:
        where = f"in {self.processes} processes" if self.parallel else "in this process"
        if self.processes == 1:
            return f"environments are stepped {where}"
        times = f"{self.in_turn * 1e3:.2g} ms here and {self.in_parallel * 1e3:.2g} ms in {self.processes} processes"
        return f"environments are stepped {where}: a step of all {self.num_envs} takes about {times}"


def measure_pace(make_env: Callable[[int], gymnasium.Env], num_envs: int, processes: int, timeout: float = 0.0) -> Pace:
    """Time the steps of one environment, made and closed for it, if there is anything to choose.

    `processes` may be had at most; `timeout` is the longest wait for a step in seconds, 0 waits for ever. Raises
    UserError as the environment raises it; one that fails is measured until then.
    """
    processes = min(num_envs, processes)
    return Pace(num_envs, processes, _seconds_of_a_step(make_env, timeout) if processes > 1 else 0.0)


def _seconds_of_a_step(make_env: Callable[[int], gymnasium.Env], timeout: float) -> float:
    """Median over steps with random actions, the first ones aside; 0 when the first fails."""
    times: list[float] = []
    with closing(Guarded(functools.partial(make_env, 0), timeout)) as env:
        env.action_space.seed(0)
        _, info = env.reset()
        began = time.perf_counter()
        while "failure" not in info and len(times) < WARM_UP + STEPS:
            if len(times) >= LEAST_STEPS and time.perf_counter() - began > LONGEST_SECONDS:
                break
            action, begin = env.action_space.sample(), time.perf_counter()
            _, _, terminated, truncated, info = env.step(action)
            if "failure" not in info:
                times.append(time.perf_counter() - begin)
            if terminated or truncated:
                _, info = env.reset()
    return median(times[min(WARM_UP, len(times) // 2) :]) if times else 0.0
