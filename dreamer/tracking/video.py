"""MP4 files of evaluation episodes and of imagined rollouts."""

from __future__ import annotations

import re
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np

from dreamer.errors import UserError


def evaluation_videos(run: Path) -> list[tuple[int, Path]]:
    """Return step and path of the finished videos of a run's evaluations, oldest first, without links."""
    named = [(re.fullmatch(r"eval_([0-9]{1,15})\.mp4", path.name), path) for path in (run / "videos").glob("*.mp4")]
    return sorted((int(match[1]), path) for match, path in named if match and not path.is_symlink())


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
