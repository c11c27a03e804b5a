"""The number of threads of a run: one for small models; for larger ones on a CPU, updates are timed at the start.

Several threads wait for each other in every operation of an update. An update of a small model has thousands of short
ones, so that one more thread gains little, and costs much as soon as another process takes one of the cores.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median

import torch

from dreamer.agent import Agent
from dreamer.config import Config
from dreamer.experience.spaces import Spec
from dreamer.presets import SIZES
from dreamer.runs.folder import RunFolder
from dreamer.system import ranks
from dreamer.system.randomness import own_randomness
from dreamer.system.redaction import warn
from dreamer.training.equivalence import tiny_batch
from dreamer.training.plan import Plan

SMALL = frozenset(list(SIZES)[: list(SIZES).index("1m")])
"""Sizes for which `auto` is one thread."""
LEAST_UPDATES = 1000
"""Planned updates from which the measurement is worth its time."""
WINS_BY = 1.2
"""Speed-up from which more threads are chosen."""
LOSES_BY = 1.5
"""Slow-down from which one update is enough to see that more threads are slower."""
ROUNDS, LONG_SECONDS = 3, 1.0
"""Updates timed for each number of threads. Where one takes `LONG_SECONDS` or more, only one is timed."""


@dataclass(frozen=True)
class Threads:
    """A number of threads, and the seconds of an update that it was chosen by."""

    number: int
    seconds: dict[int, float] = field(default_factory=dict)
    """Number of threads -> median seconds of an update; empty without a choice."""

    def __str__(self) -> str:
        times = ", ".join(f"{seconds:.2g} s with {number}" for number, seconds in sorted(self.seconds.items()))
        return f"threads: {self.number}, because an update takes {times}; --threads sets the number"


@contextmanager
def using(number: int) -> Iterator[None]:
    """Context in which PyTorch uses this number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def choose_threads(plan: Plan, folder: RunFolder, *, resumed: bool = False, changed: bool = False) -> int:
    """The number of threads of a run, which is also written to its run.json.

    A `resumed` run keeps its number, except where the setting has `changed` or fewer threads are available here: one
    line then says that rounding differs. With the setting `auto`, `OMP_NUM_THREADS` or else the number of cores is the
    largest number.
    """
    config, most = plan.config, torch.get_num_threads()
    former = folder.numerics.get("threads", 0) if resumed and not changed else 0
    if config.threads == "auto" and type(former) is int and 1 <= former <= most:
        return former
    chosen = choice(config, plan.spec, plan.device, most)
    folder.info["threads"] = chosen.number
    if chosen.seconds:
        folder.info["thread_seconds"] = {str(number): seconds for number, seconds in chosen.seconds.items()}
        if config.tracking.console:
            warn(str(chosen))
    return chosen.number


def choice(config: Config, spec: Spec, device: str, most: int) -> Threads:
    """The number of threads of a new run, at most `most` with the setting `auto`."""
    if config.threads != "auto":
        return Threads(int(config.threads))
    if device != "cpu" or ranks.count() > 1:
        return Threads(most)
    if config.size in SMALL or most == 1:
        return Threads(1)
    return measured(config, spec, most) if config.planned_updates >= LEAST_UPDATES else Threads(most)


def measured(config: Config, spec: Spec, most: int) -> Threads:
    """The fastest of 1, 2, 4, ... and `most` threads for an update of this configuration on the CPU.

    Each number is timed in turn with the fastest smaller one, and is chosen if it is `WINS_BY` times as fast. The first
    that is not ends the search.
    """
    with own_randomness(torch.device("cpu"), 0), using(1):
        agent = Agent(config.agent, *spec)
        batch = tiny_batch(agent, (config.loop.batch_size, config.loop.batch_length))

        def seconds(number: int) -> float:
            torch.set_num_threads(number)
            begin = time.perf_counter()
            agent.update(batch)
            return time.perf_counter() - begin

        rounds = ROUNDS if seconds(1) < LONG_SECONDS else 1
        best, times = 1, dict[int, float]()
        numbers = [number for number in (2**power for power in range(1, most.bit_length())) if number < most]
        for number in [*numbers, most]:
            pairs: list[tuple[float, float]] = []
            while len(pairs) < rounds and not (pairs and pairs[-1][1] > LOSES_BY * pairs[-1][0]):
                pairs.append((seconds(best), seconds(number)))
            times[best], times[number] = (median(column) for column in zip(*pairs, strict=True))
            if times[best] < WINS_BY * times[number]:
                break
            best = number
    return Threads(best, times)
