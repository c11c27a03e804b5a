"""The choice between stepping environments in turn and in parallel, from the time of a step."""

from __future__ import annotations

import functools
import time
from contextlib import closing
from dataclasses import dataclass
from statistics import median

from envs.guarded import Guarded
from envs.interface import MakeEnv

PROCESS_SECONDS = 1e-4
ANSWER_SECONDS = 4e-5
"""Seconds that a parallel step takes in addition, per process and per environment: `toy:counting` with 2, 4 and 8
environments took 0.32, 0.38 and 0.59 ms in 2 processes, and 0.06, 0.09 and 0.15 ms in one (docs/performance.md)."""
WINS_BY = 1.2
WINS_SECONDS = 1e-3
"""Speed-up and seconds saved per step from which parallel steps are chosen: processes take memory and seconds to
start."""
WARM_UP, STEPS = 5, 40
"""Steps before the measurement, and steps measured."""
LEAST_STEPS, LONGEST_SECONDS = 4, 1.0
"""Least steps and longest time for slow environments, for which the measurement ends earlier."""


@dataclass(frozen=True)
class Pace:
    """Estimated seconds of a step of several environments, in turn and in parallel."""

    num_envs: int
    """Number of environments."""
    processes: int
    """Number of processes for parallel steps."""
    step: float
    """Seconds of a step of one environment."""

    @property
    def in_turn(self) -> float:
        """Seconds of a step of all environments in this process."""
        return self.num_envs * self.step

    @property
    def in_parallel(self) -> float:
        """Seconds of a step of all environments in parallel."""
        longest = -(-self.num_envs // self.processes) * self.step
        return longest + self.processes * PROCESS_SECONDS + self.num_envs * ANSWER_SECONDS

    @property
    def parallel(self) -> bool:
        """True if parallel steps are clearly faster."""
        saved = self.in_turn - self.in_parallel
        return self.processes > 1 and self.in_turn > WINS_BY * self.in_parallel and saved > WINS_SECONDS

    def __str__(self) -> str:
        where = f"in {self.processes} processes" if self.parallel else "in this process"
        if self.processes == 1:
            return f"environments are stepped {where}"
        times = f"{self.in_turn * 1e3:.2g} ms here and {self.in_parallel * 1e3:.2g} ms in {self.processes} processes"
        return f"environments are stepped {where}: a step of all {self.num_envs} takes about {times}"


def measure_pace(make_env: MakeEnv, num_envs: int, processes: int, timeout: float = 0.0) -> Pace:
    """Build one environment, time its steps and close it, if there is a choice.

    `processes` is the largest number of processes; `timeout` is the longest wait for a step in seconds, 0 waits
    forever. Raises UserError as the environment raises it. After a failure, the steps before it count.
    """
    processes = min(num_envs, processes)
    return Pace(num_envs, processes, _seconds_of_a_step(make_env, timeout) if processes > 1 else 0.0)


def _seconds_of_a_step(make_env: MakeEnv, timeout: float) -> float:
    """Median over steps with random actions, without the first ones; 0 if the first step fails."""
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
