"""Launchers of the runs of a sweep (`--on`). A new one is a file here and an entry in `LAUNCHERS`.

local    child processes on this machine
slurm    jobs of Slurm, by submitit
ray      tasks of Ray
remote   a child process on another machine, for slurm and ray
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator

from dreamer.errors import UserError
from dreamer.experiments.ablation.jobs import Launcher
from dreamer.experiments.ablation.launchers.local import Local
from dreamer.experiments.ablation.launchers.ray import Ray
from dreamer.experiments.ablation.launchers.slurm import Slurm
from dreamer.experiments.ablation.manifest import Cluster, SweepArguments

LAUNCHERS: dict[str, type[Local] | type[Slurm] | type[Ray]] = {"local": Local, "slurm": Slurm, "ray": Ray}
"""Value of --on -> launcher."""


def launcher_of(args: SweepArguments) -> Launcher:
    """Return the launcher that `--on` names; raises `UserError` for another name and for options that it lacks."""
    if args.on not in LAUNCHERS:
        raise UserError(f"--on {args.on}: there is no such launcher; choose from {', '.join(LAUNCHERS)}")
    kind = LAUNCHERS[args.on]
    for name, _ in _given(args):
        if name not in kind.OPTIONS:
            users = [other for other, known in LAUNCHERS.items() if name in known.OPTIONS]
            raise UserError(f"--cluster.{name} does nothing with --on {args.on}; it is for --on {' or '.join(users)}")
    return kind(args)


def flags_of(args: SweepArguments) -> str:
    """Return the options that start the same launcher again, with a space in front; empty for the default."""
    own = [f" --on {args.on}"] if args.on != "local" else []
    return "".join([*own, *(f" --cluster.{name} {shlex.quote(str(value))}" for name, value in _given(args))])


def _given(args: SweepArguments) -> Iterator[tuple[str, object]]:
    """The options of --cluster that differ from their defaults."""
    for field in dataclasses.fields(Cluster):
        if (value := getattr(args.cluster, field.name)) != field.default:
            yield field.name, value
