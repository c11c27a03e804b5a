"""MP4 files of evaluation episodes and of imagined rollouts."""

from __future__ import annotations

import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np

from dreamer.errors import UserError


def evaluation_videos(run: Path) -> list[Path]:
    """Return the finished videos of a run's evaluations, oldest first."""
    paths = (run / "videos").glob("eval_*.mp4")
    return sorted(path for path in paths if path.stem.removeprefix("eval_").isdecimal())


def write_mp4(path: Path, frames: list[np.ndarray], fps: float, quality: int = 6) -> None:
    """Encode uint8 frames `[height, width, 3]` as H.264, which every browser plays; `quality` is from 0 to 10.

    Raises `UserError` when `path` cannot be written.
    """
    import imageio.v2

    temporary = path.with_name(f"{path.stem}.part.mp4")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)  # it may be a link to another file
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            imageio.v2.mimwrite(temporary, frames, fps=fps, codec="libx264", quality=quality, macro_block_size=2)  # type: ignore[arg-type]
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise UserError(f"cannot write the video {path}: {error.strerror or 'ffmpeg failed'}") from error
