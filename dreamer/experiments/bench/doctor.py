"""`dreamer doctor`: versions, devices, rendering, W&B login and disk space of this machine."""

from __future__ import annotations

import platform
from pathlib import Path

import torch

import envs
from dreamer.runs.provenance import VERSIONED, commit, package_version
from dreamer.system.device import choose_device
from dreamer.system.memory import free_bytes


def frame_rates() -> str:
    """Return the frames of 64x64 pixels per second of every rendering backend; call it before a backend is selected."""
    from envs.rendering import candidates, frames_per_second

    found = []
    for backend in candidates():
        fast = frames_per_second(backend, shadows=False)
        full = fast and frames_per_second(backend, shadows=True)
        rates = f"{full:.0f} frames/s, {fast:.0f} without shadows" if fast and full else "draws nothing"
        found.append(f"{backend.name} {rates}")
    return "; ".join(found)


def doctor() -> list[str]:
    """Return lines about versions, devices, rendering, W&B and disk space."""
    from dreamer.tracking.wandb_session import choose_mode
    from envs.rendering import missing_gl_message, select_backend

    drawn = frame_rates()
    backend = select_backend()
    versions = ", ".join(f"{name} {package_version(name)}" for name in VERSIONED)
    try:
        mode, reason = choose_mode("auto")
        logging = f"{mode}: {reason}" if reason else mode
    except ValueError as error:
        logging = f"refused: {error}"
    cuda = f"{torch.cuda.get_device_name(0)}" if torch.cuda.is_available() else "none"
    return [
        f"python      {platform.python_version()} on {platform.platform()}",
        f"packages    {versions}",
        f"code        {commit()}",
        f"cores       {envs.cores()}, torch uses {torch.get_num_threads()} threads",
        f"device      auto takes {choose_device('auto')}; cuda: {cuda}",
        f"rendering   {f'takes {backend}: {drawn}' if backend else missing_gl_message()}",
        f"W&B         {logging}",
        f"disk        {free_bytes(Path('.')) / 2**30:.1f} GB free here",
    ]
