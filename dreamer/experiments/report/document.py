"""A report as a document of sections, tables and media, rendered as HTML or Markdown by the templates in templates/.

Text from outside cannot become markup: the environment of each format escapes every expression of its template.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


@dataclass(frozen=True)
class TableCell:
    """Entry of a table."""

    text: str
    """Text of the entry."""
    link: str = ""
    """Relative path of the file or folder that the text links to."""
    color: str = ""
    """Colour of a mark before the text."""


@dataclass(frozen=True)
class Table:
    """Table whose entries are text or `TableCell`."""

    columns: Sequence[str]
    """Heads of the columns."""
    rows: Sequence[Sequence[str | TableCell]]
    """Rows of entries, one for each column."""
    words: int = 1
    """Number of leading columns that hold words. The others hold numbers, aligned to the right."""


@dataclass(frozen=True)
class Media:
    """Video (.mp4) or picture (.png)."""

    link: str
    """Relative path of the file."""
    caption: str
    """Caption."""
    data: bytes | None
    """Content of the file, which the page then carries. None shows a link instead."""


@dataclass(frozen=True)
class Section:
    """Part of a document under a title of its own."""

    title: str
    """Title."""
    text: str = ""
    """Paragraph that explains the rest of the section."""
    figure: str = ""
    """Name of a figure."""
    table: Table | None = None
    """Table below the figure."""
    folded: bool = False
    """True folds the table of an HTML page away until the reader opens it."""
    media: Sequence[Media] = ()
    """Videos and pictures between figure and table."""


@dataclass(frozen=True)
class Document:
    """Report, independent of the format it is written in."""

    title: str
    """Title."""
    subtitle: str
    """One line below the title."""
    summary: Sequence[str]
    """Sentences that come first."""
    sections: Sequence[Section]
    """Sections, in order."""


def html(document: Document, svg: Mapping[str, str]) -> str:
    """Return the document as one HTML page; `svg` holds its figures by name."""
    filters = {"as_cell": _as_cell, "relative": relative, "base64": lambda data: b64encode(data).decode()}
    figures = {name: Markup(figure) for name, figure in svg.items()}
    return _environment(filters).get_template("page.html.j2").render(document=document, svg=figures)


def markdown(document: Document) -> str:
    """Return the document as Markdown that finds its figures in figures/."""
    filters = {"as_cell": _as_cell, "link": _link}
    return _environment(filters, finalize=_plain).get_template("report.md.j2").render(document=document)


def _environment(filters: Mapping[str, Callable[..., Any]], **settings: Any) -> Environment:
    environment = Environment(
        loader=PackageLoader("dreamer.experiments.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        **settings,
    )
    environment.filters |= filters
    return environment


def relative(link: str) -> str:
    """Return a relative path as a URL that can be nothing but a relative path."""
    return "./" + quote(link)


def _as_cell(cell: str | TableCell) -> TableCell:
    return TableCell(cell) if isinstance(cell, str) else cell


def _link(text: str, link: str) -> Markup:
    """Text in Markdown that leads to `link`, if that is not empty."""
    label = _plain(text)
    return Markup("[" + re.sub(r"([\[\]])", r"\\\1", label) + f"]({relative(link)})") if link else label


def _plain(text: str) -> Markup:
    """Return text on one line whose characters stand for themselves; markup stays as it is."""
    if isinstance(text, Markup):
        return text
    plain = re.sub(r"([\\`*|~])", r"\\\1", escape(" ".join(str(text).split()), quote=False))
    return Markup(plain.replace("](", "]\\("))
