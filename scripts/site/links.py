"""Links of the documentation site to and from files outside docs/; a hook that mkdocs.yml names.

README.md is the home page. A link to another file of the repository leads to a page that shows the file. A broken link
in a built page is a warning, which makes a strict build fail.
"""

from __future__ import annotations

import os
import posixpath
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

log = get_plugin_logger("links")
ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "dreamer/tracking/metrics.md": "metrics.md",
}
"""Documents outside docs/ -> their pages."""
LINK = re.compile(r'^```.*?^```|(\]\(|(?:src|href)=")([^)\s"#:]+)(?=[)"#])', re.MULTILINE | re.DOTALL)
"""Fenced code, or the start and the target of a relative link."""


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the documents outside docs/, and a page for every other file of the repository that a document links to."""
    for name, uri in PAGES.items():
        files.append(File.generated(config, uri, content=(ROOT / name).read_text()))
    documents = [file for file in files.documentation_pages() if (ROOT / origin(file.src_uri)).exists()]
    links = {
        repository_path(file.src_uri, link[2])
        for file in documents
        for link in LINK.finditer(file.content_string)
        if link[2]
    }
    for path in sorted(links):
        if page_of(path).startswith("source/") and (ROOT / path).is_file():
            files.append(File.generated(config, page_of(path), content=listing(path)))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links to files of the repository lead to their pages."""

    def relink(link: re.Match[str]) -> str:
        if link[2] is None:
            return link[0]
        # MkDocs reads links of Markdown from the folder of the document, and leaves HTML as it is.
        start = posixpath.dirname(page.file.src_uri) if link[1] == "](" else page.url
        return link[1] + posixpath.relpath(page_of(repository_path(page.file.src_uri, link[2])), start or ".")

    return LINK.sub(relink, markdown)


def on_post_build(config: MkDocsConfig) -> None:
    """Warn of every link in a built page whose file or anchor does not exist."""
    site = Path(config.site_dir)
    pages = {path: Links(path) for path in site.rglob("*.html") if path.name != "404.html"}
    for path, page in pages.items():
        for link in sorted(page.links):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:  # also pictures of notebooks, whose scheme is data
                continue
            target = Path(os.path.normpath(path.parent / unquote(parts.path))) if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            anchor = unquote(parts.fragment)
            if not target.exists() or (anchor and target in pages and anchor not in pages[target].anchors):
                log.warning(f"{path.relative_to(site)} contains a broken link: {link}")


class Links(HTMLParser):
    """Targets of the links of a page, and its anchors."""

    def __init__(self, path: Path):
        super().__init__()
        self.links: set[str] = set()
        self.anchors = {"__top"}
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect the link and the name of an element."""
        self.links |= {value for name, value in attrs if name in ("href", "src") and value}
        self.anchors |= {value for name, value in attrs if name in ("id", "name") and value}


def origin(uri: str) -> str:
    """Return the path in the repository of the document behind a page."""
    return next((name for name, page in PAGES.items() if page == uri), f"docs/{uri}")


def repository_path(uri: str, link: str) -> str:
    """Return the path in the repository to which a relative link in the document of a page leads."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(origin(uri)), link))


def page_of(path: str) -> str:
    """Return the source of the page, or the file of the site, that shows a file of the repository."""
    if path.startswith("docs/"):
        return re.sub(r"\.ipynb$", ".md", path.removeprefix("docs/"))
    return PAGES.get(path, f"source/{path}.md")


def listing(path: str) -> str:
    """Return a page that shows a file of the repository."""
    language = {".py": "python", ".toml": "toml", ".yaml": "yaml"}.get(Path(path).suffix, "text")
    return f"---\nsearch: {{exclude: true}}\n---\n\n# {path}\n\n``````{language}\n{(ROOT / path).read_text()}``````\n"
