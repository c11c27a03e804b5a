"""Reports of training environments that failed."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from dreamer.errors import first_line
from dreamer.experience.collect import Collector
from dreamer.system.redaction import redact, warn


def report_failures(collector: Collector[Any], step: int, folder: Path) -> int:
    """Print a line for each failure in the collector's log, append its full text to `folder`, and empty the log.

    Returns the number of failures.
    """
    failures, collector.failure_log = collector.failure_log, []
    file = folder / "environments.log"
    for index, text in failures:
        warn(f"environment {index} failed: {first_line(text)} (see {file})")
        with contextlib.suppress(OSError):  # a full disk is reported by what the run itself writes
            folder.mkdir(exist_ok=True)
            with open(file, "a") as log:
                log.write(redact(f"step {step}, environment {index}: {text}\n"))
    return len(failures)
