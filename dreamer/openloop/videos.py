"""Videos and film strips of images: truth, prediction and error in labelled rows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dreamer.openloop.evaluation import Signal
from dreamer.tracking.plotting import INK, PALETTE

TILE = 128
"""Least number of pixels of the longer side of an image; images are enlarged by whole factors."""
GAP = 4
STRIP = 10
"""Number of steps in a film strip."""
OBSERVED, IMAGINED = PALETTE[2], PALETTE[3]
"""Colours of the bar above observed and above imagined steps."""


def comparison(signal: Signal, context: int) -> list[np.ndarray]:
    """Return frames `[height, width, 3]` with rows "real", "model", "error" and further samples, a column per episode.

    The model reconstructs the observed steps. The error is the absolute difference of "model" and "real". The video
    lasts as long as the longest episode; an episode that has ended is gray.
    """
    rows = _rows(signal)
    return [
        _frame({label: list(images[:, t]) for label, images in rows.items()}, *_caption(t, context))
        for t in range(signal.real.shape[1])
    ]


def rollouts(signal: Signal, context: int) -> list[np.ndarray]:
    """Return frames `[height, width, 3]` with a row for each imagined rollout and a column for each episode."""
    observed, imagined = _bytes(signal.samples), _bytes(signal.rollouts)
    images = np.concatenate([observed[:, : imagined.shape[1], :context], imagined], 2)
    return [
        _frame({f"rollout {i + 1}": list(images[:, i, t]) for i in range(images.shape[1])}, *_caption(t, context))
        for t in range(images.shape[2])
    ]


def strip(signal: Signal, context: int) -> np.ndarray:
    """Return a picture `[height, width, 3]` of the first episode: the rows of `comparison` at some steps."""
    length = signal.real.shape[1]
    candidates = [max(context - 1, 0), *range(context, length)]
    picked = np.unique(np.linspace(0, len(candidates) - 1, STRIP).round().astype(int))
    steps = [candidates[i] for i in picked]
    heads = [f"{t - context + 1:+d}" if t >= context else "observed" for t in steps]
    rows = {label: [images[0, t] for t in steps] for label, images in _rows(signal).items()}
    return _frame(rows, "", IMAGINED, heads)


def _rows(signal: Signal) -> dict[str, np.ndarray]:
    """Images `[episode, time, ...]` by label: truth, first sample and their difference, and the other samples."""
    samples, error = _bytes(signal.samples), _bytes(np.abs(signal.samples[:, 0] - signal.real))
    others = {f"sample {i + 1}": samples[:, i] for i in range(1, samples.shape[1])}
    return {"real": _bytes(signal.real), "model": samples[:, 0], "error": error, **others}


def _caption(t: int, context: int) -> tuple[str, str]:
    """Text above the frame of step t, and the colour of its bar."""
    if t < context:
        return f"observed, step {t + 1} of {context}", OBSERVED
    ahead = t - context + 1
    return f"imagined, {ahead} step{'' if ahead == 1 else 's'} ahead", IMAGINED


def _frame(rows: dict[str, list[np.ndarray]], title: str, color: str, heads: Sequence[str] = ()) -> np.ndarray:
    """Images in labelled rows below a line of text and a coloured bar. Both sides are even, as H.264 requires."""
    height, width = next(iter(rows.values()))[0].shape[:2]
    factor = max(1, -(-TILE // max(height, width)))
    height, width = height * factor, width * factor
    columns = len(next(iter(rows.values())))
    margin = 12 + max(round(_font().getlength(label)) for label in rows)
    top = 30
    size = margin + columns * (width + GAP), top + len(rows) * (height + GAP)
    canvas = Image.new("RGB", (size[0] + size[0] % 2, size[1] + size[1] % 2), "white")
    draw = ImageDraw.Draw(canvas)
    draw.rectangle((margin, top - 5, margin + columns * (width + GAP) - GAP - 1, top - 2), fill=color)
    draw.text((margin, 12), title, INK, _font(), anchor="lm")
    for i, head in enumerate(heads):
        draw.text((margin + i * (width + GAP) + width // 2, 12), head, INK, _font(), anchor="mm")
    for j, (label, images) in enumerate(rows.items()):
        y = top + j * (height + GAP)
        draw.text((6, y + height // 2), label, INK, _font(), anchor="lm")
        for i, image in enumerate(images):
            tile = Image.fromarray(np.ascontiguousarray(image)).resize((width, height), Image.Resampling.NEAREST)
            canvas.paste(tile, (margin + i * (width + GAP), y))
    return np.asarray(canvas)


def _bytes(images: np.ndarray) -> np.ndarray:
    """Images in [0, 1] as RGB bytes; NaN becomes gray."""
    filled = np.where(np.isnan(images), 0.5, images)
    colored = np.repeat(filled, 3, -1) if filled.shape[-1] == 1 else filled[..., -3:]
    return np.round(255 * np.clip(colored, 0, 1)).astype(np.uint8)


@cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(14)
