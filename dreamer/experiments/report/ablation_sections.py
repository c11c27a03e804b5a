"""Sections of a comparison: its tables, with the text above them."""

from __future__ import annotations

from typing import NamedTuple

from dreamer.experiments.published import curves as published
from dreamer.experiments.report.ablation_figures import Behind, core_colors
from dreamer.experiments.report.analysis import MOST_PAIRED, Analysis, ArmResult
from dreamer.experiments.report.arms import CORE, Arms
from dreamer.experiments.report.document import Section, Table, TableCell
from dreamer.experiments.report.run_folders import Run
from dreamer.experiments.report.statistics import CONFIDENCE, RESAMPLES
from dreamer.experiments.report.wording import duration, estimate, listing, number
from dreamer.system.redaction import redact_command

Rows = list[list[str | TableCell]]
Differing = dict[str, dict[str, list[str]]]
"""Setting -> value -> paths of the runs, as from `differing`."""

FOLDED_ABOVE = 40
"""Number of runs beyond which a page folds their table away."""
INTERVAL = f"[{CONFIDENCE:.0%} CI]".replace("%", "\N{NO-BREAK SPACE}%").replace(" CI", "\N{NO-BREAK SPACE}CI")


class Excluded(NamedTuple):
    """A run that counts in no number."""

    kind: str
    """`failed`, `unfinished` or `repeated`."""
    place: str
    """Run folder, or task, core and seed."""
    reason: str
    """Reason for the exclusion, in one line."""


def sections(
    analysis: Analysis,
    arms: Arms,
    runs: list[Run],
    excluded: list[Excluded],
    differ: Differing,
    origin: dict[str, str],
    behind: Behind,
    diagnosis: Section,
) -> list[Section]:
    """Return all sections; `runs` are those that count."""
    sections = [*_arms(arms, runs), _results(analysis, arms), _tasks(analysis, arms, behind)]
    if analysis.compared and 1 < len(analysis.arms) <= MOST_PAIRED:
        sections.append(_improvement(analysis, arms))
    if analysis.compared:
        text = "Fraction of the runs of all tasks that end above a score. Higher is better. Bands are pointwise."
        sections.append(Section("Performance profiles", text, "profiles"))
    sections += [_scores(analysis, arms), _excluded(excluded), diagnosis, _settings(differ, runs)]
    return [*sections, _runs(runs, analysis, arms), *_provenance(origin, runs)]


def _arms(arms: Arms, runs: list[Run]) -> list[Section]:
    """The values of the settings that vary, where they are not the core alone."""
    if arms.varied in ((), (CORE,)):
        return []
    text = f"Runs of the same task differ in {listing(arms.varied)}."
    rows: Rows = [
        [name, *(values.get(path, "not used") for path in arms.varied), str([run.arm for run in runs].count(name))]
        for name, values in arms.values.items()
    ]
    table = Table(["arm", *arms.varied, "runs"], rows, words=1 + len(arms.varied))
    return [Section("What varies", text, table=table, folded=len(rows) > FOLDED_ABOVE)]


def _results(analysis: Analysis, arms: Arms) -> Section:
    text = (
        "IQM: interquartile mean of the scores of all runs and tasks. Intervals are percentiles of "
        f"{RESAMPLES:,} stratified bootstrap resamples. Area: mean height of the evaluation curve. "
        f"Costs are means over the runs of one {arms.noun}. The time per update includes acting."
    )
    columns = [arms.noun, f"final IQM {INTERVAL}", f"area IQM {INTERVAL}", "runs", "parameters", "of the core"]
    columns += ["time per update", "env steps/s", "time per run"]
    rows: Rows = [[_named(analysis, name), *_result(analysis.arms[name])] for name in analysis.ranked()]
    return Section(f"{arms.noun.capitalize()}s", text, "intervals" if analysis.compared else "", Table(columns, rows))


def _result(arm: ArmResult) -> list[str]:
    costs = [duration(arm.seconds_per_update), number(arm.env_steps_per_second, 0), duration(arm.wall_seconds)]
    scores = [estimate(arm.final), estimate(arm.auc)]
    return [*scores, str(arm.runs), number(arm.parameters, 0), number(arm.dynamics_parameters, 0), *costs]


