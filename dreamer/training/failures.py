"""Reports of what failed without ending the run: environments, and the console."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from dreamer.errors import first_line, reason
from dreamer.experience.collect import Collector
from dreamer.system.redaction import redact, warn
from envs.process import LOST, STREAMS


def report_failures(collector: Collector[Any], step: int, folder: Path) -> int:
    """Print a line for each failure in the collector's log, append its full text to `folder`, and empty the log.

    Returns the number of failures.
    """
    failures, collector.failure_log = collector.failure_log, []
    file = folder / "environments.log"
    for index, text in failures:
        warn(f"environment {index} failed: {first_line(text)} (see {file})", own=True)
        _append(file, f"step {step}, environment {index}: {text}\n")
    return len(failures)


def report_lost_streams(reported: set[str], step: int, folder: Path) -> None:
    """Report each standard stream that cannot be written on the other one and in `folder`, unless it is `reported`."""
    for name in LOST.keys() - reported:
        line = f"{STREAMS[name]} cannot be written: {reason(LOST[name])}; the run continues"
        warn(f"dreamer: {line}")
        _append(folder / "console.log", f"step {step}: {line}\n")
    reported.update(LOST)


def _append(file: Path, text: str) -> None:
    with contextlib.suppress(OSError):  # a full disk is reported by what the run itself writes
        file.parent.mkdir(exist_ok=True)
        with open(file, "a", encoding="utf-8", errors="backslashreplace") as log:
            log.write(redact(text))
