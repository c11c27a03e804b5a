"""`dreamer bench`: cost of updates and acting on this machine, relative to its best matrix product.

The speed of a shared machine changes from minute to minute. All comparisons are ratios within one process: an update
against the matrix product, and several settings in turn.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import tyro

from dreamer.config import Config, SizeName, override, resized, validated, words
from dreamer.errors import UserError, reason
from dreamer.experiments.ablation import grid
from dreamer.experiments.bench.costs import Subject, in_turn, product_dtype, product_gflops, shares_of_loop, timed
from dreamer.system.device import choose_device
from dreamer.system.machine import keep_freed_memory
from dreamer.system.meters import peak_gpu_mb, peak_rss_mb
from dreamer.tracking.progress import follow, phase
from dreamer.training.plan import layout_of
from dreamer.training.threads import using
from envs.ranges import Many, checked, flag

BATCHES, LENGTHS, HORIZONS = (4, 8, 16, 32), (16, 32, 64), (5, 10, 15, 30)
SIZES: tuple[SizeName, ...] = ("100k", "300k", "1m", "12m")


@dataclass(frozen=True)
class BenchArguments:
    """Measure the cost of an update and of acting, on random data of the task's shapes."""

    config: Annotated[Config, tyro.conf.arg(name="")]
    """Configuration. The default preset is dmc_proprio, the default task dmc:walker_walk."""
    updates: Many = 10
    """Number of timed updates, after three for warm-up, or more until a CUDA graph is captured."""
    agent_steps: Many = 200
    """Number of timed agent steps, after some for warm-up."""
    against: str = ""
    """Options of a second setting as one string, such as `--against "--agent.imagination-horizon 10"`. Updates of both
    settings are timed in turn."""
    cores: tuple[str, ...] = ()
    """Cores (CORE, CORE:LATENT, or all) whose updates are timed in turn with those of the configuration."""
    scaling: Path | None = None
    """Folder for scaling.json and scaling.png: seconds per update by batch, length, horizon and size."""
    json: bool = False
    """Print one JSON object."""


def bench(args: BenchArguments, other: Config | None = None) -> str:
    """Measure and return the result as text or JSON; `other` is the configuration of `--against`."""
    args = checked(args, flag)
    keep_freed_memory()
    config = validated(args.config)
    device = choose_device(config.device)
    rivals = {"against": validated(other)} if other is not None else {}
    variants = grid.variants(words(args.cores))
    rivals |= {name: validated(override(config, grid.core_settings(name))) for name in variants}
    result = measure(config, device, args.updates, args.agent_steps)
    if rivals:
        result["in_turn"] = compare({"this": config, **rivals}, device, args.updates)
    if args.scaling is not None:
        result["scaling"] = measure_scaling(config, device, args.updates, args.scaling)
    lines = (f"{name}: {_readable(value)}" for name, value in result.items())
    return json.dumps(result) if args.json else "\n".join(lines)


def measure(config: Config, device: str, updates: int, agent_steps: int) -> dict[str, Any]:
    """Return times of updates, of their parts, and of the parts of the loop.

    `fraction_of_peak` is `reference_gflop` / (median seconds x `product_gflops`), so saved work counts like speed.
    """
    with phase("building environments"):
        subject = Subject(config, device)
    with using(subject.threads):
        return _costs(subject, updates, agent_steps)


