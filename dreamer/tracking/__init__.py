"""Tracking: metrics.jsonl is the truth, W&B, TensorBoard and the console are views of it."""

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