def _tasks(analysis: Analysis, arms: Arms, behind: Behind) -> Section:
    text = "Mean return of evaluations with sampled actions. Intervals are bootstrap intervals of the mean over seeds."
    text = " ".join([text, published.described([curve for curves in behind.values() for curve in curves])]).strip()
    columns = ["task", arms.noun, f"final return {INTERVAL}", f"area {INTERVAL}", "seeds"]
    rows: Rows = [
        [task, _named(analysis, arm), estimate(result.final, 1), estimate(result.auc, 1), str(result.seeds)]
        for task, results in analysis.cells.items()
        for arm, result in results.items()
    ]
    return Section("Learning curves", text, "learning_curves", Table(columns, rows, words=2))


def _improvement(analysis: Analysis, arms: Arms) -> Section:
    text = (
        f"Probability that a run of the row's {arms.noun} ends with a higher return than a run of the column's on the "
        "same task, averaged over tasks. A tie counts half. An interval that contains 0.5 leaves the question open."
    )
    ranked = analysis.ranked()

    def better(x: str, y: str) -> str:
        return "" if x == y else estimate(analysis.improvement[x][y])

    rows: Rows = [[_named(analysis, x), *(better(x, y) for y in ranked)] for x in ranked]
    return Section("Probability of improvement", text, "improvement", Table(["", *ranked], rows))


def _scores(analysis: Analysis, arms: Arms) -> Section:
    text = f"Scores are linear in returns. Aggregates are over the tasks on which every {arms.noun} has finished runs."
    rows: Rows = [
        [task, scale.rule, "yes" if task in analysis.compared else "no", number(scale.low, 1), number(scale.high, 1)]
        for task, scale in analysis.scales.items()
    ]
    columns = ["task", "scale", "in the aggregates", "score 0 at return", "score 1 at return"]
    return Section("Scores", text, table=Table(columns, rows, words=3))


def _runs(runs: list[Run], analysis: Analysis, arms: Arms) -> Section:
    columns = ["task", arms.noun, "seed", "run", "final return", "area", "time per update", "wall time"]
    order = list(analysis.arms)
    rows: Rows = [
        [
            *(run.task, _named(analysis, run.arm), str(run.seed), TableCell(run.path, run.path)),
            *(number(run.final, 1), number(run.auc, 1), duration(run.seconds_per_update), duration(run.wall_seconds)),
        ]
        for run in sorted(runs, key=lambda run: (run.task, order.index(run.arm), run.seed))
    ]
    return Section("Runs", table=Table(columns, rows, words=4), folded=len(rows) > FOLDED_ABOVE)


def _excluded(entries: list[Excluded]) -> Section:
    if not entries:
        return Section("Left out", "Nothing. Every run that was found is finished and counts.")
    return Section("Left out", "These count in no number.", table=Table(["what", "where", "why"], entries, words=3))


def _settings(differ: Differing, runs: list[Run]) -> Section:
    if not differ:
        return Section("Settings that differ between runs", "None beyond task, core and seed.")
    names = {run.path: f"{run.task}, {run.arm}" for run in runs}

    def users(paths: list[str]) -> str:
        groups = sorted({names[path] for path in paths})
        return "\n".join(groups[:4]) + (f"\nand {len(groups) - 4} more" if len(groups) > 4 else "")

    rows = [[name, value, users(at), str(len(at))] for name, values in differ.items() for value, at in values.items()]
    table = Table(["setting", "value", "used by", "runs"], rows, words=3)
    return Section("Settings that differ between runs", table=table)


def _provenance(origin: dict[str, str], runs: list[Run]) -> list[Section]:
    commits, devices = ({str(run.info.get(name, "unknown")) for run in runs} for name in ("commit", "device"))
    text = f"Runs: commit {', '.join(sorted(commits))}; device {', '.join(sorted(devices))}."
    report = Table(["", "command", "commit"], [["this report", origin["command"], origin["commit"]]], words=3)
    typed = {run.path: redact_command(str(run.info.get("command", "unknown"))) for run in runs}
    commands: Rows = [[TableCell(path, path), command] for path, command in typed.items()]
    return [
        Section("Command and commit", text, table=report),
        Section("Commands of the runs", table=Table(["run", "command"], commands, words=2), folded=True),
    ]


def _named(analysis: Analysis, arm: str) -> TableCell:
    return TableCell(arm, color=core_colors(analysis.arms)[arm])
