"""The settings of an environment: its time scale, what the agent observes, and how frames are drawn."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Interval

from envs.errors import UserError, did_you_mean
from envs.ranges import CountOrNone, Few, NonNegative, Pixels, Probability, checked

Observations = Literal["state", "pixels", "both"]
Size = tuple[Pixels, Pixels]
"""Height and width in pixels."""
LONGEST_LITERAL = 10_000
"""Longest text of an argument that is read as a literal, in characters."""


@dataclass(frozen=True)
class TaskSettings:
    """Settings that belong to the task that an agent learns; a run keeps them in its configuration."""

    repeat: Few = 1
    """Environment steps per agent step (action repeat); rewards are summed."""
    time_limit: CountOrNone = 0
    """Environment steps after which an episode is truncated; 0 keeps the task's own limit."""
    extend_limit: bool = field(default=True, metadata={"before": False})
    """Let a longer time_limit replace a shorter limit of the task."""
    kwargs: tuple[str, ...] = ()
    """Arguments of the environment's constructor, as key=value; values are Python literals, and otherwise text."""
    obs: Observations = "state"
    """Observations of the agent: the environment's own, the frame that it draws, or both."""
    image_size: Size = (64, 64)
    """Height and width of observed images; other sizes are resized."""
    encoding: Literal["bounds", "dtype"] = field(default="bounds", metadata={"before": "dtype"})
    """Kinds of observations. bounds: uint8 from 0 to 255 with two axes or more are images, discrete values and integers
    of few values are one-hot vectors, all others are vectors. dtype (older versions): uint8 with three axes are images,
    all others are vectors."""
    images: tuple[str, ...] = ()
    """Observations to take as images, whatever their dtype; their bounds become 0 and 255."""
    vectors: tuple[str, ...] = ()
    """Observations to take as vectors, whatever their bounds."""
    camera: Annotated[int, Interval(ge=-1, le=1000)] | None = None
    """Camera for frames of dmc tasks, -1 for the free camera; None takes the task's default."""
    shadows: bool = True
    """Draw dmc tasks with shadows and reflections, which take most of the time without a graphics card."""
    hide: tuple[str, ...] = ()
    """Observations to remove: keys, or `velocities` for all that are known to be velocities."""
    flicker: Probability = 0.0
    """Probability that a whole observation is replaced by zeros, the first of an episode included."""
    obs_noise: NonNegative = 0.0
    """Standard deviation of the Gaussian noise added to vectors and, in units of 255, to images. Discrete values have
    none."""


@dataclass(frozen=True)
class EnvSettings(TaskSettings):
    """All settings of an environment: those of its task, and those for evaluation and videos."""

    cap: CountOrNone = 0
    """Environment steps after which an episode is truncated, if its own limit is not shorter; 0 is none."""
    blank: tuple[str, ...] = ()
    """Observations to replace by zeros, for an agent that was trained on them; names as for `hide`."""
    render_size: Size = (256, 256)
    """Height and width of the frames of dmc tasks that `render()` returns."""

    @classmethod
    def of(cls, task: TaskSettings) -> EnvSettings:
        """The settings of a task, which may be part of a larger configuration."""
        return cls(**{field.name: getattr(task, field.name) for field in dataclasses.fields(TaskSettings)})

    def changed(self, changes: Mapping[str, Any]) -> EnvSettings:
        """A copy with other values, all of them in range.

        Raises UserError for a name that is not a setting (with the closest names) and for a value out of range.
        """
        names = [field.name for field in dataclasses.fields(self)]
        for name in changes:
            if name not in names:
                hint = did_you_mean(name, names)
                raise UserError(f"no environment setting '{name}'; {hint}settings are {', '.join(names)}")
        return checked(dataclasses.replace(self, **changes))


DEFAULTS = EnvSettings()


def arguments_of(words: Sequence[str]) -> dict[str, Any]:
    """Arguments by name from words `key=value`; a value is a number, a boolean, None, a list or dict of those, or text.

    No word runs code. Raises UserError for one that is not `key=value`, and for a key that is given twice.
    """
    arguments: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not (equals and key.isidentifier()):
            raise UserError(f"kwargs: {word[:100]!r} is not key=value, such as size=5")
        if key in arguments:
            raise UserError(f"kwargs: {key} is given twice")
        arguments[key] = _literal(text)
    return arguments


def _literal(text: str) -> Any:
    words = {"true": True, "false": False, "none": None, "null": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text) if len(text) <= LONGEST_LITERAL else text
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return text
