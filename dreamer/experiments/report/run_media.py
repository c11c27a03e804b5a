"""Videos of evaluation episodes and the open-loop evaluation on the page of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np

from dreamer.errors import UserError, first_line
from dreamer.experiments.report.document import Media, Section
from dreamer.experiments.report.wording import number
from dreamer.openloop import folder as openloop
from dreamer.openloop.record import Record
from dreamer.openloop.traces import figures
from dreamer.system.files import MB, read_bytes, read_json
from dreamer.system.redaction import warn
from dreamer.tracking.plotting import STYLE, svg
from dreamer.tracking.progress import phase
from dreamer.tracking.video import evaluation_videos

RECORD_LIMIT = 20 * MB
CARRIED = 4_000_000
"""Bytes of videos and pictures that a section carries. The page links to the rest."""
VIDEOS = 4
"""Evaluation videos on a page: the first, the last, and some between."""


@dataclass(frozen=True)
class Imagination:
    """The newest open-loop evaluation of a run, as on disk."""

    run: Path
    place: str
    """Folder of the evaluation, relative to the run folder."""
    step: int
    record: Record
    """Content of imagination.json."""
    figures: dict[str, str]
    """Figures as SVG, by name."""
    media: list[Path]
    """Videos and film strips."""


def read_imagination(folder: Path) -> Imagination | None:
    """Return the newest open-loop evaluation of a run folder; None without one, or with a line for a damaged one."""
    found = openloop.newest(folder)
    if found is None:
        return None
    step, place = found
    try:
        record = read_json(place / openloop.RECORD, Record, RECORD_LIMIT)
        with phase("drawing predictions"), matplotlib.rc_context(STYLE):
            drawn = {name: svg(figure) for name, figure in figures(record)}
    except (ValueError, TypeError, LookupError) as error:  # entries or lengths may not fit
        file = "" if isinstance(error, UserError) else f"{place / openloop.RECORD}: "
        warn(f"dreamer: left out: {file}{first_line(error)}; `dreamer imagine {folder}` writes it again")
        return None
    media = sorted(path for path in place.iterdir() if path.name.endswith(("_strip.png", ".mp4")))
    return Imagination(folder, place.relative_to(folder).as_posix(), step, record, drawn, media)


def skills(found: Imagination | None) -> list[str]:
    """Return a sentence with the skill of the predictions, by key."""
    if found is None:
        return []
    values = []
    for key, errors in found.record["errors"].items():
        model, repeated = (np.mean(np.array(errors[name], float)) for name in ("crps", "copy_crps"))
        values.append(f"{key} {number(1 - model / repeated)}" if repeated > 0 else f"{key} unknown")
    steps = len(found.record["episodes_alive"])
    scale = "1 is perfect, 0 is no better than repeating the last observation"
    return [f"Open-loop skill over {steps} steps ahead ({scale}): {', '.join(values)}."]


def videos(folder: Path) -> list[Section]:
    """Return a section with videos of evaluation episodes, the newest first."""
    found = evaluation_videos(folder)
    if not found:
        return []
    picked = [found[i] for i in np.unique(np.linspace(0, len(found) - 1, VIDEOS).round().astype(int))][::-1]
    media = _carried(folder, [path for _, path in picked], [f"step {step:,}" for step, _ in picked])
    return [Section("Videos", "Evaluation episodes with sampled actions.", media=media)]


def imagination(found: Imagination | None) -> list[Section]:
    """Return the sections of an open-loop evaluation: predictions, imagined rollouts and errors."""
    if found is None:
        text = "No open-loop evaluation yet: run `dreamer imagine RUN`, or train with --loop.imagine-every."
        return [Section("Open-loop predictions", text)]
    settings = found.record["settings"]
    predictions = (
        f"At step {found.step:,} the model observes {settings['context']} steps of held-out episodes. It predicts the "
        f"rest with its prior, from the actions that were taken, in {settings['samples']} samples of each episode. "
        f"All numbers are in {found.place}."
    )
    rollouts = "From the same observed steps the policy acts in the model, beside what happened in the environment."
    errors = f"Means over {settings['episodes']} held-out episodes, beside repeating the last observation."
    imagined = [path for path in found.media if path.stem.endswith("_dreams")]
    predicted = [path for path in found.media if path not in imagined]
    parts: list[tuple[str, str, str, list[Path]]] = [
        ("Open-loop predictions", predictions, "predictions", predicted),
        ("Imagined rollouts", rollouts, "dreams", imagined),
        ("Error by steps ahead", errors, "errors", []),
    ]
    return [
        Section(title, text, figure, media=_carried(found.run, media, [path.stem.replace("_", " ") for path in media]))
        for title, text, figure, media in parts
    ]


def _carried(root: Path, paths: Sequence[Path], captions: Sequence[str]) -> list[Media]:
    """Files below `root` as media. The page carries them until `CARRIED` bytes are used up."""
    found, room = [], CARRIED
    for path, caption in zip(paths, captions, strict=True):
        try:
            size = path.stat().st_size
            data = read_bytes(path, room) if size <= room else None
        except (OSError, UserError) as error:
            warn(f"dreamer: left out: {error}")
            continue
        room -= len(data or b"")
        note = "" if data is not None else f" ({size / 1e6:.1f} MB, not in this page)"
        found.append(Media(path.relative_to(root).as_posix(), caption + note, data))
    return found
