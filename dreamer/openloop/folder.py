"""Files of an open-loop evaluation on disk: its record, figures, and videos of images."""

from __future__ import annotations

import json
import re
from pathlib import Path

from PIL import Image

from dreamer.openloop import videos
from dreamer.openloop.evaluation import OpenLoopEvaluation
from dreamer.openloop.record import record
from dreamer.openloop.traces import figures
from dreamer.system.files import write_atomically
from dreamer.tracking.progress import phase
from dreamer.tracking.video import write_mp4

FPS = 10.0
"""Agent steps per second of videos, slow enough to compare frames."""
QUALITY = 4
"""Quality of the encoding of videos. Images that untrained models imagine are noise, which takes megabytes at more."""
RECORD = "imagination.json"


def folder_of(run: Path, step: int) -> Path:
    """Return the folder of the open-loop evaluation of a run at an environment step."""
    return run / "imagination" / f"step_{step:09d}"


def newest(run: Path) -> tuple[int, Path] | None:
    """Return step and folder of the newest complete open-loop evaluation of a run, None without one."""
    found = [path.parent for path in run.glob(f"imagination/step_*/{RECORD}")]
    return max(
        ((int(path.name[5:]), path) for path in found if re.fullmatch(r"step_[0-9]{1,18}", path.name)), default=None
    )


def write(evaluation: OpenLoopEvaluation, folder: Path) -> dict[str, Path]:
    """Write pictures (.png), videos (.mp4) and, last, the record. Returns the paths of pictures and videos by name."""
    with phase("drawing"):
        return _write(evaluation, folder)


def _write(evaluation: OpenLoopEvaluation, folder: Path) -> dict[str, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    context, written, numbers = evaluation.settings.context, {}, record(evaluation)
    for name, figure in figures(numbers):
        written[name] = folder / f"{name}.png"
        figure.savefig(written[name], dpi=150, facecolor="white")
    for key, signal in evaluation.signals.items():
        if signal.is_image:
            place = key.replace("/", "_")
            written[f"{place}_strip"] = folder / f"{place}_strip.png"
            Image.fromarray(videos.strip(signal, context)).save(written[f"{place}_strip"])
            for kind, frames in (("predictions", videos.comparison), ("dreams", videos.rollouts)):
                written[f"{place}_{kind}"] = folder / f"{place}_{kind}.mp4"
                write_mp4(written[f"{place}_{kind}"], frames(signal, context), FPS, QUALITY)
    write_atomically(folder / RECORD, (json.dumps(numbers, separators=(",", ":"), allow_nan=False) + "\n").encode())
    return written
