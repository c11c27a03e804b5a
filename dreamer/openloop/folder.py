"""What a study leaves on disk: figures, films, and every number behind them."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from dreamer.checkpoint import write_atomically
from dreamer.evaluate import write_mp4
from dreamer.openloop import films
from dreamer.openloop.study import DREAMS, Study
from dreamer.openloop.traces import BANDS, figures, traces

FPS = 10.0
"""Frames per second of films: agent steps, slowly enough to be looked at."""
RESULT = "imagination.json"


def folder_of(run: Path, step: int) -> Path:
    """Where a run keeps its imagination at an environment step."""
    return run / "imagination" / f"step_{step:09d}"


def write(study: Study, folder: Path) -> dict[str, Path]:
    """Write `imagination.json`, PNG figures, and films of images; returns pictures (.png) and films (.mp4) by name."""
    folder.mkdir(parents=True, exist_ok=True)
    context, written = study.settings.context, {}
    for name, figure in figures(study):
        written[name] = folder / f"{name}.png"
        figure.savefig(written[name], dpi=110, facecolor="white")
    for key, signal in study.signals.items():
        if signal.is_image:
            place = key.replace("/", "_")
            written[f"{place}_strip"] = folder / f"{place}_strip.png"
            films.save_picture(written[f"{place}_strip"], films.strip(signal, context))
            for kind, frames in (("predictions", films.comparison), ("dreams", films.dreams)):
                written[f"{place}_{kind}"] = folder / f"{place}_{kind}.mp4"
                write_mp4(written[f"{place}_{kind}"], frames(signal, context), FPS)
    text = json.dumps(numbers(study), separators=(",", ":"), allow_nan=False)
    write_atomically(folder / RESULT, (text + "\n").encode())
    return written


def numbers(study: Study) -> dict[str, Any]:
    """Settings, errors by steps ahead, and the traces of vectors, as JSON holds them; what is not known is null."""
    return {
        "settings": dataclasses.asdict(study.settings),
        "episodes_alive": study.alive,
        "errors": {
            key: {"unit": signal.unit} | {name: _plain(curve) for name, curve in signal.errors.items()}
            for key, signal in study.signals.items()
        },
        "traces": [
            {
                "name": trace.name,
                "real": _plain(trace.real),
                **{f"percentile_{p}": _plain(np.percentile(trace.samples, p, 1)) for p in _percentiles()},
                "samples": _plain(trace.samples[:, :DREAMS]),
                "dreams": _plain(trace.dreams),
            }
            for trace in traces(study)
        ],
    }


def metrics(study: Study) -> dict[str, float]:
    """Means over the predicted rows, as metrics of the run."""
    values: dict[str, float] = {}
    for key, signal in study.signals.items():
        rmse, crps, copied = (float(np.mean(signal.errors[name])) for name in ("rmse", "crps", "copy_crps"))
        values |= {f"imagination/rmse/{key}": rmse, f"imagination/crps/{key}": crps}
        if copied > 0:
            values[f"imagination/skill/{key}"] = 1 - crps / copied
    return values


def _percentiles() -> list[int]:
    return sorted(end for ends in BANDS.values() for end in ends)


def _plain(values: Any) -> Any:
    """Numbers with five digits, null for NaN."""
    if isinstance(values, np.ndarray):
        values = values.tolist()
    if isinstance(values, list):
        return [_plain(value) for value in values]
    return float(f"{values:.5g}") if math.isfinite(values) else None
