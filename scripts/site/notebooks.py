"""Pages of the documentation site for the notebooks in docs/examples/; a hook that mkdocs.yml names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

DOCS = Path(__file__).resolve().parents[2] / "docs"


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add a page for each notebook, beside the notebook itself."""
    for path in sorted(DOCS.glob("examples/*.ipynb")):
        uri = path.relative_to(DOCS).with_suffix(".md").as_posix()
        files.append(File.generated(config, uri, content=page(json.loads(path.read_text()))))


def page(notebook: dict[str, Any]) -> str:
    """Return the cells of a notebook and their outputs as Markdown."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        parts += map(shown, cell.get("outputs", []))
    return "\n\n".join(part for part in parts if part)


def shown(output: dict[str, Any]) -> str:
    """Return an output of a cell: a picture, a table or text."""
    data = output.get("data", {})
    if "image/png" in data:
        return f'<img alt="Figure" src="data:image/png;base64,{"".join(data["image/png"]).strip()}">'
    text = "".join(output.get("text", data.get("text/plain", []))).rstrip()
    return f"```text\n{text}\n```" if text else ""
