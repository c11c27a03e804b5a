"""A study as numbers for a file: settings, errors by steps ahead, traces; figures are drawn from these."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from dreamer.openloop.study import DREAMS, Study

PERCENTILES = (5, 25, 50, 75, 95)
"""Of the samples of a trace: its median, and the ends of its central 50 and 90 % intervals."""


def record(study: Study) -> dict[str, Any]:
    """Everything but images, as JSON can hold it; what is not known is null. Axes are those of `Signal`."""
    return {
        "settings": dataclasses.asdict(study.settings),
        "episodes_alive": study.alive,
        "errors": {
            key: {"unit": signal.unit} | {name: _plain(curve) for name, curve in signal.errors.items()}
            for key, signal in study.signals.items()
        },
        "traces": _traces(study),
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


def _traces(study: Study) -> list[dict[str, Any]]:
    """Every number of every vector over the rows of the episodes shown."""
    found = []
    for key, signal in study.signals.items():
        if signal.is_image:
            continue
        for i in range(signal.real.shape[-1]):
            samples = signal.samples[..., i]
            percentiles = np.percentile(samples, PERCENTILES, 1)
            found.append(
                {
                    "key": key,
                    "index": i,
                    "real": _plain(signal.real[..., i]),
                    **{f"percentile_{p}": _plain(values) for p, values in zip(PERCENTILES, percentiles, strict=True)},
                    "samples": _plain(samples[:, :DREAMS]),
                    "dreams": _plain(signal.dreams[..., i]),
                }
            )
    return found


def _plain(values: Any) -> Any:
    """Numbers with five digits, null for NaN."""
    if isinstance(values, np.ndarray):
        values = values.tolist()
    if isinstance(values, list):
        return [_plain(value) for value in values]
    return float(f"{values:.5g}") if math.isfinite(values) else None
