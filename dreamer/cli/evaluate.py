"""`dreamer evaluate`: runs episodes without learning."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import tyro

import envs
from dreamer.behavior.acting import ActionMode
from dreamer.cli.configuration import with_current_names
from dreamer.cli.parsing import parse
from dreamer.config import DeviceName, words
from dreamer.errors import UserError
from dreamer.planning import PlanningConfig
from dreamer.planning.cem import CEM
from dreamer.planning.mppi import MPPI
from dreamer.runs.folder import open_run
from dreamer.system.device import choose_device
from dreamer.system.redaction import show, warn
from dreamer.training import launch
from dreamer.training.evaluate import Evaluator
from dreamer.training.load import load_with_step
from dreamer.training.video import record_video
from envs.ranges import Few, NonNegative, Probability, Seed

MODES = get_args(ActionMode)
RENAMED_OPTIONS = {"film": "video"}
"""Old name of an option -> its present name."""


@dataclass(frozen=True)
class EvaluateArguments:
    """Run episodes of a trained agent without learning, and print their returns."""

    run: tyro.conf.Positional[Path]
    """Run folder."""
    episodes: Few = 10
    """Number of episodes."""
    mode: Literal["sample", "mode", "both"] = "both"
    """Actions: samples of the policy, its mode, or one evaluation with each. The latent is sampled."""
    deterministic: bool = False
    """Take the mode of policy and latent, in one evaluation in place of those of --mode: the same observations give the
    same actions."""
    plan: Literal["auto", "off", "cem", "mppi"] = "auto"
    """Act with a planner, in one evaluation in place of those of --mode; auto is what the run trained with."""
    cem: CEM = field(default_factory=CEM)
    """Settings of `--plan cem`."""
    mppi: MPPI = field(default_factory=MPPI)
    """Settings of `--plan mppi`."""
    seed: Seed = 0
    """Random seed of the environments; training never uses the same ones."""
    checkpoint: str | None = None
    """Checkpoint: a step, or `best` for that of the best evaluation in training; the default is the newest."""
    video: Path | None = None
    """File to record an MP4 video of one episode to."""
    device: DeviceName = "auto"
    """Device of the networks; auto takes the first available of cuda, mps and cpu; cuda:N is GPU N."""
    hide: tuple[str, ...] = ()
    """Observations to replace by zeros (keys, or `velocities`), in addition to those hidden during training."""
    flicker: Probability | None = None
    """Probability that an observation is replaced by zeros; the default is the run's own."""
    obs_noise: NonNegative | None = None
    """Standard deviation of Gaussian noise added to vectors and images; the default is the run's own."""
    env_import: tuple[str, ...] = ()
    """Modules, trusted by you, that the run imports to register its environments."""
    json: bool = False
    """Print one JSON object."""


def run(argv: Sequence[str]) -> int:
    """Evaluate with each kind of action, and record a video when asked to."""
    args = parse(EvaluateArguments, "evaluate", with_current_names(argv, RENAMED_OPTIONS))
    if args.deterministic and args.mode == "sample":
        raise UserError("--deterministic takes the modes of policy and latent; leave out --mode sample")
    device = choose_device(args.device)
    factory = _factory(args)
    agent, step = load_with_step(args.run, device, args.checkpoint)
    if args.plan != "auto":
        agent.planner = PlanningConfig(args.plan, args.cem, args.mppi).make()
    evaluator = Evaluator(factory, args.episodes, args.seed)
    report: dict[str, Any] = {"run": str(args.run), "task": factory.task, "step": step, "episodes": args.episodes}
    kinds = ["deterministic"] if args.deterministic else [kind for kind in MODES if args.mode in (kind, "both")]
    if agent.planner is not None:
        kinds = [type(agent.planner).__name__.lower()]
    for kind in kinds:
        mode: ActionMode = "sample" if kind == "sample" else "mode"
        start = time.perf_counter()
        result = evaluator.run(agent, mode, deterministic=args.deterministic)
        returns, seconds = result.returns, time.perf_counter() - start
        report[kind] = {"mean": returns.mean(), "std": returns.std(), "returns": returns.tolist()}
        report[kind]["seconds_per_step"] = seconds / result.lengths.max()
        if not args.json:
            spread = f"{returns.mean():.1f} +- {returns.std():.1f} over {args.episodes} episodes"
            extremes = f"(worst {returns.min():.1f}, best {returns.max():.1f})"
            show(f"{kind:>6} actions: return {spread} {extremes}, step {step:,}")
    evaluator.close()
    if args.json:
        show(json.dumps(report))
    if args.video is not None:
        warn(f"video: {record_video(agent, factory, args.video, args.seed)}")
    return 0


def _factory(args: EvaluateArguments) -> envs.EnvFactory:
    """Return the constructor of the run's environments, with the changes that the arguments ask for."""
    video = "" if args.video is None else f", video={str(args.video)!r}"
    advice = f"dreamer.evaluate(path, {{}}{video}) in Python"
    own = launch.make_factory_of(open_run(args.run), trusted=args.env_import, advice=advice)
    noise = {"flicker": args.flicker, "obs_noise": args.obs_noise}
    given = {name: value for name, value in noise.items() if value is not None}
    return replace(own, seed=args.seed, settings=own.settings.changed({"blank": words(args.hide), **given}))
