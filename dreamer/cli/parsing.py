"""Parsing of command lines; every mistake becomes one line."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
from collections.abc import Collection, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import tyro
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

from dreamer.cli.help import short_help, suggestions
from dreamer.errors import UserError
from dreamer.system.redaction import show, visible
from envs.ranges import checked, flag, range_of

T = TypeVar("T")

REGISTRY = ConstructorRegistry()
"""Rules by which tyro reads the fields of a dataclass, here with ranges in the help."""
HELP = {"-h", "--help", "--help-all"}
_inside: list[StructTypeInfo] = []
"""The type whose fields are being read by tyro's own rules."""
_hidden: list[str] = []
"""Names of fields that are no options of the command."""


def parse(
    kind: type[T], command: str, argv: Sequence[str], default: T | None = None, hidden: Collection[str] = ()
) -> T:
    """Return the arguments of `dreamer COMMAND`, parsed by tyro into the dataclass `kind`.

    `hidden` are options that the command refuses, so that its help does not list them. Where the arguments hold a
    configuration, --help shows the common options alone. Raises `UserError` with one line in place of tyro's framed
    messages.
    """
    prog, errors, argv = f"dreamer {command}", io.StringIO(), _with_plain_booleans(argv, _booleans(kind))
    asked = HELP & set(argv)
    if asked and default is not None:
        default = _printable(default)  # the help shows it, and it may come from a run folder
    extra: dict[str, Any] = {} if default is None else {"default": default}
    with reading(hidden):
        if asked and "--help-all" not in argv and hasattr(default, "config"):
            show(*short_help(kind, command, default))
            raise SystemExit(0)
        try:
            with contextlib.redirect_stderr(errors):
                words = ["--help"] if asked else argv
                parsed = tyro.cli(kind, prog=prog, args=words, description=_joined(kind.__doc__), **extra)
        except SystemExit as stop:
            if not stop.code:
                raise
            message, close = _one_line(errors.getvalue())
            if message.startswith("unrecognized"):
                unknown = re.findall(r"--[\w.-]+", message)
                known = suggestions(kind, default, unknown)
                close = known if len(known) >= len(unknown) else list(dict.fromkeys(known + close))[:3]
                message += f"; did you mean {', '.join(close)}?" if close else ""
            raise UserError(f"{message}; see `{prog} --help`") from None
    return checked(parsed, flag)


@contextlib.contextmanager
def reading(hidden: Collection[str] = ()) -> Iterator[None]:
    """Context in which tyro reads fields by `REGISTRY`, without those of these options."""
    _hidden[:] = [option.removeprefix("--").replace("-", "_") for option in hidden]
    try:
        with REGISTRY:
            yield
    finally:
        _hidden.clear()


@REGISTRY.struct_rule
def _with_ranges(info: StructTypeInfo) -> StructConstructorSpec | None:
    """Add its range to the help of every number, beside its default, and join the lines of every help text."""
    if _inside:
        return None
    _inside.append(info)
    try:
        spec = ConstructorRegistry.get_struct_spec(info)
    finally:
        _inside.pop()
    if not isinstance(spec, StructConstructorSpec):
        return None
    return dataclasses.replace(spec, fields=tuple(_described(field) for field in spec.fields))


def _described(field: StructFieldSpec) -> StructFieldSpec:
    words, markers = range_of(field.type), list[Any]()
    if words:
        markers.append(tyro.conf.arg(help_behavior_hint=lambda default: f"(default: {default}; {words})"))
    if field.name in _hidden:
        markers.append(tyro.conf.Suppress)
    annotated: Any = field.type
    for marker in markers:
        annotated = Annotated[annotated, marker]
    text = field.helptext
    return dataclasses.replace(field, type=annotated, helptext=lambda: _joined(text() if callable(text) else text))


def _joined(text: str | None) -> str:
    """Return a docstring with the lines of each paragraph joined, for the parser to break anew."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in (text or "").split("\n\n"))


def _booleans(kind: type, prefix: str = "") -> set[str]:
    """Return the names of the options of a dataclass that are on or off."""
    found = set()
    for name, hint in get_type_hints(kind, include_extras=True).items():
        named = [one.name for one in getattr(hint, "__metadata__", ()) if getattr(one, "name", None) is not None]
        path, inner = f"{prefix}.{[*named, name][0]}".strip(".").replace("_", "-"), getattr(hint, "__origin__", hint)
        if inner is bool:
            found.add(path)
        elif dataclasses.is_dataclass(inner) and isinstance(inner, type):
            found |= _booleans(inner, path)
    return found


def _with_plain_booleans(argv: Sequence[str], booleans: set[str]) -> list[str]:
    """Return the arguments with `--name=False` and `--name TRUE`, in any case, as `--no-name` and `--name`."""
    plain, words = list[str](), list(argv)
    while words:
        word = words.pop(0)
        option, equals, value = word.partition("=")
        section, dot, last = option.removeprefix("--").replace("_", "-").rpartition(".")
        name = section + dot + last.removeprefix("no-")
        if word.startswith("--") and name in booleans:
            if not equals and words and words[0].lower() in ("true", "false"):
                value = words.pop(0)
            if value.lower() in ("true", "false"):
                no = "no-" if (value.lower() == "false") != last.startswith("no-") else ""
                word = f"--{section}{dot}{no}{last.removeprefix('no-')}"
        plain.append(word)
    return plain


def _printable(value: Any) -> Any:
    """Return the same value with all text in it made printable."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changes = {field.name: _printable(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **changes)
    if isinstance(value, tuple):
        return tuple(_printable(one) for one in value)
    if isinstance(value, Path):
        return Path(visible(str(value)))
    return visible(value) if isinstance(value, str) else value


def _one_line(framed: str) -> tuple[str, list[str]]:
    """Return the message and the options proposed in a text with a title, paragraphs, rules and perhaps a frame."""
    lines = [line.strip("│ ") for line in framed.splitlines()[1:]]
    paragraphs = [list(group) for words, group in groupby(lines, lambda line: bool(line.strip("─-╰╯"))) if words]
    message = " ".join(paragraphs[0]) if paragraphs else "cannot parse the command line"
    message = re.sub(r"'(--[^'/]+)/--[^']+'", r"'\1'", message)  # an option by its short name alone
    options = [line.split()[0].rstrip(",") for lines in paragraphs[1:] for line in lines if line.startswith("--")]
    return message[0].lower() + message[1:].rstrip("."), options


def option_of(argv: Sequence[str], name: str) -> str | None:
    """Return the last value of an option that the defaults of others depend on, or None where it is not given."""
    value = None
    for i, word in enumerate(argv):
        if word == name and i + 1 < len(argv):
            value = argv[i + 1]
        elif word.startswith(f"{name}="):
            value = word.partition("=")[2]
    return value


def trusted_words(argv: Sequence[str]) -> list[str]:
    """Return the modules and W&B destinations (`wandb-entity=NAME`, `wandb-project=NAME`) that the user names."""
    given = {name: option_of(argv, f"--tracking.{name}") for name in ("wandb-entity", "wandb-project")}
    return words_of(argv, "--env-import") + [f"{name}={value}" for name, value in given.items() if value]


def words_of(argv: Sequence[str], name: str) -> list[str]:
    """Return the values of an option that takes several."""
    words: list[str] = []
    taking = False
    for word in argv:
        if word.startswith("--"):
            taking = word.partition("=")[0] == name
            words += [word.partition("=")[2]] if taking and "=" in word else []
        elif taking:
            words.append(word)
    return words
