"""A report as a document of sections, tables and media, rendered as HTML or Markdown by the templates in templates/.

Text from outside cannot become markup: the environment of each format escapes every expression of its template.
"""

from __future__ import annotations

import dataclasses
import re
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

Filters = Mapping[str, Callable[..., Any]]


@dataclass(frozen=True)
class TableCell:
    """Entry of a table, which may link to the relative path of a file, and may have a mark of a colour before it."""

    text: str
    link: str = ""
    color: str = ""


@dataclass(frozen=True)
class Table:
    """Table below the heads of its columns. The first `words` columns hold words, the others numbers."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str | TableCell]]
    words: int = 1


@dataclass(frozen=True)
class Media:
    """Video (.mp4) or picture (.png) at a relative path."""

    link: str
    caption: str
    data: bytes | None
    """Content of the file, which the page then carries. None shows a link instead."""


@dataclass(frozen=True)
class Section:
    """Part of a document: a title, a paragraph, the figure of a name, media and a table, in this order."""

    title: str
    text: str = ""
    figure: str = ""
    table: Table | None = None
    folded: bool = False
    """True folds the table of an HTML page away until the reader opens it."""
    media: Sequence[Media] = ()


@dataclass(frozen=True)
class Document:
    """Report, independent of the format it is written in. Sentences come first, then sections."""

    title: str
    subtitle: str
    summary: Sequence[str]
    sections: Sequence[Section]


def without_links(document: Document) -> Document:
    """Return the document without links to files beside it, for a page that leaves its folder."""
    sections = []
    for section in document.sections:
        table = section.table
        if table is not None:
            rows = [[dataclasses.replace(_as_cell(cell), link="") for cell in row] for row in table.rows]
            table = dataclasses.replace(table, rows=rows)
        media = [one for one in section.media if one.data is not None]
        sections.append(dataclasses.replace(section, table=table, media=media))
    return dataclasses.replace(document, sections=sections)


def html(document: Document, svg: Mapping[str, str]) -> str:
    """Return the document as one HTML page; `svg` holds its figures by name."""
    filters: Filters = {"as_cell": _as_cell, "relative": relative, "base64": lambda data: b64encode(data).decode()}
    figures = {name: Markup(figure) for name, figure in svg.items()}
    return _environment(filters).get_template("page.html.j2").render(document=document, svg=figures)


def markdown(document: Document) -> str:
    """Return the document as Markdown that finds its figures in figures/."""
    filters: Filters = {"as_cell": _as_cell, "link": _link}
    return _environment(filters, finalize=_plain).get_template("report.md.j2").render(document=document)


def _environment(filters: Filters, **settings: Any) -> Environment:
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
