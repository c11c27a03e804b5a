"""TensorBoard view: scalar event files, written without TensorFlow or torch."""

import time
from collections.abc import Mapping
from pathlib import Path

from dreamer.tracking.views import Status, View


class TensorBoardView(View):
    """Writes every metric as a scalar over environment steps; films are left to the run folder.

    `first_step` is the first step that this process writes: TensorBoard drops what an earlier, crashed process wrote
    from there on.
    """

    title = "TensorBoard"

    def __init__(self, folder: Path, first_step: int = 0) -> None:
        self._folder = folder
        self._first_step = first_step

    def start(self) -> None:
        """Open a new event file; raises ImportError with a remedy when TensorBoard is not installed."""
        try:
            from tensorboard.compat.proto.event_pb2 import Event, SessionLog
            from tensorboard.compat.proto.summary_pb2 import Summary
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ImportError as error:
            raise ImportError(f"{error}: pip install tensorboard") from error
        self._event, self._summary = Event, Summary
        self._writer = EventFileWriter(str(self._folder), flush_secs=10)
        if self._first_step > 0:
            restart = SessionLog(status=SessionLog.START)
            self._writer.add_event(Event(wall_time=time.time(), step=self._first_step, session_log=restart))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write one record."""
        scalars = [self._summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._writer.add_event(self._event(wall_time=time.time(), step=step, summary=self._summary(value=scalars)))

    def close(self, status: Status) -> None:
        """Flush and close the event file."""
        self._writer.close()
