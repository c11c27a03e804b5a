"""TensorBoard view: event files, written without TensorFlow and torch."""

import io
import time
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from dreamer.tracking.views import Status, View

GIF_FRAMES = 100
LARGEST_FRAME, MOST_FRAMES = 2**22, 10_000
"""Largest number of pixels of a frame, and of frames of a video that are looked at."""


class TensorBoardView(View):
    """Writes every metric as a scalar over environment steps, videos as animated images, and pictures.

    `first_step` is the first step that this process writes. TensorBoard drops what an earlier, crashed process wrote
    from that step on. `began` is the start of a run that is written after the fact, in seconds since 1970; its events
    then follow `time/elapsed`.
    """

    title = "TensorBoard"

    def __init__(self, folder: Path, first_step: int = 0, began: float | None = None) -> None:
        self._folder, self._first_step = folder, first_step
        self._began, self._elapsed = began, 0.0

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
        self._elapsed = values.get("time/elapsed", self._elapsed)
        scalars = [self._summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._write(step, self._summary(value=scalars))

    def video(self, step: int, name: str, path: Path) -> None:
        """Write a video as an animated GIF of at most `GIF_FRAMES` frames, which the images tab plays.

        Raises `ValueError` for a file that is not an MP4 file, and for frames larger than `LARGEST_FRAME` pixels.
        """
        import imageio.v3

        with path.open("rb") as file:
            if file.read(8)[4:] != b"ftyp":  # otherwise ffmpeg may take it for a list of other files
                raise ValueError("it is not an MP4 file")
        about = imageio.v3.immeta(path, plugin="FFMPEG")
        (width, height), fps = about["size"], about["fps"]
        if width * height > LARGEST_FRAME:
            raise ValueError(f"its frames have {width} x {height} pixels")
        every = -(-round(min(fps * about["duration"], MOST_FRAMES)) // GIF_FRAMES) or 1
        frames = list(islice(imageio.v3.imiter(path, plugin="FFMPEG"), 0, MOST_FRAMES, every))[: GIF_FRAMES + 1]
        buffer = io.BytesIO()
        imageio.v3.imwrite(buffer, frames, extension=".gif", duration=1000 * every / fps, loop=0)
        self._picture(step, name, height, width, buffer.getvalue())

    def image(self, step: int, name: str, path: Path) -> None:
        """Write a PNG picture as it is on disk."""
        data = path.read_bytes()
        width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))  # in the header of a PNG file
        self._picture(step, name, height, width, data)

    def close(self, status: Status) -> None:
        """Flush and close the event file."""
        self._writer.close()

    def _picture(self, step: int, name: str, height: int, width: int, data: bytes) -> None:
        image = self._summary.Image(height=height, width=width, colorspace=3, encoded_image_string=data)
        self._write(step, self._summary(value=[self._summary.Value(tag=name, image=image)]))

    def _write(self, step: int, summary: Any) -> None:
        now = time.time() if self._began is None else self._began + self._elapsed
        self._writer.add_event(self._event(wall_time=now, step=step, summary=summary))
