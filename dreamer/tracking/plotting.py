"""Style of the figures: colours, fonts, sizes, and their SVG.

The colours are those of Okabe and Ito, which colour-blind readers can tell apart.
"""

from __future__ import annotations

import io
import re
from typing import Any

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


def rgb(color: str) -> tuple[int, int, int]:
    """Return red, green and blue of a colour such as `#0072B2`."""
    red, green, blue = bytes.fromhex(color.removeprefix("#"))
    return red, green, blue


def svg(figure: Figure) -> str:
    """Return the figure as an SVG element in the text colour of the page, with a transparent background."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    return re.sub(INK, "currentColor", text[text.index("<svg") :], flags=re.IGNORECASE)
