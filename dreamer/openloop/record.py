"""Numbers of an open-loop evaluation: the content of imagination.json, from which figures are drawn, and metrics."""

from __future__ import annotations

import dataclasses
import math
from typing import Annotated, Any

import numpy as np
from annotated_types import MaxLen
from typing_extensions import TypedDict

from dreamer.openloop.evaluation import SHOWN_SAMPLES, OpenLoopEvaluation
from dreamer.system.files import Counter, Finite, Text

PERCENTILES = (5, 25, 50, 75, 95)
"""Percentiles of samples: the median, and the ends of the central 50 and 90 % intervals."""
Curve = Annotated[list[Finite | None], MaxLen(2000)]
"""Values over time; None where they are unknown."""


class Settings(TypedDict):
    """The `OpenLoopSettings` that are shown."""

    context: Counter
    episodes: Counter
    samples: Counter


class Record(TypedDict):
    """Content of imagination.json, as far as it is shown."""

    settings: Settings
    episodes_alive: Annotated[list[Counter], MaxLen(2000)]
    errors: Annotated[dict[Text, dict[str, Text | Curve]], MaxLen(1000)]
    traces: Annotated[list[dict[str, Text | Counter | list[Curve] | list[list[Curve]]]], MaxLen(20_000)]


def record(evaluation: OpenLoopEvaluation) -> Any:
    """Return a `Record` and more: everything but images, null for unknown values. Axes are those of `Signal`."""
    return {
        "settings": dataclasses.asdict(evaluation.settings),
        "episodes_alive": evaluation.alive,
        "errors": {
            key: {"unit": signal.unit} | {name: _plain(curve) for name, curve in signal.errors.items()}
            for key, signal in evaluation.signals.items()
        },
        "traces": _traces(evaluation),
    }


def metrics(evaluation: OpenLoopEvaluation) -> dict[str, float]:
    """Return means over the predicted steps, as metrics of the run."""
    values: dict[str, float] = {}
    for key, signal in evaluation.signals.items():
        rmse, crps, repeated = (float(np.mean(signal.errors[name])) for name in ("rmse", "crps", "copy_crps"))
        values |= {f"imagination/rmse/{key}": rmse, f"imagination/crps/{key}": crps}
        if repeated > 0:
            values[f"imagination/skill/{key}"] = 1 - crps / repeated
    return values


def _traces(evaluation: OpenLoopEvaluation) -> list[dict[str, Any]]:
    """Every dimension of every vector over the steps of the episodes shown."""
    found = []
    for key, signal in evaluation.signals.items():
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
                    "samples": _plain(samples[:, :SHOWN_SAMPLES]),
                    "dreams": _plain(signal.rollouts[..., i]),
                }
            )
    return found


def _plain(values: Any) -> Any:
    """Values with five digits; None for NaN."""
    if isinstance(values, np.ndarray):
        values = values.tolist()
    if isinstance(values, list):
        return [_plain(value) for value in values]
    return float(f"{values:.5g}") if math.isfinite(values) else None
