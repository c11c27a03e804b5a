"""`dreamer compare`: own runs and published returns at the same environment step, as a table."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from dreamer.config import words
from dreamer.errors import UserError
from dreamer.experiments.published.curves import METHODS, check_methods, curves_for
from dreamer.experiments.report.arms import with_arms
from dreamer.experiments.report.run_folders import Run, find_runs
from dreamer.experiments.report.statistics import Estimate, stratified_bootstrap
from dreamer.experiments.report.wording import estimate, listing
from dreamer.system.redaction import warn


@dataclass(frozen=True)
class CompareArguments:
    """Compare runs with published returns on the same task, from the same kind of observations, at the same step."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders, or folders of run folders at any depth. Unfinished runs count as far as they are evaluated."""
    methods: Annotated[str, tyro.conf.arg(name="with")] = ",".join(METHODS)
    """Published methods, separated by commas."""
    json: bool = False
    """Print one JSON object."""


@dataclass(frozen=True)
class Row:
    """Return of own runs of one name, or of a published method, at a step."""

    name: str
    episodes: str
    """Kind of episodes that the returns are from."""
    seeds: int
    value: Estimate | None
    """Mean over seeds and its interval; None where a published curve does not reach the step."""


@dataclass(frozen=True)
class Comparison:
    """Returns on one task at one environment step."""

    task: str
    observations: str
    step: int
    """Last step that all own runs of the task have been evaluated at."""
    rows: Sequence[Row]


def compare(args: CompareArguments) -> list[str]:
    """Return the table in lines, or JSON; raises `UserError` where nothing can be compared."""
    methods = words([args.methods])
    check_methods(methods)
    runs = _runs(args.runs)
    tasks = {_task(run): [one for one in runs if _task(one) == _task(run)] for run in runs}
    if not any(curves_for(run.config) for run in runs):
        raise UserError(
            f"no published returns of {listing([f'{task} from {kind}' for task, kind in sorted(tasks)], 4)}; there are "
            "some of tasks of the DeepMind Control Suite from state or pixels, without hidden or noisy observations"
        )
    tables = []
    for (task, kind), group in sorted(tasks.items()):
        step = int(min(run.steps[-1] for run in group))
        rows = [*_own(group, step), *_published(group[0], methods, step)]
        tables.append(Comparison(task, kind, step, rows))
    if args.json:
        return [json.dumps({"tables": [_plain(table) for table in tables]})]
    lines = [line for table in tables for line in _lines(table, methods)]
    return [*lines, "Means over seeds, with 95 % bootstrap intervals where there are two or more."]


def _task(run: Run) -> tuple[str, str]:
    return run.task, run.config.env.obs


def _runs(folders: Sequence[Path]) -> list[Run]:
    """Evaluated runs of all folders, the newest of each name and seed; a line says which others do not count."""
    if not folders:
        raise UserError("compare needs a run folder, or a folder of run folders")
    found: dict[Path, Run] = {}
    for folder in folders:
        runs, failures = find_runs(folder)
        found |= {(folder / run.path).resolve(): dataclasses.replace(run, path=str(folder / run.path)) for run in runs}
        for failure in failures:
            warn(f"dreamer: left out: {folder / failure.place}: {failure.error}")
    evaluated = [run for run in found.values() if len(run.steps)]
    if not evaluated:
        raise UserError(f"no evaluated run in {listing([str(folder) for folder in folders])}")
    if len(evaluated) < len(found):
        warn(f"dreamer: left out: {len(found) - len(evaluated)} runs without an evaluation")
    newest: dict[tuple[str, str, str, int], Run] = {}
    named, arms = with_arms(sorted(evaluated, key=lambda run: (str(run.info.get("created")), run.path)))
    for run in (dataclasses.replace(run, arm=arms.said(run.arm)) for run in named):
        key = (*_task(run), run.arm, run.seed)
        if key in newest:
            warn(f"dreamer: left out: {newest[key].path}: {run.path} repeats it and is newer")
        newest[key] = run
    order = list(map(arms.said, arms.values))
    return sorted(newest.values(), key=lambda run: order.index(run.arm))


def _own(group: Sequence[Run], step: int) -> Iterator[Row]:
    """Rows of own runs by name, with sampled actions and with the policy's mode."""
    for name in dict.fromkeys(run.arm for run in group):
        those = [run for run in group if run.arm == name and run.steps[0] <= step]
        if not those:
            continue
        kinds = {"sampled actions": [run.returns for run in those], "mode": [run.mode_returns for run in those]}
        for kind, curves in kinds.items():
            if np.isfinite(np.concatenate(curves)).all():
                values = [np.interp(step, run.steps, curve) for run, curve in zip(those, curves, strict=True)]
                mean = stratified_bootstrap([np.array(values)], np.mean)
                yield Row(name, f"evaluation, {kind}", len(those), mean)


def _published(run: Run, methods: Sequence[str], step: int) -> Iterator[Row]:
    for curve in curves_for(run.config, methods):
        around = curve.between(step)
        note = f"; interpolated from {around[0]:,} and {around[1]:,}" if around else ""
        yield Row(curve.method, METHODS[curve.method] + note, curve.seeds, curve.at(step))


def _lines(table: Comparison, methods: Sequence[str]) -> Iterator[str]:
    """Lines of one table: a head, a row for each name, and a line for methods without a curve."""
    rows = table.rows
    yield f"{table.task} from {table.observations}, at step {table.step:,}"
    texts = [estimate(row.value, 1) if row.value else "no return at this step" for row in rows]
    names, values = max(len(row.name) for row in rows), max(map(len, texts))
    for row, text in zip(rows, texts, strict=True):
        seeds = f"{row.seeds} seed{'s' if row.seeds > 1 else ' '}"
        yield f"  {row.name:<{names}}  {text:<{values}}  {seeds:>8}  {row.episodes}"
    missing = [method for method in methods if method not in {row.name for row in rows}]
    if missing:
        yield f"  no published returns of this task: {listing(missing)}"
    yield ""


def _plain(table: Comparison) -> dict[str, Any]:
    """A table as JSON can hold it: an unknown value or bound is null."""
    rows = []
    for row in table.rows:
        bounds = {name: getattr(row.value, name, None) for name in ("value", "low", "high")}
        known = {name: float(one) if one is not None and np.isfinite(one) else None for name, one in bounds.items()}
        rows.append({"name": row.name, "episodes": row.episodes, "seeds": row.seeds, **known})
    return {"task": table.task, "observations": table.observations, "step": table.step, "rows": rows}
