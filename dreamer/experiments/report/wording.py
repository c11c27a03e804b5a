"""Numbers and lists as text."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dreamer.experiments.report.statistics import Estimate

UNKNOWN = "n/a"


def number(value: float, digits: int = 2) -> str:
    """Return a decimal number; `n/a` for NaN."""
    return f"{value:z,.{digits}f}" if math.isfinite(value) else UNKNOWN


def estimate(value: Estimate, digits: int = 2) -> str:
    """Return a value and its interval, such as `0.81 [0.75, 0.86]`."""
    interval = f"{number(value.low, digits)}, {number(value.high, digits)}" if value.has_interval else UNKNOWN
    return f"{number(value.value, digits)} [{interval}]"


def duration(seconds: float) -> str:
    """Return a duration with three digits, in milliseconds to hours."""
    if not math.isfinite(seconds):
        return UNKNOWN
    units = (("h", 3600.0), ("min", 60.0), ("s", 1.0), ("ms", 1e-3))
    unit, size = next((one for one in units if seconds >= one[1]), units[-1])
    return f"{seconds / size:#.3g}".rstrip(".") + f" {unit}"


def listing(words: Sequence[str], limit: int | None = None) -> str:
    """Return `a, b and c`; `none` for an empty list, and `a, b and 3 more` beyond `limit` words."""
    shown = list(words if limit is None or len(words) <= limit else words[:limit])
    if len(shown) < len(words):
        return f"{', '.join(shown)} and {len(words) - len(shown)} more"
    if len(shown) < 2:
        return shown[0] if shown else "none"
    return f"{', '.join(shown[:-1])} and {shown[-1]}"
