"""The `dreamer` command: one verb per thing to do.

What a verb needs is imported when it is called, so that no command waits for torch without using it.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from dreamer.command_line import option_of, parse, trusted_words, words_of
from dreamer.errors import UserError
from dreamer.isolation import ignore_current_folder, warnings_told
from dreamer.redaction import redact_command, show, tell

if TYPE_CHECKING:
    import envs
    from dreamer.arguments import EvaluateArguments, TrainArguments
    from dreamer.config import Config
    from dreamer.train import Result

REQUEUE = os.EX_TEMPFAIL
"""Exit status 75 of a run that was asked to stop by SIGTERM and has saved: a scheduler should start it again."""


def train_arguments(argv: Sequence[str]) -> TrainArguments:
    """What the words after `dreamer train` say; raises `UserError` when they say nothing possible."""
    from dreamer import run
    from dreamer.arguments import TrainArguments
    from dreamer.config import compose

    resumed = option_of(argv, "--resume")
    if resumed is not None:
        base = run.open_run(Path(resumed)).config
    else:
        base = compose(option_of(argv, "--preset") or "quick", option_of(argv, "--size"))
    return parse(TrainArguments, "dreamer train", argv, default=TrainArguments(base))


def train_command(argv: Sequence[str]) -> int:
    """`dreamer train`."""
    from dreamer import launch
    from dreamer.tracking.destination import flags, foreign
    from dreamer.trust import agreement

    args = train_arguments(argv)
    try:
        if args.resume is not None:
            if args.run_dir or args.load != "all" or args.match_params:
                raise UserError("--resume goes on as it was, without --run-dir, --load or --match-params")
            trusted = trusted_words(argv)
            result = launch.resume(args.resume, config=args.config, trusted=trusted, start_from=args.start_from)
        else:
            result = launch.train(
                args.config,
                run_dir=args.run_dir,
                start_from=args.start_from,
                load=args.load,
                match=args.match_params,
            )
    except KeyboardInterrupt:
        return 130
    if result.status == "interrupted":
        agreed = agreement(args.config) + flags(foreign(args.config.tracking))
        show(f"stopped; go on with: dreamer train --resume {shlex.quote(str(result.path))}{agreed}")
        return REQUEUE if result.stopped_by == signal.SIGTERM else 130
    _print_result(result, args.config)
    return 0


def evaluate_command(argv: Sequence[str]) -> int:
    """`dreamer evaluate`."""
    from dreamer import launch
    from dreamer.arguments import EvaluateArguments
    from dreamer.config import SEEDS
    from dreamer.evaluate import Evaluator, film

    args = parse(EvaluateArguments, "dreamer evaluate", argv)
    if args.episodes < 1:
        raise UserError(f"--episodes: must be at least 1 (got {args.episodes})")
    if not 0 <= args.seed < SEEDS:
        raise UserError(f"--seed: must be at least 0 and less than {SEEDS} (got {args.seed})")
    agent = launch.load(args.run, args.device)
    factory = _evaluation_factory(args)
    evaluator = Evaluator(factory, args.episodes, args.seed)
    report: dict[str, Any] = {"run": str(args.run), "task": factory.task, "episodes": args.episodes}
    modes: tuple[Literal["sample", "mode"], ...] = ("sample", "mode")
    for mode in modes:
        if args.mode in (mode, "both"):
            returns = evaluator.run(agent, mode).returns
            report[mode] = {"mean": returns.mean(), "std": returns.std(), "returns": returns.tolist()}
            if not args.json:
                spread = f"{returns.mean():.1f} +- {returns.std():.1f} over {args.episodes} episodes"
                show(f"{mode:>6} actions: return {spread} (worst {returns.min():.1f}, best {returns.max():.1f})")
    evaluator.close()
    if args.json:
        show(json.dumps(report))
    if args.film is not None:
        tell(f"film: {film(agent, factory, args.film, args.seed)}")
    return 0


def _evaluation_factory(args: EvaluateArguments) -> envs.EnvFactory:
    """The run's own environments, with the changes that the arguments ask for."""
    from dreamer import launch, run
    from dreamer.config import words

    own = launch.make_factory_of(run.open_run(args.run), trusted=args.env_import)
    flicker = own.flicker if args.flicker is None else args.flicker
    obs_noise = own.obs_noise if args.obs_noise is None else args.obs_noise
    return replace(own, seed=args.seed, blank=words(args.hide), flicker=flicker, obs_noise=obs_noise)


