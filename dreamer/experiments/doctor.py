"""What this machine offers a run."""

from __future__ import annotations

import platform
from pathlib import Path

import torch

import envs
from dreamer import run


def frame_rates() -> str:
    """Frames of 64x64 pixels per second and process of every backend that may draw here, asked before one is taken."""
    from envs.rendering import candidates, frames_per_second

    found = []
    for backend in candidates():
        fast = frames_per_second(backend, shadows=False)
        full = frames_per_second(backend, shadows=True) if fast is not None else None
        found.append(
            f"{backend.name} {full:.0f} frames/s, {fast:.0f} without shadows"
            if fast is not None and full is not None
            else f"{backend.name} draws nothing"
        )
    return "; ".join(found)


def doctor() -> str:
    """A few lines about versions, devices, rendering, W&B and disk space."""
    from dreamer.tracking.wandb_session import choose_mode
    from envs.rendering import missing_gl_message, select_backend

    drawn = frame_rates()
    backend = select_backend()
    versions = ", ".join(f"{name} {run.package_version(name)}" for name in run.VERSIONED)
    try:
        mode, reason = choose_mode("auto")
        logging = f"{mode}: {reason}" if reason else mode
    except ValueError as error:
        logging = f"refused: {error}"
    cuda = f"{torch.cuda.get_device_name(0)}" if torch.cuda.is_available() else "none"
    return "\n".join(
        [
            f"python      {platform.python_version()} on {platform.platform()}",
            f"packages    {versions}",
            f"code        {run.commit()}",
            f"cores       {envs.cores()}, torch uses {torch.get_num_threads()} threads",
            f"device      auto takes {run.choose_device('auto')}; cuda: {cuda}",
            f"rendering   {f'takes {backend}: {drawn}' if backend else missing_gl_message()}",
            f"W&B         {logging}",
            f"disk        {run.free_bytes(Path('.')) / 2**30:.1f} GB free here",
        ]
    )
