"""Films and film strips of images: what happened, what the model imagined, and where it was wrong, in labelled rows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dreamer.openloop.study import Signal

TILE = 128
"""Pixels of an image's longer side, at least; images are enlarged by whole factors."""
GAP = 4
STRIP = 10
"""Moments that a film strip shows."""
GROUND, TEXT = (255, 255, 255), (31, 35, 40)
OBSERVED, IMAGINED = (0, 158, 115), (213, 94, 0)
"""Colours of the bar above what the model was shown and above what it makes up."""


def comparison(signal: Signal, context: int) -> list[np.ndarray]:
    """Frames `[height, width, 3]`: rows real, model, error and further samples; a column for each episode.

    The model's observed rows are reconstructions; the error is the absolute difference to the row "model". Frames end
    with the longest episode; an episode that has ended before is gray.
    """
    real, samples = _bytes(signal.real), _bytes(signal.samples)
    error = _bytes(np.abs(signal.samples[:, 0] - signal.real))
    rows = {"real": real, "model": samples[:, 0], "error": error}
    rows |= {f"sample {i + 1}": samples[:, i] for i in range(1, samples.shape[1])}
    return [
        _frame({label: list(images[:, t]) for label, images in rows.items()}, *_moment(t, context))
        for t in range(real.shape[1])
    ]


def dreams(signal: Signal, context: int) -> list[np.ndarray]:
    """Frames `[height, width, 3]`: a row for each free dream, a column for each episode it begins in."""
    seen, dreamed = _bytes(signal.samples), _bytes(signal.dreams)
    images = np.concatenate([seen[:, : dreamed.shape[1], :context], dreamed], 2)
    return [
        _frame({f"dream {i + 1}": list(images[:, i, t]) for i in range(images.shape[1])}, *_moment(t, context))
        for t in range(images.shape[2])
    ]


def strip(signal: Signal, context: int) -> np.ndarray:
    """One picture `[height, width, 3]` of the first episode: the rows of `comparison` at moments spread over time."""
    length = signal.real.shape[1]
    early = [max(context - 1, 0), *range(context, length)]
    moments = [early[i] for i in np.unique(np.linspace(0, len(early) - 1, STRIP).round().astype(int))]
    real, samples = _bytes(signal.real[0]), _bytes(signal.samples[0])
    error = _bytes(np.abs(signal.samples[0, 0] - signal.real[0]))
    rows = {"real": real, "model": samples[0], "error": error}
    rows |= {f"sample {i + 1}": samples[i] for i in range(1, len(samples))}
    heads = [f"{t - context + 1:+d}" if t >= context else "observed" for t in moments]
    return _frame({label: [images[t] for t in moments] for label, images in rows.items()}, "", IMAGINED, heads)


def save_picture(path: Path, picture: np.ndarray) -> None:
    """Write a picture `[height, width, 3]` as PNG."""
    Image.fromarray(picture).save(path)


def _moment(t: int, context: int) -> tuple[str, tuple[int, int, int]]:
    """What the bar above row t says, and its colour."""
    if t < context:
        return f"observed, row {t + 1} of {context}", OBSERVED
    ahead = t - context + 1
    return f"imagined, {ahead} step{'' if ahead == 1 else 's'} ahead", IMAGINED


def _frame(
    rows: dict[str, list[np.ndarray]], title: str, color: tuple[int, int, int], heads: Sequence[str] = ()
) -> np.ndarray:
    """Images in rows with labels at the left, below a line of text and a coloured bar; even sides, as H.264 asks."""
    height, width = next(iter(rows.values()))[0].shape[:2]
    factor = max(1, -(-TILE // max(height, width)))
    height, width = height * factor, width * factor
    columns = len(next(iter(rows.values())))
    margin = 12 + max(round(_font().getlength(label)) for label in rows)
    top = 30
    size = margin + columns * (width + GAP), top + len(rows) * (height + GAP)
    canvas = Image.new("RGB", (size[0] + size[0] % 2, size[1] + size[1] % 2), GROUND)
    draw = ImageDraw.Draw(canvas)
    draw.rectangle((margin, top - 5, margin + columns * (width + GAP) - GAP - 1, top - 2), fill=color)
    draw.text((margin, 12), title, TEXT, _font(), anchor="lm")
    for i, head in enumerate(heads):
        draw.text((margin + i * (width + GAP) + width // 2, 12), head, TEXT, _font(), anchor="mm")
    for j, (label, images) in enumerate(rows.items()):
        y = top + j * (height + GAP)
        draw.text((6, y + height // 2), label, TEXT, _font(), anchor="lm")
        for i, image in enumerate(images):
            tile = Image.fromarray(np.ascontiguousarray(image)).resize((width, height), Image.Resampling.NEAREST)
            canvas.paste(tile, (margin + i * (width + GAP), y))
    return np.asarray(canvas)


def _bytes(images: np.ndarray) -> np.ndarray:
    """Images in [0, 1], NaN where there is none, as RGB bytes."""
    filled = np.where(np.isnan(images), 0.5, images)
    colored = np.repeat(filled, 3, -1) if filled.shape[-1] == 1 else filled[..., -3:]
    return np.round(255 * np.clip(colored, 0, 1)).astype(np.uint8)


@cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(14)