def tasks_command(argv: Sequence[str]) -> int:
    """`dreamer tasks`: list what can be trained."""
    import envs

    @dataclass(frozen=True)
    class TasksArguments:
        """List what can be trained here."""

        contains: tyro.conf.Positional[str] = ""
        """Show only names that contain this."""

    args = parse(TasksArguments, "dreamer tasks", argv)
    names = [name for family in envs.tasks().values() for name in family if args.contains in name]
    if not names:
        raise UserError(f"no task contains {args.contains!r}; `dreamer tasks` lists all")
    show(*names)
    return 0


def bench_command(argv: Sequence[str]) -> int:
    """`dreamer bench`."""
    from dreamer.config import compose
    from dreamer.experiments.bench import BenchArguments, bench

    base = compose(option_of(argv, "--preset") or "dmc_proprio", option_of(argv, "--size"), task="dmc:walker_walk")
    if "--against" in argv[:-1]:  # its value may begin with dashes
        place = argv.index("--against")
        argv = [*argv[:place], f"--against={argv[place + 1]}", *argv[place + 2 :]]
    args = parse(BenchArguments, "dreamer bench", argv, default=BenchArguments(base))
    other = None
    if args.against:
        changed = [*argv, *shlex.split(args.against)]
        size = compose(args.config.preset, option_of(changed, "--size"), task="dmc:walker_walk")
        other = parse(BenchArguments, "dreamer bench", changed, default=BenchArguments(size)).config
    show(*bench(args, other).split("\n"))
    return 0


def doctor_command(argv: Sequence[str]) -> int:
    """`dreamer doctor`."""
    from dreamer.experiments.doctor import doctor

    @dataclass(frozen=True)
    class DoctorArguments:
        """Say what this machine offers: versions, devices, rendering, W&B login, disk space."""

    parse(DoctorArguments, "dreamer doctor", argv)
    show(*doctor().split("\n"))
    return 0


def debug_batch_command(argv: Sequence[str]) -> int:
    """`dreamer debug-batch`."""

    @dataclass(frozen=True)
    class DebugBatchArguments:
        """Repeat an update whose loss or gradient was not finite, and say where that began."""

        file: tyro.conf.Positional[Path]
        """A batch that a run has kept: RUN/faults/batch_<update>.pt."""

    from dreamer.experiments.debug_batch import debug_batch

    show(*debug_batch(parse(DebugBatchArguments, "dreamer debug-batch", argv).file))
    return 0


def exam_command(argv: Sequence[str]) -> int:
    """`dreamer exam`."""
    from dreamer.experiments.exam import ExamArguments, exam

    show(*exam(parse(ExamArguments, "dreamer exam", argv)).split("\n"))
    return 0


def imagine_command(argv: Sequence[str]) -> int:
    """`dreamer imagine`."""
    from dreamer.experiments.imagine import ImagineArguments, imagine

    show(*imagine(parse(ImagineArguments, "dreamer imagine", argv)))
    return 0


def ablate_command(argv: Sequence[str]) -> int:
    """`dreamer ablate`."""
    from dreamer.config import compose
    from dreamer.experiments.ablate import AblateArguments, ablate, arguments_of
    from dreamer.trust import check_destination, check_imports

    for flags, instead in ONE_OF_SEVERAL.items():
        for flag in flags:
            if option_of(argv, flag) is not None:
                raise UserError(f"{flag}: an ablation has several; use {instead}")
    folder = option_of(argv, "--folder")
    if folder is not None and option_of(argv, "--tasks") is None and not {"-h", "--help"} & set(argv):
        base = arguments_of(Path(folder))
        check_imports(base.config, words_of(argv, "--env-import"), Path(folder), base.tasks)
        check_destination(base.config.tracking, trusted_words(argv), Path(folder))
    else:
        base = AblateArguments(compose(option_of(argv, "--preset") or "quick", option_of(argv, "--size")))
    try:
        return ablate(parse(AblateArguments, "dreamer ablate", argv, default=base))
    except KeyboardInterrupt:
        return 130


