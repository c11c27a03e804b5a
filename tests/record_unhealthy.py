"""Runs made unhealthy on purpose, and their metrics: `python tests/record_unhealthy.py` writes tests/recorded again.

Their courses are chaotic, so that another machine may record others; the tests read the recordings.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from running import tiny_config

import dreamer

RECORDED = Path(__file__).resolve().parent / "recorded"
SHARED = {
    "steps": 240,
    "loop.replay_ratio": 16.0,
    "loop.log_every": 20,
    "loop.eval_every": 40,
    "loop.checkpoint_every": 10_000,
}
UNHEALTHY = {
    "unstable": tiny_config(
        "toy:chain", **SHARED | {"agent.optimizer.learning_rate": 3.0, "agent.optimizer.warmup": 3000}
    ),
    "overvalued": tiny_config(
        "toy:chain", **SHARED | {"agent.optimizer.learning_rate": 0.1, "agent.optimizer.warmup": 300}
    ),
}


def record() -> None:
    """Train every one of them and keep its metrics."""
    RECORDED.mkdir(exist_ok=True)
    for name, config in UNHEALTHY.items():
        with tempfile.TemporaryDirectory() as folder:
            result = dreamer.train(config, run_dir=Path(folder) / "run")
            shutil.copy(result.path / "metrics.jsonl", RECORDED / f"{name}.jsonl")


if __name__ == "__main__":
    record()
