"""`dreamer bench`: measures the cost of updates and of acting."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from dreamer.cli.configuration import defaults, with_current_names
from dreamer.cli.parsing import parse
from dreamer.experiments.bench.bench import BenchArguments, bench
from dreamer.system.redaction import show

TASK = "dmc:walker_walk"


def run(argv: Sequence[str]) -> int:
    """Measure one configuration, or several in turn, and print the result."""
    argv = _with_joined_value(with_current_names(argv), "--against")
    args = _arguments(argv, "dmc_proprio")
    other = None
    if args.against:
        changes = with_current_names(shlex.split(args.against))
        other = _arguments([*argv, *changes], args.config.preset).config
    show(*bench(args, other).split("\n"))
    return 0


def _arguments(argv: Sequence[str], preset: str) -> BenchArguments:
    return parse(BenchArguments, "bench", argv, default=BenchArguments(defaults(argv, preset, task=TASK)))


def _with_joined_value(argv: Sequence[str], option: str) -> list[str]:
    """Return the arguments with `option VALUE` as one word, since the value may begin with dashes."""
    if option not in argv[:-1]:
        return list(argv)
    place = argv.index(option)
    return [*argv[:place], f"{option}={argv[place + 1]}", *argv[place + 2 :]]
