"""The tracker of a run: metrics.jsonl first, then whatever views the user wants."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, SupportsFloat

from dreamer.errors import UserError
from dreamer.redaction import tell
from dreamer.tracking.config import TrackingConfig
from dreamer.tracking.console import ConsoleView
from dreamer.tracking.jsonl import JsonlWriter
from dreamer.tracking.tensorboard import TensorBoardView
from dreamer.tracking.views import BackgroundView, Status, View
from dreamer.tracking.wandb import WandbView


class Tracker:
    """Writes every record to metrics.jsonl and passes it on to the views, which never slow or stop the caller."""

    def __init__(
        self, config: TrackingConfig, writer: JsonlWriter, views: Sequence[View], console: ConsoleView | None = None
    ) -> None:
        self._config = config
        self._writer = writer
        self._views = [BackgroundView(view) for view in views]
        # No thread for the console: it only formats a line, which should come in order with what the caller prints.
        self._console = console
        self._closed = False

    def log(self, step: int, values: Mapping[str, SupportsFloat]) -> None:
        """Record metrics at `step` environment steps; the record's `updates` is `loop/updates`, or else its last value.

        Raises:
            ValueError: a name is not defined in `dreamer.tracking.metrics`.
            UserError: metrics.jsonl cannot be written.
        """
        numbers = {name: float(value) for name, value in values.items()}
        updates = int(numbers.get("loop/updates", self._writer.last.get("updates", 0)))
        self._writer.write(step, updates, numbers)
        if self._console:
            self._console.log(step, numbers)
        for view in self._views:
            view.log(step, numbers)

    def video(self, step: int, name: str, path: Path, fps: int | float) -> None:
        """Show the film at `path` (already on disk, to be left there) under `name` in the views that can."""
        if self._config.video:
            for view in self._views:
                view.video(step, name, path, fps)

    def image(self, step: int, name: str, path: Path) -> None:
        """Show the PNG picture at `path` (already on disk, to be left there) under `name` in the views that can."""
        if self._config.video:
            for view in self._views:
                view.image(step, name, path)

    def summary(self, values: Mapping[str, SupportsFloat]) -> None:
        """Show results of the whole run, such as its final evaluation, in the views that have a place for them."""
        numbers = {name: float(value) for name, value in values.items()}
        for view in self._views:
            view.summary(numbers)

    def offset(self) -> int:
        """The length of metrics.jsonl in bytes, for a checkpoint to resume from; `sync` before it is relied upon."""
        return self._writer.offset()

    def rewind(self, offset: int) -> None:
        """Forget the records after `offset` bytes of metrics.jsonl; views keep what they have shown.

        Raises:
            UserError: metrics.jsonl cannot be shortened.
        """
        self._writer.truncate(offset)

    def sync(self) -> None:
        """Make metrics.jsonl safe against power loss; may be called from any thread.

        Raises:
            UserError: the disk does not take it.
        """
        self._writer.sync()

    def close(self, status: Status) -> None:
        """Finish every view within the configured seconds; closing twice is harmless."""
        if self._closed:
            return
        self._closed = True
        if self._console:
            self._console.close(status)
        deadline = time.monotonic() + self._config.close_seconds
        for view in self._views:
            view.request_close(status)
        for view in self._views:
            view.join(deadline)
        self._writer.close()


def open_tracker(
    config: TrackingConfig,
    run_dir: Path,
    run_info: Mapping[str, Any],
    run_config: Mapping[str, Any],
    total_steps: int,
    resume_offset: int | None,
    foreign: Mapping[str, str] | None = None,
) -> Tracker:
    """Open the tracker of the run in `run_dir`, an existing folder.

    `run_info` is the content of run.json, `run_config` that of config.json. A new run has `resume_offset` None; a
    resumed one forgets the records after `resume_offset` bytes, a number that `Tracker.offset` returned. `foreign` is
    as of `WandbView`.

    Raises:
        UserError: metrics.jsonl cannot be written, or a new run would continue another run's file.
    """
    path = run_dir / "metrics.jsonl"
    if resume_offset is None and path.exists() and path.stat().st_size:
        raise UserError(f"{path} belongs to an earlier run: resume it or pick another folder")
    writer = JsonlWriter(path)
    if missing := writer.truncate(resume_offset or 0):
        tell(f"dreamer: {path} lacks {missing} bytes written before the checkpoint; going on without")
    views: list[View] = []
    if config.wandb != "off":
        views.append(WandbView(config, run_dir, run_info, run_config, foreign=foreign))
    if config.tensorboard:
        views.append(TensorBoardView(run_dir / "tensorboard", first_step=writer.last.get("step", -1) + 1))
    return Tracker(config, writer, views, ConsoleView(total_steps) if config.console else None)
