"""The sections of a report: which numbers it shows, in which tables."""

from __future__ import annotations

from dreamer.experiments.report.analysis import Analysis, Core
from dreamer.experiments.report.document import Cell, Section, Table
from dreamer.experiments.report.figures import colors
from dreamer.experiments.report.runs import Run
from dreamer.experiments.report.statistics import CONFIDENCE, RESAMPLES
from dreamer.experiments.report.wording import count, duration, estimate, number
from dreamer.system.redaction import redact_command

Rows = list[list[str | Cell]]

FOLDED_ABOVE = 40
"""Runs beyond which a page does not show their table at once."""

INTERVAL = f"[{CONFIDENCE:.0%} CI]".replace("%", "\N{NO-BREAK SPACE}%").replace(" CI", "\N{NO-BREAK SPACE}CI")


def results(analysis: Analysis) -> list[Section]:
    """Cores, tasks and the comparisons between cores."""
    sections = [_cores(analysis), _tasks(analysis)]
    if analysis.compared and len(analysis.cores) > 1:
        sections.append(_improvement(analysis))
    if analysis.compared:
        text = "How many runs of all tasks end above a score; the higher curve is better. Bands are pointwise."
        sections.append(Section("Performance profiles", text, "profiles"))
    return [*sections, _scores(analysis)]


def _cores(analysis: Analysis) -> Section:
    text = (
        "IQM: interquartile mean of the scores of all runs and tasks. Intervals are percentiles of "
        f"{RESAMPLES:,} stratified bootstrap resamples. Area: mean height of the evaluation curve. "
        "Costs are means over the runs of a core; an update's time includes acting."
    )
    columns = ["core", f"final IQM {INTERVAL}", f"area IQM {INTERVAL}", "runs", "parameters", "of the core"]
    columns += ["time per update", "env steps/s", "time per run"]
    rows: Rows = [[_named(analysis, name), *_core(analysis.cores[name])] for name in analysis.ranked()]
    return Section("Cores", text, "intervals" if analysis.compared else "", Table(columns, rows))


def _core(core: Core) -> list[str]:
    costs = [duration(core.seconds_per_update), number(core.env_steps_per_second, 0), duration(core.wall_seconds)]
    scores = [estimate(core.final), estimate(core.auc)]
    return [*scores, str(core.runs), count(core.parameters), count(core.dynamics_parameters), *costs]


def _tasks(analysis: Analysis) -> Section:
    text = "Mean return of evaluations with sampled actions, and bootstrap intervals of the mean over seeds."
    columns = ["task", "core", f"final return {INTERVAL}", f"area {INTERVAL}", "seeds"]
    rows: Rows = [
        [task, _named(analysis, core), estimate(cell.final, 1), estimate(cell.auc, 1), str(cell.seeds)]
        for task, cells in analysis.cells.items()
        for core, cell in cells.items()
    ]
    return Section("Learning curves", text, "learning_curves", Table(columns, rows, words=2))


def _improvement(analysis: Analysis) -> Section:
    text = (
        "Probability that a run of the row's core ends with a higher return than a run of the column's on the same "
        "task, ties counting half, averaged over tasks. An interval that holds 0.5 leaves the question open."
    )
    ranked = analysis.ranked()

    def cell(x: str, y: str) -> str:
        return "" if x == y else estimate(analysis.improvement[x][y])

    rows: Rows = [[_named(analysis, x), *(cell(x, y) for y in ranked)] for x in ranked]
    return Section("Probability of improvement", text, "improvement", Table(["", *ranked], rows))


def _scores(analysis: Analysis) -> Section:
    text = "Scores are linear in returns. Aggregates are over the tasks of which every core has finished runs."
    rows: Rows = [
        [task, scale.rule, "yes" if task in analysis.compared else "no", number(scale.low, 1), number(scale.high, 1)]
        for task, scale in analysis.scales.items()
    ]
    columns = ["task", "scale", "in the aggregates", "score 0 at return", "score 1 at return"]
    return Section("Scores", text, table=Table(columns, rows, words=3))


def runs_table(runs: list[Run], analysis: Analysis) -> Section:
    """Every run that counts."""
    columns = ["task", "core", "seed", "run", "final return", "area", "time per update", "wall time"]
    order = list(analysis.cores)
    rows: Rows = [
        [
            *(run.task, _named(analysis, run.core), str(run.seed), Cell(run.path, run.path)),
            *(number(run.final, 1), number(run.auc, 1), duration(run.seconds_per_update), duration(run.wall_seconds)),
        ]
        for run in sorted(runs, key=lambda run: (run.task, order.index(run.core), run.seed))
    ]
    return Section("Runs", table=Table(columns, rows, words=4), folded=len(rows) > FOLDED_ABOVE)


def left_out(outside: list[tuple[str, str, str]]) -> Section:
    """What counts in no number: kind, place and reason of each."""
    if not outside:
        return Section("Left out", "Nothing: every run that was found is finished and counts.")
    return Section("Left out", "These count in no number.", table=Table(["what", "where", "why"], outside, words=3))


def settings(differ: dict[str, dict[str, list[str]]], runs: list[Run]) -> Section:
    """In what the runs differ beyond task, core and seed."""
    if not differ:
        return Section("Settings that differ between runs", "None beyond task, core and seed.")
    everyone = {run.path: run for run in runs}

    def whose(paths: list[str]) -> str:
        groups = sorted({f"{everyone[path].task}, {everyone[path].core}" for path in paths})
        return "\n".join(groups[:4]) + (f"\nand {len(groups) - 4} more" if len(groups) > 4 else "")

    rows: Rows = [
        [name, value, whose(paths), str(len(paths))]
        for name, values in differ.items()
        for value, paths in values.items()
    ]
    return Section(
        "Settings that differ between runs", table=Table(["setting", "value", "used by", "runs"], rows, words=3)
    )


def provenance(command: str, commit: str, runs: list[Run]) -> list[Section]:
    """How the report and its runs came about."""
    rows: Rows = [["this report", command, commit]]
    commits = {str(run.info.get("commit", "unknown")) for run in runs}
    devices = {str(run.info.get("device", "unknown")) for run in runs}
    text = f"Runs: commit {', '.join(sorted(commits))}; device {', '.join(sorted(devices))}."
    commands: Rows = [
        [Cell(run.path, run.path), redact_command(str(run.info.get("command", "unknown")))] for run in runs
    ]
    return [
        Section("Command and commit", text, table=Table(["", "command", "commit"], rows, words=3)),
        Section("Commands of the runs", table=Table(["run", "command"], commands, words=2), folded=True),
    ]


def _named(analysis: Analysis, core: str) -> Cell:
    return Cell(core, color=colors(analysis)[core])
