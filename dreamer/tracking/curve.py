"""The learning curve of a run as a picture."""

from __future__ import annotations

from pathlib import Path

from dreamer.tracking.jsonl import read


def draw_curve(metrics: Path, path: Path, title: str) -> None:
    """Draw training and evaluation returns over environment steps from metrics.jsonl into a PNG."""
    import matplotlib.figure

    records = read(metrics)
    figure = matplotlib.figure.Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()

    def points(name: str) -> tuple[list[float], list[float]]:
        rows = [(float(record["step"]), float(record[name])) for record in records if record.get(name) is not None]
        return [row[0] for row in rows], [row[1] for row in rows]

    steps, means = points("eval/return_mean")
    _, low = points("eval/return_min")
    _, high = points("eval/return_max")
    axes.plot(*points("train/return"), color="tab:gray", alpha=0.6, linewidth=1, label="training episodes")
    axes.plot(steps, means, color="tab:blue", marker="o", markersize=3, label="evaluation, sampled actions")
    if len(low) == len(high) == len(steps):
        axes.fill_between(steps, low, high, color="tab:blue", alpha=0.15, label="evaluation, worst to best episode")
    axes.plot(*points("eval/mode_return_mean"), color="tab:orange", linestyle="--", label="evaluation, mode actions")
    axes.set(xlabel="environment steps", ylabel="return")
    axes.set_title(title, parse_math=False)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)
