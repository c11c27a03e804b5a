"""`dreamer imagine`: what a run's world model imagines, beside what happens."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from dreamer import launch, run
from dreamer.config import SEEDS, DeviceName
from dreamer.errors import UserError
from dreamer.openloop.study import Signal, Study, StudySettings, study
from dreamer.trust import check_folder

HORIZONS = (1, 5, 25, 50)
"""Steps ahead whose errors are printed."""


@dataclass(frozen=True)
class ImagineArguments:
    """Let a trained model predict held-out episodes from their actions alone, and dream with its policy."""

    run: tyro.conf.Positional[Path]
    """Run folder."""
    settings: Annotated[StudySettings, tyro.conf.arg(name="")] = field(default_factory=StudySettings)
    """What is observed and what is predicted."""
    folder: Path | None = None
    """Where figures, films and numbers go; default RUN/imagination/step_STEP."""
    device: DeviceName = "auto"
    """Where the networks run."""
    env_import: tuple[str, ...] = ()
    """Modules that the run imports to register its environments, and that you trust to run here."""
    json: bool = False
    """Print the errors as one JSON object."""


def imagine(args: ImagineArguments) -> list[str]:
    """Study the newest checkpoint, write what it shows and return the errors in lines, or as one line of JSON.

    Raises `UserError` for a run without a decoder, and for all that is no usable run.
    """
    from dreamer.openloop import folder

    for name in ("context", "horizon", "episodes", "shown"):
        if getattr(args.settings, name) < 1:
            raise UserError(f"--{name}: must be at least 1 (got {getattr(args.settings, name)})")
    if min(args.settings.samples, args.settings.skip, args.settings.seed) < 0:
        raise UserError("--samples, --skip and --seed must be at least 0")
    if args.settings.seed >= SEEDS:
        raise UserError(f"--seed: must be less than {SEEDS} (got {args.settings.seed})")
    if args.folder is not None:
        check_folder(args.folder)
    agent, step = launch.load_with_step(args.run, args.device)
    factory = launch.make_factory_of(run.open_run(args.run), trusted=args.env_import)
    seen = study(agent, factory, args.settings)
    target = args.folder or folder.folder_of(args.run, step)
    try:
        media = folder.write(seen, target)
    except OSError as error:
        raise UserError(f"cannot write to {target}: {error.strerror}") from None
    if args.json:
        errors = {key: {"unit": signal.unit} | signal.errors for key, signal in seen.signals.items()}
        result: dict[str, Any] = {"run": str(args.run), "step": step, "settings": dataclasses.asdict(seen.settings)}
        return [json.dumps(result | {"errors": errors, "folder": str(target)})]
    return [*_table(seen, step), "", *(f"{name:<20} {path}" for name, path in media.items())]


def _table(seen: Study, step: int) -> list[str]:
    settings, length = seen.settings, len(seen.alive)
    shown = [horizon for horizon in HORIZONS if horizon < length] + [length]
    head = f"{settings.episodes} held-out episodes, {settings.context} rows observed, {length} predicted from actions "
    lines = [f"{head}alone, {settings.samples} samples each, step {step:,}", ""]
    lines.append(f"{'CRPS (repeating the last observed row)':<40}" + "".join(f"{f'{h} ahead':>20}" for h in shown))
    for key, signal in seen.signals.items():
        model, copied = signal.errors["crps"], signal.errors["copy_crps"]
        cells = "".join(f"{f'{model[h - 1]:.3g} ({copied[h - 1]:.3g})':>20}" for h in shown)
        lines.append(f"{f'{key}, {signal.unit}':<40}{cells}")
    return [*lines, "", *(_verdict(key, signal) for key, signal in seen.signals.items())]


def _verdict(key: str, signal: Signal) -> str:
    better = np.less(signal.errors["crps"], signal.errors["copy_crps"])
    inside = float(np.mean(signal.errors["coverage_90"]))
    return f"{key}: better than repeating at {better.sum()} of {len(better)} steps; {inside:.0%} inside the 90 % band"
