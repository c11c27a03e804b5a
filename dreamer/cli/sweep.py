"""`dreamer sweep`: trains every combination of task, core, settings and seed, or a search over settings."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Sequence
from pathlib import Path

from dreamer.cli.configuration import defaults, with_current_names
from dreamer.cli.help import actions_of, suggestions
from dreamer.cli.parsing import HELP, option_of, parse, reading, trusted_words, words_of
from dreamer.errors import UserError
from dreamer.experiments.ablation.manifest import SweepArguments, arguments_of
from dreamer.experiments.ablation.sweep import sweep
from dreamer.runs.trust import check_destination, check_imports

INSTEAD = {
    "--task": "--tasks TASK,TASK",
    "--core": "--cores CORE,CORE",
    "--agent.dynamics.core": "--cores CORE,CORE",
    "--latent": "--cores CORE:LATENT",
    "--agent.dynamics.latent": "--cores CORE:LATENT",
    "--objective": "--objectives NAME,NAME",
    "--agent.world-model.representation.objective": "--objectives NAME,NAME",
    "--seed": "--seeds NUMBER",
}
"""Options of a single run that a sweep does not take -> the options that take their place."""


def run(argv: Sequence[str], kind: type[SweepArguments] = SweepArguments, command: str = "sweep") -> int:
    """Do all runs that are not finished; returns 1 when some failed, 130 after an interrupt, 75 after other signals.

    `kind` has the defaults of the command.
    """
    argv = with_current_names(argv)
    article = "an ablation" if command == "ablate" else "a sweep"
    for option, instead in INSTEAD.items():
        if option_of(argv, option) is not None:
            raise UserError(f"{option}: {article} has several; use {instead}")
    base = _base(argv, kind)
    args = parse(kind, command, argv, default=base, hidden=INSTEAD)
    vary = tuple(_by_path(word, kind, base) for word in args.vary)
    return sweep(dataclasses.replace(args, vary=vary), "ablation" if command == "ablate" else command)


def _base(argv: Sequence[str], kind: type[SweepArguments]) -> SweepArguments:
    """Return the default arguments: those of the sweep in `--folder` where the options name no tasks."""
    folder = option_of(argv, "--folder")
    if folder is None or option_of(argv, "--tasks") is not None or HELP & set(argv):
        return kind(defaults(argv, "quick"))
    base = arguments_of(Path(folder))
    check_imports(base.config, words_of(argv, "--env-import"), Path(folder), base.tasks)
    check_destination(base.config.tracking, trusted_words(argv), Path(folder))
    return kind(**{field.name: getattr(base, field.name) for field in dataclasses.fields(base)})


def _by_path(word: str, kind: type[SweepArguments], base: SweepArguments) -> str:
    """Return a word of --vary with the dotted path of its setting; raises `UserError` for one that is none."""
    name, equals, values = word.partition("=")
    option = with_current_names([f"--{name.lstrip('-').replace('_', '-')}"])[0]
    if option in INSTEAD:
        raise UserError(f"--vary {name}: use {INSTEAD[option]}")
    with reading():
        paths = {flag: action.dest for action in actions_of(kind, base) for flag in action.option_strings}
        known = suggestions(kind, base, [option])
    path = paths.get(option) or paths.get(f"--{name.lstrip('-')}", "")
    if path.startswith("config."):
        return path.removeprefix("config.").replace("-", "_") + equals + values
    if path:
        raise UserError(f"--vary {name}: it is an option of the sweep itself, not a setting of its runs")
    settings = [flag for flag, path in paths.items() if path.startswith("config.") and flag not in INSTEAD]
    known = [flag for flag in known if flag in settings] or difflib.get_close_matches(option, settings, n=2)
    close = f"; did you mean {', '.join(flag.removeprefix('--') for flag in known)}?" if known else ""
    raise UserError(f"--vary {name}: unknown setting{close}; see `dreamer sweep --help-all`")