def _costs(subject: Subject, updates: int, agent_steps: int) -> dict[str, Any]:
    config = subject.config
    try:
        loop = subject.loop(agent_steps)
    finally:
        subject.vector.close()
    subject.warm_up(3)
    gpu_mb = peak_gpu_mb(subject.agent.device)  # before the matrix products
    dtype = product_dtype(subject.agent)
    peak_before = product_gflops(subject.agent.device, dtype)
    counted = follow(range(updates), "measuring", updates, "updates")
    times = [timed(subject.update, subject.agent.device) for _ in counted]
    peak = max(peak_before, product_gflops(subject.agent.device, dtype))
    seconds, reference = median(times), subject.reference_gflop()
    counts = subject.agent.parameter_counts()
    step_seconds = loop["acting"] + loop["environment"]
    return {
        "task": config.task,
        "core": config.agent.dynamics.core,
        "size": config.size,
        "device": str(subject.agent.device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "params": {"total": sum(counts.values()), **counts},
        "batch": [config.loop.batch_size, config.loop.batch_length],
        "seconds_per_update": seconds,
        "seconds_per_update_min_max": [min(times), max(times)],
        "gflop_per_update": subject.gflop(),
        "reference_gflop": reference,
        "product_type": str(dtype).removeprefix("torch."),
        "product_gflops": peak,
        "fraction_of_peak": reference / (seconds * peak),
        "parts_of_update": subject.parts_of_update(min(updates, 5)),
        "seconds_per_agent_step": step_seconds,
        "parts_of_loop": loop,
        "shares_of_loop": shares_of_loop(config, loop, seconds),
        "env_steps_per_second": config.env.num_envs * config.env.repeat / step_seconds,
        "frames_per_second": subject.frames_per_second(50) if config.env.obs != "state" else None,
        "replay_bytes_per_row": sum(layout_of(subject.agent).row_bytes),
        "peak_rss_mb": peak_rss_mb(),
        "peak_gpu_mb": gpu_mb,
    }


def compare(configs: dict[str, Config], device: str, rounds: int) -> dict[str, dict[str, float]]:
    """Return median seconds per update of several settings, and the median over rounds of the ratio to the first."""
    subjects = {name: Subject(config, device) for name, config in configs.items()}
    try:
        for subject in subjects.values():
            subject.warm_up(2)
        updates = {name: subject.update for name, subject in subjects.items()}
        times = in_turn(updates, torch.device(device), rounds)
    finally:
        for subject in subjects.values():
            subject.vector.close()
    first = times[next(iter(configs))]
    return {
        name: {
            "seconds_per_update": median(times[name]),
            "ratio": median(taken / other for taken, other in zip(times[name], first, strict=True)),
            "parameters": sum(subject.agent.parameter_counts().values()),
        }
        for name, subject in subjects.items()
    }


def measure_scaling(config: Config, device: str, updates: int, folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Return seconds per update with one setting changed at a time, and write them and a figure to `folder`."""
    axes: dict[str, dict[Any, Config]] = {
        "batch_size": {n: override(config, {"loop.batch_size": n}) for n in BATCHES},
        "batch_length": {n: override(config, {"loop.batch_length": n}) for n in LENGTHS},
        "imagination_horizon": {n: override(config, {"agent.imagination_horizon": n}) for n in HORIZONS},
        "size": {name: resized(config, name) for name in SIZES},
    }
    found = {
        axis: [
            {"value": value, **_cost(changed, device, updates)}
            for value, changed in follow(settings.items(), f"scaling with {axis}", len(settings), "settings")
        ]
        for axis, settings in axes.items()
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "scaling.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        _draw_scaling(found, folder / "scaling.png")
    except OSError as error:
        raise UserError(f"--scaling: cannot write to {folder}: {reason(error)}") from None
    return found


def _cost(config: Config, device: str, updates: int) -> dict[str, int | float]:
    subject = Subject(config, device)
    subject.vector.close()
    subject.warm_up()
    seconds = median(timed(subject.update, subject.agent.device) for _ in range(updates))
    with using(subject.threads):
        peak = product_gflops(subject.agent.device, product_dtype(subject.agent))
    reference = subject.reference_gflop()
    return {
        "parameters": sum(subject.agent.parameter_counts().values()),
        "seconds_per_update": seconds,
        "reference_gflop": reference,
        "fraction_of_peak": reference / (seconds * peak),
    }


def _draw_scaling(found: dict[str, list[dict[str, Any]]], path: Path) -> None:
    from matplotlib.figure import Figure

    from dreamer.tracking.plotting import PALETTE

    figure = Figure(figsize=(9, 2.6), layout="constrained")
    for axes, (name, costs) in zip(figure.subplots(1, len(found), sharey=True), found.items(), strict=True):
        positions = range(len(costs))
        axes.plot(positions, [cost["seconds_per_update"] for cost in costs], marker="o", color=PALETTE[0])
        for position, cost in zip(positions, costs, strict=True):
            label = f"{cost['fraction_of_peak']:.0%}"
            axes.annotate(label, (position, cost["seconds_per_update"]), (0, 5), textcoords="offset points", fontsize=7)
        axes.set_xticks(positions, [str(cost["value"]) for cost in costs])
        axes.set_yscale("log")
        axes.set_xlabel(name.replace("_", " "))
        axes.grid(alpha=0.2)
    figure.axes[0].set_ylabel("seconds per update")
    figure.suptitle("Cost of an update, and its fraction of the rate of the matrix product", fontsize=9)
    figure.savefig(path, dpi=150)


def _readable(value: Any, inner: bool = False) -> str:
    if isinstance(value, dict):
        text = ", ".join(f"{key} {_readable(one, inner=True)}" for key, one in value.items())
        return f"({text})" if inner else text
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
