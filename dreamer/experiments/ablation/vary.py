"""Settings that a sweep varies, and the points of a grid or of a random search over them."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dreamer.config import Config, identity, leaves, override, resized, size_settings, validated
from dreamer.errors import UserError
from envs.ranges import flag, parsed

MOST = 100_000
"""Largest number of points."""
Point = tuple[tuple[str, Any], ...]
"""Values of all settings that vary, as pairs of dotted path and value."""
RANGE = ".."


@dataclass(frozen=True)
class Varied:
    """One setting with the values that it takes, or the range that they are drawn from."""

    path: str
    """Dotted path."""
    values: tuple[Any, ...] = ()
    """Listed values; empty for a range."""
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    """True where values of a range are drawn on a logarithmic scale."""
    integer: bool = False
    """True where values of a range are integers."""

    def fitted(self, value: int | float) -> Any:
        """Return a value of the range with four significant digits, or as an integer."""
        rounded = round(value) if self.integer else float(f"{value:.4g}")
        return min(max(rounded, type(rounded)(self.low)), type(rounded)(self.high))

    def draw(self, random: np.random.Generator) -> Any:
        """Return a random value."""
        if self.values:
            return self.values[random.integers(len(self.values))]
        if self.log:
            return self.fitted(math.exp(random.uniform(math.log(self.low), math.log(self.high))))
        return self.fitted(random.uniform(self.low, self.high))


def varied(words: Sequence[str], config: Config) -> tuple[Varied, ...]:
    """Return the settings that `path=VALUE,VALUE` and `path=LOW..HIGH` name, `:log` behind a range included.

    Raises `UserError` for a setting that is unknown, named twice, without values or without effect on what `config`
    learns, and for a value of a wrong type or out of its range.
    """
    found = tuple(_varied(word, config) for word in words)
    names = [one.path for one in found]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"--vary {_option(name)} is given twice; list its values behind one `=`")
    return tuple(sorted(found, key=lambda one: one.path != "size"))  # other settings override those of a size


def grid_points(varied: Sequence[Varied]) -> list[Point]:
    """Return every combination of listed values, in the order in which they are given; one empty point without any."""
    for one in varied:
        if not one.values:
            raise UserError(
                f"--vary {_option(one.path)}: a range has no grid; list values, or draw some with --samples NUMBER"
            )
    if math.prod(len(one.values) for one in varied) > MOST:
        raise UserError(f"--vary: the grid has more than {MOST:,} points; draw some with --samples NUMBER")
    return [
        tuple(zip([one.path for one in varied], values, strict=True))
        for values in itertools.product(*(one.values for one in varied))
    ]


def random_points(varied: Sequence[Varied], samples: int) -> list[Point]:
    """Return different random points, always the same; those of a grid without replacement, and at most all of them."""
    random = np.random.default_rng(0)
    if all(one.values for one in varied) and math.prod(len(one.values) for one in varied) <= MOST:
        points = grid_points(varied)
        return [points[i] for i in sorted(random.permutation(len(points))[:samples])]
    drawn = dict[Point, None]()
    for _ in range(100 * samples):
        drawn[tuple((one.path, one.draw(random)) for one in varied)] = None
        if len(drawn) == samples:
            break
    return list(drawn)


def configured(config: Config, point: Point) -> Config:
    """Return the configuration with the values of a point; raises `UserError` where they do not fit each other.

    Another size changes the widths that the configuration has from its size, not those that were set one by one.
    """
    for path, value in point:
        if path != "size":
            config = override(config, {path: value})
            continue
        before, other = size_settings(config), resized(config, value)
        now = dict(leaves(dataclasses.asdict(config)))
        own = {name: now[name] for name, implied in before.items() if now[name] != implied}
        config = override(other, own)
    return validated(config)


def require_used(varied: Sequence[Varied], configs: Mapping[str, Config]) -> None:
    """Raise `UserError` for a setting that one of the configurations does not use; their names are those of cores."""
    for one in varied:
        for core, config in configs.items():
            if one.path not in identity(config):
                raise UserError(f"--vary {_option(one.path)}: runs with --cores {core} do not use this setting")


def short_names(paths: Sequence[str]) -> dict[str, str]:
    """Return the last parts of each dotted path, as many as tell it from the others."""

    def shortest(path: str) -> str:
        parts = path.split(".")
        for count in range(1, len(parts)):
            name = ".".join(parts[-count:])
            if [other for other in paths if f".{other}".endswith(f".{name}")] == [path]:
                return name
        return path

    return {path: shortest(path) for path in paths}


def word(value: Any) -> str:
    """Return a value of a setting as one word."""
    return ("+".join(map(str, value)) or "none") if isinstance(value, tuple | list) else str(value)


def _option(path: str) -> str:
    """The word of --vary that names a setting."""
    return flag(path).removeprefix("--")


def _varied(given: str, config: Config) -> Varied:
    path, _, text = given.partition("=")
    everything = dict(leaves(dataclasses.asdict(config)))
    if path not in everything:
        raise UserError(f"--vary {given}: {path!r} is no setting; write it as SETTING=VALUE,VALUE")
    if not text.strip(","):
        raise UserError(f"--vary {_option(path)}: name its values, such as {_option(path)}={word(everything[path])}")
    if path == "preset":
        raise UserError("--vary preset: a preset is a set of defaults; begin one sweep with each --preset")
    if path not in identity(config) and not path.startswith(("agent.dynamics.", "agent.world_model.")):
        raise UserError(f"--vary {_option(path)}: it changes neither what is learned nor how it is evaluated")
    low, dots, high = text.partition(RANGE)
    if dots and isinstance(everything[path], int | float) and not isinstance(everything[path], bool):
        return _range(path, config, low, *high.partition(":"))
    values = [_value(config, path, part) for part in text.split(",") if part]
    return Varied(path, tuple(dict.fromkeys(values)))


def _range(path: str, config: Config, low: str, high: str, colon: str, scale: str) -> Varied:
    ends = [_value(config, path, end) for end in (low, high)]
    if colon and scale != "log":
        raise UserError(
            f"--vary {_option(path)}: a range is LOW..HIGH or LOW..HIGH:log, not {low}{RANGE}{high}:{scale}"
        )
    if not ends[0] < ends[1] or (scale and ends[0] <= 0):
        least = "above 0 and " if scale else ""
        raise UserError(
            f"--vary {_option(path)}: the lower end of a range is {least}below the upper (got {low}{RANGE}{high})"
        )
    whole = all(isinstance(end, int) for end in ends)
    return Varied(path, low=float(ends[0]), high=float(ends[1]), log=bool(scale), integer=whole)


def _value(config: Config, path: str, text: str) -> Any:
    """The value of a setting that a word stands for, which the rest of the configuration fits."""
    before: Any = dict(leaves(dataclasses.asdict(config)))[path]
    raw: Any = tuple(part for part in text.split("+") if part != "none") if isinstance(before, tuple | list) else text
    if text == "none" and before is None:
        raw = None
    tree = dataclasses.asdict(config)
    *sections, name = path.split(".")
    inner = tree
    for section in sections:
        inner = inner[section]
    inner[name] = raw
    try:
        value = dict(leaves(dataclasses.asdict(parsed(Config, tree, flag))))[path]
        configured(config, ((path, value),))
    except UserError as error:
        raise UserError(f"--vary {_option(path)}={text}: {str(error).removeprefix(f'{flag(path)}: ')}") from None
    return value


def described(point: Point) -> Iterator[str]:
    """Yield `name=value` of every setting of a point, by its short name."""
    names = short_names([path for path, _ in point])
    yield from (f"{names[path]}={word(value)}" for path, value in point)
