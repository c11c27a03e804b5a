"""Style of the figures, their SVG, and the learning curve of a run.

The colours are those of Okabe and Ito, which colour-blind readers can tell apart.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dreamer.system.files import write_atomically
from dreamer.tracking.jsonl import read

if TYPE_CHECKING:  # takes a second to load, which would slow down `import dreamer`
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#999999", "#F0E442")
INK = "#1f2328"
"""Colour of text and axes. In SVG it becomes the text colour of the page."""
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": INK,
    "grid.alpha": 0.13,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "text.parse_math": False,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
}
"""Settings for `matplotlib.rc_context`."""
WIDTH = 9.0
"""Width in inches of a figure that fills a page."""


def svg(figure: Figure) -> str:
    """Return the figure as an SVG element in the text colour of the page, with a transparent background."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    return re.sub(INK, "currentColor", text[text.index("<svg") :], flags=re.IGNORECASE)


def draw_curve(metrics: Path, path: Path, title: str) -> None:
    """Draw training and evaluation returns of metrics.jsonl over environment steps into a PNG."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        learning_curve(read(metrics), title).savefig(picture := io.BytesIO(), dpi=150, facecolor="white")
    write_atomically(path, picture.getbuffer())


def points(records: Sequence[Mapping[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return environment steps and values of one metric."""
    rows = [(record["step"], record[name]) for record in records if "step" in record and record.get(name) is not None]
    steps, values = np.array(rows, float).reshape(-1, 2).T
    return steps, values


def learning_curve(
    records: Sequence[Mapping[str, Any]], title: str = "", behind: Callable[[Axes], None] | None = None
) -> Figure:
    """Return a figure of the returns of training and evaluation episodes over environment steps.

    `behind` draws other curves after these, such as published ones.
    """
    import matplotlib.figure
    from matplotlib.ticker import EngFormatter

    figure = matplotlib.figure.Figure(figsize=(WIDTH, 3.6), layout="constrained")
    axes = figure.add_subplot()

    steps, means = points(records, "eval/return_mean")
    _, low = points(records, "eval/return_min")
    _, high = points(records, "eval/return_max")
    axes.plot(*points(records, "train/return"), color=INK, alpha=0.35, linewidth=1, label="training episodes")
    if len(low) == len(high) == len(steps):
        axes.fill_between(steps, low, high, color=PALETTE[0], alpha=0.15, linewidth=0, label="worst to best episode")
    axes.plot(steps, means, color=PALETTE[0], marker="o", markersize=3, label="evaluation, sampled actions")
    axes.plot(
        *points(records, "eval/mode_return_mean"),
        color=PALETTE[1],
        linestyle="--",
        label="evaluation, the policy's mode",
    )
    axes.set(xlabel="environment steps", ylabel="return")
    axes.set_title(title, parse_math=False)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid()
    if behind is not None:
        behind(axes)
    figure.legend(loc="outside upper center", ncols=4)
    return figure
