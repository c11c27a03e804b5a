"""Matching of parameter counts: core widths at which agents with different cores are equally large."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from dreamer.batch import images
from dreamer.config import Config, override
from dreamer.dynamics import WIDTHS
from dreamer.errors import UserError
from dreamer.experience.spaces import Spec
from dreamer.training.plan import dry_run

TOLERANCE = 0.02
MAX_WIDTH = 1 << 16


def match_params(config: Config, spec: Spec) -> Config:
    """The configuration with the core width at which the agent has as many parameters as the reference.

    The reference is the same agent with the `rssm` core at its default latent. Raises `UserError` where no width comes
    within 2 % of it.
    """
    target = sum(parameter_counts(reference(config), spec).values())
    dynamics = config.agent.dynamics
    step = dynamics.settings.blocks if getattr(dynamics.settings, "cell", "") == "block_gru" else 1
    if images(spec.obs_shapes) and WIDTHS[dynamics.core] == "deter":
        step = math.lcm(step, config.agent.world_model.image.blocks)
    name = f"agent.dynamics.{dynamics.core}.{WIDTHS[dynamics.core]}"

    def total(width: int) -> int:
        return sum(parameter_counts(override(config, {name: width * step}), spec).values())

    low, high = 1, 2
    while total(high) < target and high * step < MAX_WIDTH:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if total(middle) <= target else (low, middle)
    best = min((low, high), key=lambda width: abs(total(width) - target))
    if abs(total(best) - target) > TOLERANCE * target:
        raise UserError(
            f"--match-params: no width of the {dynamics.core} core gives about {target:,} parameters "
            f"(closest: {total(best):,} at {WIDTHS[dynamics.core]} {best * step}); try another --size"
        )
    return override(config, {name: best * step})


def reference(config: Config) -> Config:
    """The same configuration with the `rssm` core at its default latent, whose actor learns by REINFORCE."""
    changes = {"dynamics.core": "rssm", "dynamics.latent": "auto", "behavior.actor_gradient": "reinforce"}
    return override(config, {f"agent.{name}": value for name, value in changes.items()})


def parameter_counts(config: Config, spec: Spec) -> dict[str, int]:
    """Trainable parameters of each part of the agent, counted without allocating any."""
    return dry_run(spec, config).parameter_counts()


def parameter_table(configs: Mapping[str, Config], spec: Spec) -> str:
    """Plain-text table: a row per named configuration; columns for the parameters of its parts, total, core width."""
    counts = {name: parameter_counts(config, spec) for name, config in configs.items()}
    first = sum(next(iter(counts.values())).values())
    parts = list(dict.fromkeys(part for of_parts in counts.values() for part in of_parts))
    rows: list[list[Any]] = [["core", *parts, "total", "of first", "width"]]
    for name, config in configs.items():
        dynamics = config.agent.dynamics
        total, width = sum(counts[name].values()), WIDTHS[dynamics.core]
        cells = [f"{counts[name].get(part, 0):,}" for part in parts]
        size = f"{width} {getattr(dynamics.settings, width)}"
        rows.append([name, *cells, f"{total:,}", f"{total / first:.1%}", size])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
