"""A document of sections, tables and figures, as Markdown. Text from outside cannot become markup."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote


@dataclass(frozen=True)
class Cell:
    """Text in a table."""

    text: str
    """What it says."""
    link: str = ""
    """Relative path of a file or folder to link to."""
    color: str = ""
    """Colour of a mark before the text."""


@dataclass(frozen=True)
class Table:
    """A table; a cell is text or a `Cell`."""

    columns: Sequence[str]
    """Heads of the columns."""
    rows: Sequence[Sequence[str | Cell]]
    """Rows of cells, one for each column."""
    words: int = 1
    """Leading columns that hold words; the others hold numbers, aligned to the right."""


@dataclass(frozen=True)
class Media:
    """A film (.mp4) or a picture (.png)."""

    link: str
    """Relative path of the file."""
    caption: str
    """What it shows."""
    data: bytes | None
    """Its content, for a page to carry; None leaves it at a link."""


@dataclass(frozen=True)
class Section:
    """A part of a document under a title of its own."""

    title: str
    """Title."""
    text: str = ""
    """A paragraph that explains what follows."""
    figure: str = ""
    """Name of a figure."""
    table: Table | None = None
    """Table below the figure."""
    folded: bool = False
    """Whether a page shows the table only when asked to."""
    media: Sequence[Media] = ()
    """Films and pictures between figure and table."""


@dataclass(frozen=True)
class Document:
    """A report before it is written in a format."""

    title: str
    """Title."""
    subtitle: str
    """One line below it."""
    summary: Sequence[str]
    """Sentences that come first."""
    sections: Sequence[Section]
    """The rest."""


def as_cell(cell: str | Cell) -> Cell:
    """A cell of a table that may be plain text."""
    return Cell(cell) if isinstance(cell, str) else cell


def relative(link: str) -> str:
    """A relative path as a URL that can be nothing else."""
    return "./" + quote(link)


def markdown(document: Document) -> str:
    """The document as Markdown, with its figures in `figures/`."""
    parts = [f"# {_plain(document.title)}", _plain(document.subtitle)]
    parts.append("\n".join(f"- {_plain(sentence)}" for sentence in document.summary))
    for section in document.sections:
        parts += [f"## {_plain(section.title)}", _plain(section.text)]
        if section.figure:
            parts.append(f"![{_plain(section.title)}](figures/{section.figure}.png)")
        parts += [f"[{_label(media.caption)}]({relative(media.link)})" for media in section.media]
        if section.table is not None:
            parts.append(_table(section.table))
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(table: Table) -> str:
    rule = ["---"] * table.words + ["---:"] * (len(table.columns) - table.words)
    rows = [[_plain(column) for column in table.columns], rule, *([_cell(cell) for cell in row] for row in table.rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cell(cell: str | Cell) -> str:
    cell = as_cell(cell)
    return f"[{_label(cell.text)}]({relative(cell.link)})" if cell.link else _plain(cell.text)


def _label(text: str) -> str:
    """Plain text between the brackets of a link."""
    return re.sub(r"([\[\]])", r"\\\1", _plain(text))


def _plain(text: str) -> str:
    """Text on one line whose characters mean themselves."""
    plain = re.sub(r"([\\`*|~])", r"\\\1", html.escape(" ".join(text.split()), quote=False))
    return plain.replace("](", "]\\(")