def report_command(argv: Sequence[str]) -> int:
    """`dreamer report`."""
    from dreamer.experiments.report import ReportArguments, report

    show(*report(parse(ReportArguments, "dreamer report", argv)))
    return 0


def diagnose_command(argv: Sequence[str]) -> int:
    """`dreamer diagnose`."""
    from dreamer.experiments.diagnose import DiagnoseArguments, diagnose

    lines, sick = diagnose(parse(DiagnoseArguments, "dreamer diagnose", argv))
    show(*lines)
    return 1 if sick else 0


def track_command(argv: Sequence[str]) -> int:
    """`dreamer track`."""
    from dreamer.experiments.track import TrackArguments, track

    show(*track(parse(TrackArguments, "dreamer track", argv)))
    return 0


ONE_OF_SEVERAL = {
    ("--task",): "--tasks TASK,TASK",
    ("--core", "--agent.dynamics.core"): "--cores CORE,CORE",
    ("--latent", "--agent.dynamics.latent"): "--cores CORE:LATENT",
    ("--objective", "--agent.world-model.representation.objective"): "--objectives NAME,NAME",
    ("--seed",): "--seeds NUMBER",
}
"""Options of a single run that an ablation does not take, and what takes their place."""

COMMANDS: dict[str, tuple[Callable[[Sequence[str]], int], str]] = {
    "train": (train_command, "train an agent, or resume a run"),
    "evaluate": (evaluate_command, "run episodes without learning, film one"),
    "imagine": (imagine_command, "predict held-out episodes, dream freely; traces, films, errors"),
    "tasks": (tasks_command, "list what can be trained"),
    "diagnose": (diagnose_command, "say what is unhealthy about a run, and what to try"),
    "track": (track_command, "show a run in W&B or TensorBoard after the fact"),
    "bench": (bench_command, "measure the cost of an update against the machine's peak"),
    "doctor": (doctor_command, "say what this machine offers"),
    "debug-batch": (debug_batch_command, "repeat an update that was skipped, and say what was not finite"),
    "exam": (exam_command, "measure what each dynamics core can represent, against ground truth"),
    "ablate": (ablate_command, "train for every task, core and seed"),
    "report": (report_command, "a page about a run, or one that compares the cores of an ablation"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; users' mistakes become one line on stderr and exit status 2."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        show(*_usage())
        return 0 if argv else 2
    if redact_command(shlex.join(argv)) != shlex.join(argv):
        tell("dreamer: a word of this command looks like a secret; leave it in the environment")
        return 2
    try:
        if argv[0] not in COMMANDS:
            raise UserError(f"unknown command {argv[0]!r}; choose from {', '.join(COMMANDS)}")
        ignore_current_folder()
        with warnings_told():
            return COMMANDS[argv[0]][0](argv[1:])
    except UserError as error:
        tell(f"dreamer: {error}")
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _usage() -> list[str]:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items()]
    return ["usage: dreamer COMMAND [OPTIONS]", "", *lines, "", "`dreamer COMMAND --help` shows the options."]


def _print_result(result: Result, config: Config) -> None:
    from dreamer.evaluate import evaluation_films
    from dreamer.tracking.destination import flags, foreign
    from dreamer.trust import agreement

    values, path = result.evaluation, result.path
    films = evaluation_films(path)
    quoted, agreed = shlex.quote(str(path)), agreement(config)
    show(
        "",
        f"final evaluation over {values['eval/episodes']:.0f} episodes: "
        f"return {values['eval/return_mean']:.1f} +- {values['eval/return_std']:.1f} with sampled actions "
        f"(worst {values['eval/return_min']:.1f}, best {values['eval/return_max']:.1f}), "
        f"{values['eval/mode_return_mean']:.1f} +- {values['eval/mode_return_std']:.1f} with the policy's mode",
        f"run folder  {path}",
        f"curve       {path / 'curve.png'}",
        *(f"film        {film}" for film in films[-1:]),
        "",
        f"next        dreamer evaluate {quoted} --episodes 20{agreed}",
        f"            dreamer imagine {quoted}{agreed}",
        f"            dreamer report {quoted}",
        f"            dreamer train --resume {quoted} --steps {2 * _last_step(path)}{agreed}"
        + flags(foreign(config.tracking)),
    )


def _last_step(path: Path) -> int:
    from dreamer.tracking import read

    return int(read(path / "metrics.jsonl")[-1]["step"])
