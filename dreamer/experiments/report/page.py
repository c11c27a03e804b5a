"""A document as one HTML page that needs nothing else: no requests, no scripts; light or dark as its reader."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from html import escape

from dreamer.experiments.report.document import Cell, Document, Media, Section, Table, as_cell, relative

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:"
"""What the page may load: its own styles, and films and pictures that it carries itself."""
STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --soft: #59636e; --ground: #ffffff; --rule: #d1d9e0;
  --box: #f6f8fa; --link: #0969da; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9198a1; --ground: #0d1117; --rule: #3d444d;
  --box: #151b23; --link: #4493f8; } svg { filter: brightness(1.35); } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 2.5rem 1.25rem 4rem; color: var(--ink); background: var(--ground);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .5rem; }
p { margin: .4rem 0 1rem; max-width: 46rem; }
.soft { color: var(--soft); font-size: .92rem; overflow-wrap: anywhere; }
.summary { background: var(--box); border-left: 4px solid var(--link); border-radius: 4px; margin: 1.5rem 0;
  padding: .9rem 1.2rem; }
.summary p { margin: .35rem 0; }
.summary p:first-child { font-weight: 600; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; margin: .5rem 0;
  border-top: 2px solid var(--ink); border-bottom: 2px solid var(--ink); }
th { border-bottom: 1px solid var(--ink); font-weight: 600; vertical-align: bottom; }
th, td { padding: .32rem .6rem; text-align: right; }
td { white-space: pre-line; }
th.words, td.words { text-align: left; }
tbody tr:nth-child(even) { background: var(--box); }
td.number, td:has(i) { white-space: nowrap; }
a { color: var(--link); }
i { border-radius: 50%; display: inline-block; height: .7em; margin-right: .5em; width: .7em; }
nav { border-bottom: 1px solid var(--rule); padding-bottom: .8rem; }
nav a { margin-right: .9rem; text-decoration: none; white-space: nowrap; }
figure { margin: 1rem 0; }
.media { display: flex; flex-wrap: wrap; gap: 1rem; }
.media figure { margin: .5rem 0; max-width: 100%; }
.media img, .media video { border-radius: 4px; display: block; max-height: 36rem; max-width: 100%; }
figcaption { color: var(--soft); font-size: .85rem; margin-top: .3rem; }
svg { display: block; height: auto; margin: 0 auto; max-width: 100%; }
svg text { font-family: inherit !important; }
summary { color: var(--link); cursor: pointer; font-size: .92rem; }
@media print { body { max-width: none; padding: 0; } h2 { break-after: avoid; } figure, tr { break-inside: avoid; } }
"""


def page(document: Document, svg: Mapping[str, str]) -> str:
    """The document as HTML; `svg` holds its figures by name."""
    summary = "\n".join(f"<p>{escape(sentence)}</p>" for sentence in document.summary)
    sections = "\n".join(_section(i, section, svg) for i, section in enumerate(document.sections))
    titles = [f'<a href="#s{i}">{escape(section.title)}</a>' for i, section in enumerate(document.sections)]
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{escape(document.title)}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{escape(document.title)}</h1>
<p class="soft">{escape(document.subtitle)}</p>
<div class="summary">
{summary}
</div>
<nav class="soft">{" ".join(titles)}</nav>
{sections}
</body>
</html>
"""


def _section(index: int, section: Section, svg: Mapping[str, str]) -> str:
    parts = [f"<h2>{escape(section.title)}</h2>"]
    if section.text:
        parts.append(f'<p class="soft">{escape(section.text)}</p>')
    if section.figure:
        label = escape(section.title)
        parts.append(f'<figure role="img" aria-label="{label}">\n{svg[section.figure]}</figure>')
    if section.media:
        parts.append(f'<div class="media">{"".join(map(_media, section.media))}</div>')
    if section.table is not None:
        table = _table(section.table)
        columns = ", ".join(column for column in section.table.columns if column)
        label = escape(f"Show {len(section.table.rows)} rows: {columns}")
        parts.append(f"<details><summary>{label}</summary>{table}</details>" if section.folded else table)
    content = "\n".join(parts)
    return f'<section id="s{index}">\n{content}\n</section>'


def _media(media: Media) -> str:
    """A film or a picture that the page carries, or a link to it."""
    caption = escape(media.caption)
    if media.data is None:
        return f'<figure><a href="{escape(relative(media.link))}">{caption}</a></figure>'
    text = b64encode(media.data).decode()
    if media.link.endswith(".mp4"):
        shown = f'<video controls loop muted playsinline src="data:video/mp4;base64,{text}"></video>'
    else:
        shown = f'<img alt="{caption}" src="data:image/png;base64,{text}">'
    return f"<figure>{shown}<figcaption>{caption}</figcaption></figure>"


def _table(table: Table) -> str:
    kinds = ["words"] * table.words + ["number"] * (len(table.columns) - table.words)
    head = "".join(f'<th class="{kind}">{escape(text)}</th>' for kind, text in zip(kinds, table.columns, strict=True))
    rows = [[_cell(as_cell(cell), kind) for cell, kind in zip(row, kinds, strict=True)] for row in table.rows]
    body = "\n".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    return f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'


def _cell(cell: Cell, kind: str) -> str:
    text = escape(cell.text)
    if cell.link:
        text = f'<a href="{escape(relative(cell.link))}">{text}</a>'
    mark = f'<i style="background: {cell.color}"></i>' if cell.color else ""
    return f'<td class="{kind}">{mark}{text}</td>'
