"""`dreamer train`: trains a new agent, or resumes a run."""

from __future__ import annotations

import math
import os
import re
import shlex
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from dreamer.cli.configuration import defaults, with_current_names
from dreamer.cli.devices import start_ranks
from dreamer.cli.parsing import option_of, parse, trusted_words
from dreamer.config import Config
from dreamer.errors import UserError
from dreamer.runs.folder import default_path, open_run
from dreamer.runs.trust import agreement
from dreamer.system import ranks
from dreamer.system.redaction import print_own_lines_only, show, warn
from dreamer.tracking.destination import as_kept, flags, foreign
from dreamer.tracking.video import evaluation_videos
from dreamer.training import launch
from dreamer.training.loop import Result
from dreamer.training.plan import few_updates
from envs.process import stopped_status


@dataclass(frozen=True)
class TrainArguments:
    """Train a Dreamer agent: it learns a world model, and its policy learns from imagined rollouts."""

    config: Annotated[Config, tyro.conf.arg(name="")]
    """Configuration of the run."""
    run_dir: Path | None = None
    """Folder of the new run; the default is runs/<task>_<core>_<size>_seed<seed>_<time>."""
    resume: Path | None = None
    """Folder of a run to resume from its newest checkpoint. With --steps N, a finished run is extended."""
    start_from: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    """Folder of a run whose newest checkpoint gives the new run its initial weights. With --resume, it names again
    where a run that never began takes them from."""
    load: str = "all"
    """Weights to take from --from: all, world_model, or parts separated by commas (encoder,dynamics,reward). Tensors of
    parts whose shapes differ keep their initial values, and one line lists them."""
    match_params: bool = False
    """Change the core's width until the agent has as many parameters as with the rssm core, within 2 %."""


def run(argv: Sequence[str]) -> int:
    """Train and print the results; returns 0, 130 after an interrupt or 75 after another stop signal."""
    if ranks.started() > 1 and int(os.environ.get("RANK", 0)):
        print_own_lines_only()
    args = arguments(argv)
    if args.config.devices > 1 and ranks.started() == 1:
        return start_ranks(args.config, argv)
    try:
        status = _train(args, argv)
        ranks.leave()
    except UserError as error:
        if ranks.number() == 0:
            raise
        warn(f"dreamer: {error}", own=True)
        return 2
    return status


def _train(args: TrainArguments, argv: Sequence[str]) -> int:
    result = _resume(args, argv) if args.resume is not None else _start(args, argv)
    trusted, destination = agreement(args.config), flags(foreign(as_kept(args.config.tracking, result.path)))
    if result.status == "interrupted":
        show(f"stopped; resume with: dreamer train --resume {shlex.quote(str(result.path))}{trusted}{destination}")
        return stopped_status(result.stopped_by)
    _print_result(result, trusted, destination)
    few = few_updates(args.config, result.updates, result.step)
    if few and args.config.tracking.console:
        warn(f"warning: {few}")
    return 0


def arguments(argv: Sequence[str]) -> TrainArguments:
    """Return the arguments of `dreamer train`; raises `UserError` for impossible ones."""
    argv = with_current_names(argv)
    resumed = option_of(argv, "--resume")
    base = open_run(Path(resumed)).config if resumed is not None else defaults(argv, "quick")
    return parse(TrainArguments, "train", argv, default=TrainArguments(base))


def _start(args: TrainArguments, argv: Sequence[str]) -> Result:
    run_dir = args.run_dir
    if run_dir is None and os.environ.get("WANDB_SWEEP_ID") and (name := os.environ.get("WANDB_RUN_ID")):
        run_dir = default_path(args.config, re.sub(r"[^\w-]", "_", name))
        if (run_dir / "run.json").exists():  # the sweep starts a run again that was stopped
            warn(f"resuming {run_dir}, which belongs to this run of the sweep")
            source = args.start_from if open_run(run_dir).never_began else None
            return launch.resume(run_dir, trusted=trusted_words(argv), start_from=source)
    source, load, match = args.start_from, args.load, args.match_params
    return launch.train(args.config, run_dir=run_dir, start_from=source, load=load, match=match)


def _resume(args: TrainArguments, argv: Sequence[str]) -> Result:
    assert args.resume is not None
    if args.run_dir or args.load != "all" or args.match_params:
        raise UserError("--resume keeps the run as it is and takes no --run-dir, --load or --match-params")
    trusted = trusted_words(argv)
    return launch.resume(args.resume, config=args.config, trusted=trusted, start_from=args.start_from)


def _print_result(result: Result, trusted: str, destination: str) -> None:
    values, path = defaultdict(lambda: math.nan, result.evaluation), result.path
    videos = evaluation_videos(path)
    quoted = shlex.quote(str(path))
    show(
        "",
        f"final evaluation over {values['eval/episodes']:.0f} episodes: "
        f"return {values['eval/return_mean']:.1f} +- {values['eval/return_std']:.1f} with sampled actions "
        f"(worst {values['eval/return_min']:.1f}, best {values['eval/return_max']:.1f}), "
        f"{values['eval/mode_return_mean']:.1f} +- {values['eval/mode_return_std']:.1f} with the policy's mode",
        f"run folder  {path}",
        f"curve       {path / 'curve.png'}",
        *(f"video       {video}" for _, video in videos[-1:]),
        "",
        f"next        dreamer evaluate {quoted} --episodes 20{trusted}",
        f"            dreamer imagine {quoted}{trusted}",
        f"            dreamer report {quoted}",
        f"            dreamer train --resume {quoted} --steps {2 * result.step}{trusted}{destination}",
    )
