"""What the words after `dreamer train` and `dreamer evaluate` can say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from dreamer.config import Config, DeviceName
from dreamer.training.load import Load


@dataclass(frozen=True)
class TrainArguments:
    """Train an agent in its own imagination."""

    config: Annotated[Config, tyro.conf.arg(name="")]
    """Configuration of the run."""
    run_dir: Path | None = None
    """Run folder to make; default runs/<task>_<core>_<size>_seed<seed>_<time>."""
    resume: Path | None = None
    """Run folder to go on with, from its newest checkpoint. --steps N extends a finished run."""
    start_from: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    """Run folder whose newest checkpoint gives a new run its initial weights."""
    load: Load = "all"
    """Which weights --from takes: all, or the world model alone."""
    match_params: bool = False
    """Change the core's width until the agent has as many parameters as with the rssm core, within 2 %."""


@dataclass(frozen=True)
class EvaluateArguments:
    """Run episodes without learning and print their returns."""

    run: tyro.conf.Positional[Path]
    """Run folder."""
    episodes: int = 10
    """Episodes."""
    mode: Literal["sample", "mode", "both"] = "both"
    """Actions: sampled from the policy, its mode, or one evaluation of each."""
    seed: int = 0
    """Seed of the evaluation's environments, which training never uses."""
    film: Path | None = None
    """Also write an MP4 of one episode here."""
    device: DeviceName = "auto"
    """Where the networks run."""
    hide: tuple[str, ...] = ()
    """Observations to replace by zeros (keys, or `velocities`), besides those that the run was trained without."""
    flicker: float | None = None
    """Probability with which a whole observation is zeros; default: the run's own."""
    obs_noise: float | None = None
    """Standard deviation of the noise added to every number observed; default: the run's own."""
    env_import: tuple[str, ...] = ()
    """Modules that the run imports to register its environments, and that you trust to run here."""
    json: bool = False
    """Print one JSON object."""
