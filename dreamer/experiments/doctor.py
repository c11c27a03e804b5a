"""What this machine offers a run."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

from dreamer import run


def doctor() -> str:
    """A few lines about versions, devices, rendering, W&B and disk space."""
    from dreamer.tracking.wandb_session import choose_mode
    from envs.rendering import missing_gl_message, select_backend

    backend = select_backend()
    versions = ", ".join(f"{name} {run.package_version(name)}" for name in run.VERSIONED)
    mode, reason = choose_mode("auto")
    cuda = f"{torch.cuda.get_device_name(0)}" if torch.cuda.is_available() else "none"
    return "\n".join(
        [
            f"python      {platform.python_version()} on {platform.platform()}",
            f"packages    {versions}",
            f"code        {run.commit()}",
            f"cores       {os.cpu_count()}, torch uses {torch.get_num_threads()} threads",
            f"device      auto takes {run.choose_device('auto')}; cuda: {cuda}",
            f"rendering   {backend or missing_gl_message()}",
            f"W&B         {mode}{f': {reason}' if reason else ''}",
            f"disk        {run.free_bytes(Path('.')) / 2**30:.1f} GB free here",
        ]
    )
