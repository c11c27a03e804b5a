"""`dreamer ablate`: trains every combination of task, core and seed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dreamer.cli.configuration import defaults, with_current_names
from dreamer.cli.parsing import HELP, option_of, parse, trusted_words, words_of
from dreamer.errors import UserError
from dreamer.experiments.ablation.ablate import ablate
from dreamer.experiments.ablation.manifest import AblateArguments, arguments_of
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
"""Options of a single run that an ablation does not take -> the options that take their place."""


def run(argv: Sequence[str]) -> int:
    """Do all runs that are not finished; returns 1 when some failed, 130 after an interrupt, 75 after other signals."""
    argv = with_current_names(argv)
    for option, instead in INSTEAD.items():
        if option_of(argv, option) is not None:
            raise UserError(f"{option}: an ablation has several; use {instead}")
    return ablate(parse(AblateArguments, "ablate", argv, default=_base(argv), hidden=INSTEAD))


def _base(argv: Sequence[str]) -> AblateArguments:
    """Return the default arguments: those of the ablation in `--folder` where the options name no tasks."""
    folder = option_of(argv, "--folder")
    if folder is None or option_of(argv, "--tasks") is not None or HELP & set(argv):
        return AblateArguments(defaults(argv, "quick"))
    base = arguments_of(Path(folder))
    check_imports(base.config, words_of(argv, "--env-import"), Path(folder), base.tasks)
    check_destination(base.config.tracking, trusted_words(argv), Path(folder))
    return base
