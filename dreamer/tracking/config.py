"""Settings of the tracker, in a file of their own because the views import them, too."""

from dataclasses import dataclass
from typing import Literal

from envs.ranges import NonNegative


@dataclass(frozen=True)
class TrackingConfig:
    """Views of a run in training. metrics.jsonl is always written."""

    wandb: Literal["auto", "online", "offline", "off"] = "auto"
    """W&B mode: `auto` is online when logged in, otherwise offline, and follows WANDB_MODE."""
    wandb_project: str = "dreamer"
    """W&B project."""
    wandb_entity: str = ""
    """W&B user or team; empty for the default of the account."""
    wandb_name: str = ""
    """W&B name of this run; empty for the name of its folder."""
    wandb_group: str = ""
    """W&B group of this run; empty for none."""
    wandb_tags: tuple[str, ...] = ()
    """W&B tags of this run."""
    tensorboard: bool = False
    """Write TensorBoard event files to RUN/tensorboard."""
    console: bool = True
    """Show progress on standard output."""
    video: bool = True
    """Send videos and pictures to the views that can show them."""
    close_seconds: NonNegative = 15.0
    """Longest wait in seconds for all views together at the end of a run."""
