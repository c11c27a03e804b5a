"""Runs and their metrics as tables for pandas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dreamer.config import used_settings
from dreamer.errors import UserError
from dreamer.experiments.report.run_folders import Run, find_runs
from dreamer.runs.folder import open_run
from dreamer.tracking import read


class Table(list[dict[str, Any]]):
    """Rows of one table, as dicts; `pandas.DataFrame(table)` and `to_pandas()` are the same."""

    def __repr__(self) -> str:
        columns = len({name for row in self for name in row})
        return f"Table({len(self)} rows, {columns} columns), a list of dicts; to_pandas() shows it"

    def to_pandas(self) -> Any:
        """Return a `pandas.DataFrame`; raises `UserError` without pandas, which nothing else here needs."""
        try:
            import pandas
        except ImportError:
            raise UserError("to_pandas needs pandas: pip install pandas") from None
        return pandas.DataFrame(list(self))


def read_runs(folder: Path | str) -> Table:
    """Return one row for every run folder below `folder`, in the order of their paths.

    Columns: `path`; `status`: finished, unfinished or unreadable, and then `error`; `step`: environment steps so far;
    `core` with its latent family and objective where they are not the default; `parameters`; `return`: mean return of
    the last evaluation; `auc`: mean height of the evaluation curve; the last value of every metric by its name; every
    setting that the run uses, by dotted path. Raises `UserError` when `folder` is no folder.
    """
    folder = Path(folder)
    runs, failures = find_runs(folder)
    rows = [_row(folder, run) for run in runs]
    lost = [{"path": str(folder / one.place), "status": "unreadable", "error": one.error} for one in failures]
    return Table(sorted([*rows, *lost], key=lambda row: row["path"]))


def read_metrics(run: Path | str) -> Table:
    """Return all metrics of a run: one row for every record, with `step` and the metrics of that record.

    Raises `UserError` when `run` is not a run folder.
    """
    return Table(read(open_run(Path(run)).metrics))


def _row(folder: Path, run: Run) -> dict[str, Any]:
    last: dict[str, Any] = {}
    path = folder / run.path
    for record in read(path / "metrics.jsonl"):
        last |= record
    return {
        "path": str(path),
        "status": "finished" if run.finished else "unfinished",
        "core": run.core,
        "parameters": sum(run.parameters.values()) or None,
        "return": run.final if len(run.returns) else None,
        "auc": run.auc if len(run.returns) else None,
        **last,
        "step": run.step,
        **used_settings(run.config),
    }
