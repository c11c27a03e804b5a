"""What a study leaves on disk: its record, figures, and films of images."""

from __future__ import annotations

import json
from pathlib import Path

from dreamer.openloop import films
from dreamer.openloop.record import record
from dreamer.openloop.study import Study
from dreamer.openloop.traces import figures
from dreamer.system.files import write_atomically
from dreamer.tracking.video import write_mp4

FPS = 10.0
"""Frames per second of films: agent steps, slowly enough to be looked at."""
QUALITY = 4
"""Of the films' encoding: what models imagine early is noise, which would take megabytes."""
RECORD = "imagination.json"


def folder_of(run: Path, step: int) -> Path:
    """Where a run keeps its imagination at an environment step."""
    return run / "imagination" / f"step_{step:09d}"


def newest(run: Path) -> Path | None:
    """The newest of these folders that is complete, None when there is none."""
    return max((path.parent for path in run.glob(f"imagination/step_*/{RECORD}")), default=None)


def write(study: Study, folder: Path) -> dict[str, Path]:
    """Write pictures (.png), films (.mp4) and, last, the record; returns paths of pictures and films by name."""
    folder.mkdir(parents=True, exist_ok=True)
    context, written, numbers = study.settings.context, {}, record(study)
    for name, figure in figures(numbers):
        written[name] = folder / f"{name}.png"
        figure.savefig(written[name], dpi=150, facecolor="white")
    for key, signal in study.signals.items():
        if signal.is_image:
            place = key.replace("/", "_")
            written[f"{place}_strip"] = folder / f"{place}_strip.png"
            films.save_picture(written[f"{place}_strip"], films.strip(signal, context))
            for kind, frames in (("predictions", films.comparison), ("dreams", films.dreams)):
                written[f"{place}_{kind}"] = folder / f"{place}_{kind}.mp4"
                write_mp4(written[f"{place}_{kind}"], frames(signal, context), FPS, QUALITY)
    write_atomically(folder / RECORD, (json.dumps(numbers, separators=(",", ":"), allow_nan=False) + "\n").encode())
    return written
