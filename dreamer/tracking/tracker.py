"""Tracker of a run: metrics.jsonl first, then the views."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, SupportsFloat

from dreamer.errors import UserError
from dreamer.system.redaction import warn
from dreamer.tracking.config import TrackingConfig
from dreamer.tracking.console import ConsoleView
from dreamer.tracking.jsonl import JsonlWriter
from dreamer.tracking.progress import phase
from dreamer.tracking.tensorboard import TensorBoardView
from dreamer.tracking.views import BackgroundView, Status, View
from dreamer.tracking.wandb import WandbView


class Tracker:
    """Writes every record to metrics.jsonl and passes it to the views, which never slow down or stop the caller.

    Methods raise `UserError` when metrics.jsonl or the disk cannot be written.
    """

    def __init__(
        self, config: TrackingConfig, writer: JsonlWriter, views: Sequence[View], console: ConsoleView | None = None
    ) -> None:
        self._config = config
        self.writer = writer
        """Writer of metrics.jsonl, whose records a checkpoint keeps; views keep what they have shown."""
        self._views = [BackgroundView(view) for view in views]
        self._media_views = self._views if config.video else []
        # The console has no thread: it only formats a line, in order with the other output of the caller.
        self._console = console
        self._closed = False

    def advance(self, step: int, learning: bool) -> None:
        """Show on the console that training has come to `step`; nothing is recorded."""
        if self._console:
            self._console.advance(step, learning)

    def log(self, step: int, values: Mapping[str, SupportsFloat]) -> None:
        """Record metrics at `step` environment steps. `updates` of the record is `loop/updates`, or its last value.

        Raises `ValueError` for a name that is not allowed, as in `JsonlWriter.write`.
        """
        numbers = {name: float(value) for name, value in values.items()}
        updates = int(numbers.get("loop/updates", self.writer.last.get("updates", 0)))
        self.writer.write(step, updates, numbers)
        if self._console:
            self._console.log(step, numbers)
        for view in self._views:
            view.show("log", step, numbers)

    def video(self, step: int, name: str, path: Path) -> None:
        """Show the video at `path`, which has to stay there, under `name` in the views that can."""
        for view in self._media_views:
            view.show("video", step, name, path)

    def image(self, step: int, name: str, path: Path) -> None:
        """Show the PNG picture at `path`, which has to stay there, under `name` in the views that can."""
        for view in self._media_views:
            view.show("image", step, name, path)

    def artifact(self, step: int, alias: str, files: Mapping[str, Path]) -> None:
        """Send the files of a model at `step`, by their names in it, to the views that can."""
        for view in self._views:
            view.show("artifact", step, alias, files)

    def summary(self, values: Mapping[str, SupportsFloat]) -> None:
        """Show results of the whole run, such as its final evaluation, in the views that can."""
        numbers = {name: float(value) for name, value in values.items()}
        for view in self._views:
            view.show("summary", numbers)

    def close(self, status: Status) -> None:
        """Finish every view within the configured seconds. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        deadline = time.monotonic() + self._config.close_seconds
        with phase("closing"):  # W&B may take long to send the rest
            for view in self._views:
                view.request_close(status)
            for view in self._views:
                view.join(deadline)
        if self._console:
            self._console.close(status)
        self.writer.close()


def open_tracker(
    config: TrackingConfig,
    run_dir: Path,
    run_info: Mapping[str, Any],
    run_config: Mapping[str, Any],
    total_steps: int,
    resume_offset: int | None,
    foreign: Mapping[str, str] | None = None,
    group: str = "",
) -> Tracker:
    """Open the tracker of the run in `run_dir`, an existing folder.

    `run_info` is the content of run.json, `run_config` the settings to show. `resume_offset` is None for a new
    run; a resumed run loses the records after that many bytes, the `size` of its writer. `foreign` and `group` are as
    in `WandbView`. Raises `UserError` when metrics.jsonl cannot be written, or would continue another run's file.
    """
    path = run_dir / "metrics.jsonl"
    if resume_offset is None and path.exists() and path.stat().st_size:
        raise UserError(f"{path} belongs to an earlier run; resume that run or choose another folder")
    writer = JsonlWriter(path)
    if missing := writer.truncate(resume_offset or 0):
        warn(f"dreamer: {path} lacks {missing} bytes written before the checkpoint; the run continues without them")
    views: list[View] = []
    if config.wandb != "off":
        views.append(WandbView(config, run_dir, run_info, run_config, foreign=foreign, group=group))
    if config.tensorboard:
        views.append(TensorBoardView(run_dir / "tensorboard", first_step=writer.last.get("step", -1) + 1))
    return Tracker(config, writer, views, ConsoleView(total_steps) if config.console else None)
