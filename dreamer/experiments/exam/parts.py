"""Work of each part of the exam: for every core and seed, a function that trains, examines and returns numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from dreamer.experiments.exam import drift, recall, speed, uncertainty
from dreamer.experiments.exam.learner import Stage, exam_config
from envs.push import SIGMA

Part = Literal["uncertainty", "memory", "drift", "speed"]
Key = tuple[str, int]
"""Variant of the core, and seed."""
Work = Iterator[tuple[Key, Callable[[], dict[str, Any]]]]
"""Key, and the function that returns its numbers."""


@dataclass(frozen=True)
class Plan:
    """Settings that all parts of an exam share."""

    variants: list[str]
    """Variants of the core."""
    seeds: int
    """Number of seeds of each variant."""
    size: str
    """Size that sets the number of parameters."""
    free_nats: float
    """Free nats of rssm and ssm."""
    task: str
    """Task of the drift part."""
    effort: float
    """Factor of episodes and updates."""

    def episodes(self, number: int) -> int:
        """Return a number of episodes at this effort, at least 2."""
        return max(2, round(number * self.effort))

    def stages(self, stages: tuple[Stage, ...]) -> list[Stage]:
        """Return the stages of training at this effort."""
        return [stage.scaled(self.effort) for stage in stages]


def _uncertainty(plan: Plan) -> Work:
    train, test = uncertainty.recordings(plan.episodes(8000), plan.episodes(130))
    stages = plan.stages(uncertainty.STAGES)
    for variant in plan.variants:
        config = exam_config(
            variant,
            plan.size,
            plan.free_nats,
            train.spec,
            stoch=uncertainty.STOCH,
            learning_rate=uncertainty.LEARNING_RATE,
            sigma=SIGMA,
        )
        for seed in range(plan.seeds):
            yield (variant, seed), partial(uncertainty.examine, config, train, test, stages, 1000, seed)


def _memory(plan: Plan) -> Work:
    train, test = recall.recordings(plan.episodes(500), plan.episodes(200))
    stages = plan.stages(recall.STAGES)
    for variant in plan.variants:
        config = exam_config(variant, plan.size, plan.free_nats, train.spec, recall.STOCH)
        for seed in range(plan.seeds):
            yield (variant, seed), partial(recall.examine, config, train, test, stages, seed)


def _drift(plan: Plan) -> Work:
    train, test = drift.recordings(plan.task, plan.episodes(200), plan.episodes(64))
    stages = plan.stages(drift.STAGES)
    for variant in plan.variants:
        config = exam_config(variant, plan.size, plan.free_nats, train.spec)
        for seed in range(plan.seeds):
            yield (variant, seed), partial(drift.examine, config, train, test, stages, 32, seed)


def _speed(plan: Plan) -> Work:
    """All variants in turn in one process: the first call measures all of them."""
    train, _ = drift.recordings(plan.task, 2, 2)
    measured: dict[str, dict[str, Any]] = {}

    def measure(variant: str) -> dict[str, Any]:
        if not measured:
            configs = {name: exam_config(name, plan.size, plan.free_nats, train.spec) for name in plan.variants}
            rounds = max(1, round(10 * min(1.0, plan.effort)))
            measured.update(speed.examine(configs, train.spec, rounds))
        return measured[variant]

    for variant in plan.variants:
        yield (variant, 0), partial(measure, variant)


PARTS: dict[str, Callable[[Plan], Work]] = {
    "uncertainty": _uncertainty,
    "memory": _memory,
    "drift": _drift,
    "speed": _speed,
}
