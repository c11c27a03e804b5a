"""Tracking of a run. metrics.jsonl holds all metrics; W&B, TensorBoard and the console are views of it.

tracker        writes records to metrics.jsonl and passes them to the views
jsonl          reader and writer of metrics.jsonl
metrics        registry of all metrics, read from the tables of metrics.md
views          interface of a view, and the thread that it runs in
progress       what the running code does, for the console and for commands
console, tensorboard, wandb, wandb_session  the views
video          MP4 files
plotting       style of all figures, and the learning curve
config         settings
"""

from dreamer.tracking.config import TrackingConfig
from dreamer.tracking.jsonl import JsonlWriter, read
from dreamer.tracking.metrics import METRICS, Metric, describe, is_registered
from dreamer.tracking.tracker import Tracker, open_tracker
from dreamer.tracking.views import Status, View

__all__ = [
    "METRICS",
    "JsonlWriter",
    "Metric",
    "Status",
    "Tracker",
    "TrackingConfig",
    "View",
    "describe",
    "is_registered",
    "open_tracker",
    "read",
]
