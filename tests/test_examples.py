"""The notebooks in docs/examples/: they run, and what is committed is their output, small and of no one machine."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from running import ROOT

EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.ipynb"))
CHECKS = {
    "1_train_and_look_inside": """
        assert result.status == "finished" and error < copying and totals[-1] > totals[0]
        assert values.isfinite().all() and values.std() > 0 and evaluation.returns.shape == (3,)
    """,
    "2_your_own_environment_and_loss": """
        assert changes["with"] < changes["without"]
        tables = [dreamer.read_metrics(path) for path in runs.values()]
        assert [any("loss/slowness" in record for record in table) for table in tables] == [False, True]
        assert WorldModel.losses is original
    """,
    "3_compare_cores": """
        assert list(runs["core"]) == ["gru", "rssm:gaussian"] and (runs["status"] == "finished").all()
        assert all(0 < score["crps"] < 2 * score["repeating"] for score in scores.values()) and len(losses) >= 2
    """,
}


def outputs(notebook: Any) -> list[Any]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def pictures(notebook: Any) -> list[bytes]:
    found = [output.get("data", {}).get("image/png") for output in outputs(notebook)]
    return [base64.b64decode(picture) for picture in found if picture]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_a_committed_notebook_was_run_from_top_to_bottom(path: Path) -> None:
    notebook = nbformat.read(path, 4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert all(output.output_type != "error" and output.get("name") != "stderr" for output in outputs(notebook))
    sizes = [len(picture) for picture in pictures(notebook)]
    assert sizes and max(sizes) < 100_000
    assert not re.search(rf"/tmp/|{re.escape(str(ROOT))}|0x[0-9a-f]{{8}}|\\u001b", path.read_text())
    for text in (cell.source for cell in notebook.cells if cell.cell_type == "markdown"):
        for target in re.findall(r"\]\((?!https:)([^)#]+)", text):
            assert (path.parent / target).exists(), target


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(path, 4)
    drawn = len(pictures(notebook))
    lines = [line.strip() for line in CHECKS[path.stem].splitlines()]
    notebook.cells.append(nbformat.v4.new_code_cell("\n".join(lines)))
    NotebookClient(notebook, timeout=None, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert len(pictures(notebook)) == drawn
