"""Registry of all metrics: name, meaning, unit and healthy values, read from the tables of metrics.md beside this file.

A metric that is not there is logged with one warning.
"""

import re
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

ROW = re.compile(r"^\| `(.+?)` \| (.+?) \| (.*?) \| (.*?) \|$", re.MULTILINE)
"""Row of a table of metrics.md: the fields of `Metric`."""


@dataclass(frozen=True)
class Metric:
    """Definition of a number that a run writes to metrics.jsonl."""

    name: str
    """Full name `group/name`. `<key>` at the end stands for any word and defines a family of metrics."""
    description: str
    """Meaning, in one sentence."""
    unit: str = ""
    """Unit; empty for a pure number."""
    healthy: str = ""
    """Values of a healthy run, in words; empty where every value can be right."""


METRICS = tuple(Metric(*row) for row in ROW.findall(Path(__file__).with_name("metrics.md").read_text(encoding="utf-8")))

_BY_NAME = {metric.name: metric for metric in METRICS if "<" not in metric.name}
_FAMILIES = tuple((metric.name.partition("<")[0], metric) for metric in METRICS if "<" in metric.name)


@cache
def describe(name: str) -> Metric:
    """Return the definition of a metric; one that is not registered has no description.

    A member of a family gets the definition of the family under its own name.
    """
    if name in _BY_NAME:
        return _BY_NAME[name]
    for prefix, family in _FAMILIES:
        if name.startswith(prefix) and name != prefix and name.isprintable():
            return replace(family, name=name)
    return Metric(name, "")


def is_registered(name: str) -> bool:
    """Return True when a metric is defined here, itself or as a member of a family."""
    return bool(describe(name).description)
