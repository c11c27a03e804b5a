"""Ranges of settings: the bounds on the fields of a dataclass, their check and their wording.

Every number of every setting has a lower and an upper bound, as `annotated_types` on its field. The bounds are far
outside useful values, and no product of two settings within them overflows.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from numbers import Real
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_args

from annotated_types import Ge, GroupedMetadata, Gt, Interval, Le, Lt

from envs.errors import UserError, first_line

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")

LARGE = 10**12
Few = Annotated[int, Interval(ge=1, le=1000)]
"""Number of things that take a file, a process or much memory each."""
FewOrNone = Annotated[int, Interval(ge=0, le=1000)]
Many = Annotated[int, Interval(ge=1, le=65_536)]
"""Size of an axis of a tensor."""
ManyOrNone = Annotated[int, Interval(ge=0, le=65_536)]
Several = Annotated[int, Interval(ge=2, le=65_536)]
Count = Annotated[int, Interval(ge=1, le=LARGE)]
"""Number of steps, rows or updates."""
CountOrNone = Annotated[int, Interval(ge=0, le=LARGE)]
Schedule = Annotated[int | float, Interval(ge=0, le=LARGE)]
"""Fraction of the planned updates, or above 1 a number of updates; 0 means none."""
Layers = Annotated[int, Interval(ge=1, le=32)]
LayersOrNone = Annotated[int, Interval(ge=0, le=32)]
Pixels = Annotated[int, Interval(ge=1, le=4096)]
"""Height or width of an image."""
Seed = Annotated[int, Interval(ge=0, lt=2**63)]
Fraction = Annotated[float, Interval(ge=0, le=1)]
Probability = Annotated[float, Interval(ge=0, lt=1)]
Rate = Annotated[float, Interval(gt=0, le=1)]
Deviation = Annotated[float, Interval(ge=1e-6, le=100)]
"""Standard deviation or temperature, by which something is divided."""
Positive = Annotated[float, Interval(gt=0, le=1_000_000)]
NonNegative = Annotated[float, Interval(ge=0, le=1_000_000)]
LONGEST = 60
"""Largest number of characters of a wrong value that a message quotes."""


def checked(settings: T, name: Callable[[str], str] = str) -> T:
    """Return the same settings; raises `UserError` for the first value of a wrong type or out of its range.

    `name` turns the dotted path of a setting into the name that the message uses.
    """
    if not any(dataclasses.is_dataclass(value) or isinstance(value, Real) for value in vars(settings).values()):
        return settings  # without a number there is nothing to check, and pydantic need not be loaded
    return parsed(type(settings), dataclasses.asdict(settings), name)  # type: ignore[call-overload]


def parsed(kind: type[T], values: dict[str, Any], name: Callable[[str], str] = str) -> T:
    """Return the settings with these nested values; raises `UserError` as `checked` does."""
    from pydantic import ValidationError

    for path, text in _texts(values):
        if any("\ud800" <= character <= "\udfff" for character in text):  # a byte that is not UTF-8
            raise UserError(f"{name(path)}: must be UTF-8 text (got {_short(text)})")
    hashable: Any = kind
    try:
        return adapter(hashable).validate_python(values)
    except ValidationError as error:
        raise UserError(violation(error, name)) from None


def _texts(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield all text in nested values with its dotted path."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _texts(inner, f"{path}.{key}".lstrip("."))
    elif isinstance(value, tuple | list):
        for inner in value:
            yield from _texts(inner, path)


def violation(error: Exception, name: Callable[[str], str] = str) -> str:
    """Return the first violation of an error of pydantic, with its place and the value; of another, its first line."""
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return first_line(error)
    first = error.errors(include_url=False)[0]
    place, message = name(".".join(map(str, first["loc"])))[:80], first["msg"].removeprefix("Value error, ")
    value = "" if first["type"] in ("missing", "json_invalid") else f" (got {_short(first['input'])})"
    return f"{place}{': ' if place else ''}{message[0].lower()}{message[1:]}{value}"


def flag(path: str) -> str:
    """Return the option of a setting by its dotted path, in a configuration or in the arguments of a command."""
    return "--" + path.removeprefix("config.").removeprefix("settings.").replace("_", "-")


def range_of(hint: Any) -> str:
    """Return the range of a number in words, "" where a type has none; of a tuple, that of its first number."""
    bounds = list(_bounds(hint))
    lower = [f"above {one.gt:g}" if isinstance(one, Gt) else f"{one.ge}" for one in bounds if isinstance(one, Gt | Ge)]
    upper = [f"below {one.lt}" if isinstance(one, Lt) else f"{one.le}" for one in bounds if isinstance(one, Lt | Le)]
    return f"{lower[0]} to {upper[0]}" if lower and upper else ""


def _bounds(hint: Any) -> Iterator[Any]:
    for entry in getattr(hint, "__metadata__", ()):
        yield from entry if isinstance(entry, GroupedMetadata) else (entry,)
    for inner in get_args(hint):
        yield from _bounds(inner)


@functools.cache
def adapter(kind: Any) -> TypeAdapter[Any]:
    """Return the validator of a type."""
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python writes no integer of more than 4,300 digits
        return "a number of more than 4,300 digits"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}... of {len(text)} characters"
