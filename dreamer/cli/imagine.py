"""`dreamer imagine`: compares what a run's world model predicts with what happens."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from dreamer.cli.parsing import parse
from dreamer.config import DeviceName
from dreamer.errors import UserError, reason
from dreamer.openloop import folder
from dreamer.openloop.evaluation import OpenLoopEvaluation, OpenLoopSettings, Signal, evaluate, least_bytes
from dreamer.runs.folder import open_run
from dreamer.runs.trust import check_folder
from dreamer.system.memory import need
from dreamer.system.redaction import show
from dreamer.training import launch
from dreamer.training.load import load_with_step

HORIZONS = (1, 5, 25, 50)
"""Steps ahead for which errors are printed."""


@dataclass(frozen=True)
class ImagineArguments:
    """Predict held-out episodes from their actions alone and compare; also roll out the policy in the model."""

    run: tyro.conf.Positional[Path]
    """Run folder."""
    settings: Annotated[OpenLoopSettings, tyro.conf.arg(name="")] = field(default_factory=OpenLoopSettings)
    """Lengths and numbers of the predictions."""
    folder: Path | None = None
    """Folder for figures, videos and errors; the default is RUN/imagination/step_STEP."""
    checkpoint: str | None = None
    """Checkpoint: a step, or `best` for that of the best evaluation in training; the default is the newest."""
    device: DeviceName = "auto"
    """Device of the networks; auto takes the first available of cuda, mps and cpu; cuda:N is GPU N."""
    env_import: tuple[str, ...] = ()
    """Modules, trusted by you, that the run imports to register its environments."""
    json: bool = False
    """Print the errors as one JSON object."""


def run(argv: Sequence[str]) -> int:
    """Evaluate open loop, write figures and videos, and print the errors."""
    show(*imagine(parse(ImagineArguments, "imagine", argv)))
    return 0


def imagine(args: ImagineArguments) -> list[str]:
    """Evaluate a checkpoint open loop, write figures and videos, and return the errors in lines, or one line
    of JSON.

    Raises `UserError` for a run without a decoder, and for a folder that is no usable run.
    """
    if args.folder is not None:
        check_folder(args.folder)
    agent, step = load_with_step(args.run, args.device, args.checkpoint)
    size = least_bytes(agent, args.settings)
    need(size, "the predictions", "lower --episodes, --samples, --context or --horizon")
    factory = launch.make_factory_of(
        open_run(args.run), trusted=args.env_import, advice="dreamer.imagine(path, {}) in Python"
    )
    seen = evaluate(agent, factory, args.settings)
    target = args.folder or folder.folder_of(args.run, step)
    try:
        media = folder.write(seen, target)
    except OSError as error:
        raise UserError(f"cannot write to {target}: {reason(error)}") from None
    if args.json:
        errors = {key: {"unit": signal.unit} | signal.errors for key, signal in seen.signals.items()}
        result: dict[str, Any] = {"run": str(args.run), "step": step, "settings": dataclasses.asdict(seen.settings)}
        return [json.dumps(result | {"errors": errors, "folder": str(target)})]
    return [*_table(seen, step), "", *(f"{name:<20} {path}" for name, path in media.items())]


def _table(seen: OpenLoopEvaluation, step: int) -> list[str]:
    settings, length = seen.settings, len(seen.alive)
    shown = [horizon for horizon in HORIZONS if horizon < length] + [length]
    head = f"{settings.episodes} held-out episodes, {settings.context} steps observed, {length} predicted from actions "
    lines = [f"{head}alone, {settings.samples} samples each, step {step:,}", ""]
    lines.append(f"{'CRPS (of repeating the last observation)':<40}" + "".join(f"{f'{h} ahead':>20}" for h in shown))
    for key, signal in seen.signals.items():
        model, copied = signal.errors["crps"], signal.errors["copy_crps"]
        cells = "".join(f"{f'{model[h - 1]:.3g} ({copied[h - 1]:.3g})':>20}" for h in shown)
        lines.append(f"{f'{key}, {signal.unit}':<40}{cells}")
    return [*lines, "", *(_verdict(key, signal) for key, signal in seen.signals.items())]


def _verdict(key: str, signal: Signal) -> str:
    better = np.less(signal.errors["crps"], signal.errors["copy_crps"])
    inside = float(np.mean(signal.errors["coverage_90"]))
    return (
        f"{key}: better than repeating at {better.sum()} of {len(better)} steps; {inside:.0%} inside the 90 % interval"
    )
