"""Forecast of a sweep (`--dry-run`): its runs, their parameters and the time that they take on this machine."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from statistics import mean, median

import torch

import envs
from dreamer.config import Config, override
from dreamer.experiments.ablation.grid import Trial
from dreamer.experiments.bench.costs import Subject, timed
from dreamer.system.device import choose_device
from dreamer.training.launch import make_factory
from dreamer.training.matching import parameter_counts
from dreamer.training.plan import spec_of_factory

MEASURED = 6
"""Largest number of configurations whose updates are timed."""
UPDATES, STEPS = 3, 20


def forecast(configs: Mapping[Trial, Config], jobs: int, runs: int) -> list[str]:
    """Return the lines of a forecast for runs that are not finished: a table of arms, then the sum over all `runs`.

    Updates and steps of at most `MEASURED` arms are timed, for others the mean over those is taken. Evaluation, videos
    and compilation are not counted.
    """
    arms: dict[tuple[str, str], list[Trial]] = {}
    for trial in configs:
        arms.setdefault((trial.task, trial.arm), []).append(trial)
    firsts = {arm: configs[trials[0]] for arm, trials in arms.items()}
    chosen = list(firsts)[:: max(1, -(-len(firsts) // MEASURED))]
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, envs.cores() // jobs) if jobs > 1 else threads)
    try:
        measured = {arm: _seconds_per_update(firsts[arm]) for arm in chosen}
    finally:
        torch.set_num_threads(threads)
    rows = [["task", "run", "seeds", "parameters", "updates", "s/update", "time of a run"]]
    total = 0.0
    for arm, trials in arms.items():
        config, seconds = firsts[arm], measured.get(arm, mean(measured.values()))
        duration = config.planned_updates * seconds
        total += duration * len(trials)
        parameters = sum(parameter_counts(config, spec_of_factory(make_factory(config))).values())
        numbers = [str(len(trials)), f"{parameters:,}", f"{config.planned_updates:,}", f"{seconds:.3f}"]
        rows.append([*arm, *numbers, _time(duration)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    table = ["  ".join(_aligned(row, widths)).rstrip() for row in rows]
    together = f"{jobs} runs at a time" if jobs > 1 else "one run after the other"
    return [
        *table,
        f"about {_time(total / len(configs) * runs / jobs)} for {runs} runs, {together}, as fast as this machine is "
        f"now ({len(measured)} of {len(arms)} rows timed; evaluation, videos and compilation not counted)",
    ]


def _seconds_per_update(config: Config) -> float:
    """Time of an update with the steps, the sampling and the writing that belong to it, without compilation."""
    plain = override(config, {"loop.compile": "off", "loop.graph": "off", "env.parallel": "off"})
    subject = Subject(plain, choose_device(config.device))
    try:
        subject.warm_up()
        update = median(timed(subject.update, subject.agent.device) for _ in range(UPDATES))
        parts = subject.loop(STEPS)
    finally:
        subject.vector.close()
    rows = config.loop.batch_size * config.loop.batch_length / config.loop.replay_ratio
    steps = rows / config.env.num_envs
    return (
        update
        + parts["sample"]
        + parts["write_back"]
        + steps * sum(parts[name] for name in ("acting", "environment", "append"))
    )


def _aligned(row: list[str], widths: list[int]) -> list[str]:
    """Two columns of words, then numbers."""
    cells = zip(row, widths, strict=True)
    return [cell.ljust(width) if i < 2 else cell.rjust(width) for i, (cell, width) in enumerate(cells)]


def _time(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))
