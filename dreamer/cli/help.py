"""Help on one screen: the options that most runs need, presets and examples. `--help-all` lists all options."""

from __future__ import annotations

import re
import shutil
import textwrap
import warnings
from collections.abc import Collection, Iterator
from typing import Any

import tyro

from dreamer.presets import PURPOSES
from dreamer.system.redaction import visible

COMMON = (
    "--task",
    "--preset",
    "--size",
    "--core",
    "--objective",
    "--obs",
    "--steps",
    "--seed",
    "--device",
    "--devices",
    "--env-import",
    "--loop.replay-ratio",
    "--agent.optimizer.learning-rate",
    "--tracking.wandb",
)
"""Settings of a run in the short help of commands that take them all."""
EXAMPLES = {
    "train": (
        "dreamer train --task dmc:walker_walk --preset dmc_fast --run-dir runs/a",
        "dreamer train --resume runs/a --steps 200000",
        "dreamer train --core mdn_rnn --match-params --seed 1",
        "dreamer train --task gym:Pendulum-v1 --tracking.wandb off",
    ),
    "sweep": (
        "dreamer sweep --tasks dmc:cartpole_swingup --vary agent.optimizer.learning-rate=1e-4,4e-4 --folder runs/lr",
        "dreamer sweep --folder runs/lr",
        "dreamer sweep --tasks dmc:walker_walk --vary agent.imagination-horizon=5..30 --samples 8 --dry-run",
    ),
    "ablate": (
        "dreamer ablate --tasks dmc:cartpole_swingup --cores rssm,gru --seeds 3 --folder runs/cores",
        "dreamer ablate --folder runs/cores",
    ),
    "bench": ("dreamer bench --preset dmc_fast --cores all", 'dreamer bench --against "--size 12m"'),
}
"""Command -> examples in its short help."""
ALIASES = {
    "--lr": "--agent.optimizer.learning-rate",
    "--gamma": "--agent.world-model.discount-horizon",
    "--discount": "--agent.world-model.discount-horizon",
    "--gae-lambda": "--agent.behavior.lambda_",
    "--ent-coef": "--agent.behavior.entropy",
    "--tau": "--agent.behavior.slow-critic-tau",
    "--horizon": "--agent.imagination-horizon",
    "--env": "--task",
    "--env-id": "--task",
    "--env-name": "--task",
    "--total-timesteps": "--steps",
    "--timesteps": "--steps",
    "--frame-skip": "--env.repeat",
    "--action-repeat": "--env.repeat",
    "--train-ratio": "--loop.replay-ratio",
    "--utd": "--loop.replay-ratio",
    "--seq-len": "--loop.batch-length",
    "--buffer-size": "--replay.capacity",
    "--logdir": "--run-dir",
    "--log-dir": "--run-dir",
    "--output-dir": "--run-dir",
    "--exp-name": "--run-dir",
    "--model": "--core",
    "--dynamics": "--core",
    "--model-size": "--size",
    "--cuda": "--device",
    "--gpu": "--device",
    "--track": "--tracking.wandb",
    "--wandb": "--tracking.wandb",
    "--capture-video": "--loop.video",
    "--save-video": "--loop.video",
    "--eval-freq": "--loop.eval-every",
}
"""Names of options in other code bases -> the options here. The last part of an option's own name is known too."""


def short_help(kind: type[Any], command: str, default: Any) -> list[str]:
    """Return the lines of the short help: a command's own options, `COMMON`, presets and examples."""
    width = min(shutil.get_terminal_size().columns, 110) - 2
    actions = actions_of(kind, default)
    own = [one for one in actions if not one.dest.startswith("config.")]
    common = [one for name in COMMON for one in actions if name in one.option_strings]
    lines = [f"usage: dreamer {command} [OPTIONS]", "", *textwrap.wrap(" ".join(str(kind.__doc__).split()), width), ""]
    for one in [*common, *own]:
        lines += _option(one, width)
    names = max(map(len, PURPOSES))
    lines += ["", "presets:", *(f"  {name:<{names}}  {purpose}" for name, purpose in PURPOSES.items())]
    lines += ["", "examples:", *(f"  {line}" for line in EXAMPLES.get(command, ()))]
    return [*lines, "", f"`dreamer {command} --help-all` lists all {len(actions)} options, with their ranges."]


def suggestions(kind: type[Any], default: Any, unknown: Collection[str]) -> list[str]:
    """Return the options for which these unknown ones are known names."""
    options = [name for one in actions_of(kind, default) for name in one.option_strings]
    found = dict[str, None]()
    for word in unknown:
        name = word.replace("_", "-")
        ends = [option for option in options if option.endswith("." + name.removeprefix("--"))]
        alias = ALIASES.get(name, "")
        found |= dict.fromkeys([one for one in (alias, f"{alias}s") if one in options] or ends[:2])
    return list(found)


def actions_of(kind: type[Any], default: Any) -> list[Any]:
    """Return the options of the parser of a dataclass, without --help."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        parser = tyro.extras.get_parser(kind, **({} if default is None else {"default": default}))
    return [action for action in parser._actions if action.dest != "help"]


def _option(action: Any, width: int) -> Iterator[str]:
    """Yield the lines of one option: name and values, then the first clause of its help, its choices and default."""
    values = str(action.metavar or "").replace("{None}|", "").replace("[STR [STR ...]]", "STR ...")
    text, default, rest = str(action.help).replace("%%", "%").removesuffix(" (repeatable)").rpartition(" (default: ")
    text, value = (text, re.split(r"; \S|\)$", rest)[0]) if default else (rest, "")
    sentence = re.sub(r"(?<!\.)[.;]$", "", re.split(r"(?<=[^.][.;])\s", text)[0])  # "0, 1, ..." keeps its dots
    if values.startswith("{"):
        choices, values = values.strip("{}").split(","), "NAME"
        listed = set(PURPOSES) <= set(choices) or all(re.search(rf"\b{choice}\b", sentence) for choice in choices)
        sentence += "" if listed else f": {', '.join(choices)}"
    shown = visible(value) if value not in ("", "None", "''", "False") else ""
    described = sentence + (f" [{shown}]" if shown else "")
    head = f"  {action.option_strings[0]} {values}".rstrip()
    first = f"{head:<27} " if len(head) <= 27 else f"{head}\n{'':<28}"
    wrapped = textwrap.wrap(described, width - 28, break_on_hyphens=False) or [""]
    yield from f"{first}{wrapped[0]}".split("\n")
    yield from (f"{'':<28}{line}" for line in wrapped[1:])
