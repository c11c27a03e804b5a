"""Learning curve of a run as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamer.tracking.jsonl import read

if TYPE_CHECKING:  # takes a second to load, which would slow down `import dreamer`
    from matplotlib.figure import Figure


def draw_curve(metrics: Path, path: Path, title: str) -> None:
    """Draw training and evaluation returns of metrics.jsonl over environment steps into a PNG."""
    import matplotlib

    from dreamer.tracking.plotting import STYLE

    with matplotlib.rc_context(STYLE):
        returns(read(metrics), title).savefig(path, dpi=150, facecolor="white")


def returns(records: Sequence[Mapping[str, Any]], title: str = "") -> Figure:
    """Return a figure of the returns of training and evaluation episodes over environment steps."""
    import matplotlib.figure
    from matplotlib.ticker import EngFormatter

    from dreamer.tracking.plotting import INK, PALETTE, WIDTH

    figure = matplotlib.figure.Figure(figsize=(WIDTH, 3.6), layout="constrained")
    axes = figure.add_subplot()

    def points(name: str) -> tuple[list[float], list[float]]:
        rows = [(float(record["step"]), float(record[name])) for record in records if record.get(name) is not None]
        return [row[0] for row in rows], [row[1] for row in rows]

    steps, means = points("eval/return_mean")
    _, low = points("eval/return_min")
    _, high = points("eval/return_max")
    axes.plot(*points("train/return"), color=INK, alpha=0.35, linewidth=1, label="training episodes")
    if len(low) == len(high) == len(steps):
        axes.fill_between(steps, low, high, color=PALETTE[0], alpha=0.15, linewidth=0, label="worst to best episode")
    axes.plot(steps, means, color=PALETTE[0], marker="o", markersize=3, label="evaluation, sampled actions")
    axes.plot(*points("eval/mode_return_mean"), color=PALETTE[1], linestyle="--", label="evaluation, the policy's mode")
    axes.set(xlabel="environment steps", ylabel="return")
    axes.set_title(title, parse_math=False)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid()
    figure.legend(loc="outside upper center", ncols=4)
    return figure
