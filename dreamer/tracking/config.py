"""Settings of the tracker, in a file of their own because the views import them, too."""

from dataclasses import dataclass, field
from typing import Literal

from envs.ranges import NonNegative


@dataclass(frozen=True)
class TrackingConfig:
    """Views of a run in training. metrics.jsonl is always written."""

    wandb: Literal["auto", "online", "offline", "off"] = "auto"
    """W&B mode: `auto` is online when logged in, otherwise offline, and follows WANDB_MODE."""
    wandb_project: str = ""
    """W&B project; empty for WANDB_PROJECT, or else dreamer."""
    wandb_entity: str = ""
    """W&B user or team; empty for WANDB_ENTITY, or else the default of the account."""
    wandb_name: str = ""
    """W&B name of this run; empty for WANDB_NAME, or else the name of its folder."""
    wandb_group: str = ""
    """W&B group of this run; empty for WANDB_RUN_GROUP, or else one for all seeds of this configuration."""
    wandb_tags: tuple[str, ...] = ()
    """W&B tags of this run; empty for WANDB_TAGS."""
    wandb_artifact: Literal["off", "last", "best"] = "off"
    """Send the last or the best checkpoint to W&B as a model artifact when the run is finished."""
    git_diff: bool = field(default=True, metadata={"before": False})
    """Keep the uncommitted changes of the code's git checkout in RUN/diff.patch, without secrets and at most 1 MB, and
    send them to W&B."""
    tensorboard: bool = False
    """Write TensorBoard event files to RUN/tensorboard."""
    console: bool = True
    """Show progress on standard output."""
    video: bool = True
    """Send videos and pictures to the views that can show them."""
    close_seconds: NonNegative = 15.0
    """Longest wait in seconds for all views together at the end of a run."""
