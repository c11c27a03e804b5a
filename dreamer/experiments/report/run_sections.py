"""The sections of a run's page."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dreamer.config import Config, compose
from dreamer.experiments.report.document import Cell, Media, Section, Table
from dreamer.experiments.report.run_figures import curve
from dreamer.experiments.report.runs import Run
from dreamer.experiments.report.settings import leaves
from dreamer.experiments.report.wording import UNKNOWN
from dreamer.tracking import Metric, describe
from dreamer.tracking.video import evaluation_films

Rows = list[list[str | Cell]]

CARRIED = 4_000_000
"""Bytes of a section's films and pictures that a page carries; what goes beyond is linked to."""
FILMS = 4
"""Evaluation films on a page: the first, the last, and some between."""
GROUPS = {
    "World model": ("loss/", "reconstruction/", "model/", "imagination/"),
    "Actor and critic": ("loss/actor", "loss/critic", "loss/replay_critic", "behavior/"),
    "Optimizer, replay and time": ("optim/", "replay/", "time/"),
}
"""Metrics of a section by what their names begin with; of several that fit, the longest counts."""


def panels(names: Sequence[str]) -> dict[str, list[str]]:
    """The metrics among `names` by section, in the order of names; sections that have none are left out."""
    places = [(prefix, group) for group, prefixes in GROUPS.items() for prefix in prefixes]
    found: dict[str, list[str]] = {group: [] for group in GROUPS}
    for name in names:
        fitting = [(len(prefix), group) for prefix, group in places if name.startswith(prefix)]
        if fitting:
            found[max(fitting)[1]].append(name)
    return {group: members for group, members in found.items() if members}


def returns(run: Run) -> Section:
    """The learning curve."""
    text = "Sum of rewards of an episode; evaluation runs in environments whose seeds training never uses."
    return Section("Returns", text if len(run.steps) else "Nothing has been evaluated yet.", "returns")


def films(folder: Path) -> list[Section]:
    """Films of evaluation episodes, the newest first."""
    paths = evaluation_films(folder)
    if not paths:
        return []
    picked = [paths[i] for i in np.unique(np.linspace(0, len(paths) - 1, FILMS).round().astype(int))][::-1]
    captions = [f"step {int(path.stem.removeprefix('eval_')):,}" for path in picked]
    return [Section("Films", "Evaluation episodes with sampled actions.", media=_carried(folder, picked, captions))]


def imagination(figures: Mapping[str, str], study: Mapping[str, Any] | None, media: Sequence[Path]) -> list[Section]:
    """What the model imagines beside what happened, free dreams, and errors."""
    if study is None:
        return [Section("Imagination", "Not looked at yet: `dreamer imagine RUN`, or train with --loop.imagine-every.")]
    settings, folder = study["settings"], study["folder"]
    root = media[0].parents[len(Path(folder).parts)] if media else Path()
    captions = [path.stem.replace("_", " ") for path in media]
    texts = {
        "predictions": f"At step {study['step']:,}, the model observes {settings['context']} rows of episodes that "
        f"training never saw and predicts the rest by its prior alone, from the actions that were taken; "
        f"{settings['samples']} samples of each episode. All numbers are in {folder}.",
        "dreams": "From the same observed rows the policy goes on inside the model, beside what happened when it went "
        "on in the environment.",
        "errors": f"Means over {settings['episodes']} held-out episodes, beside repeating the last observed row.",
    }
    titles = {"predictions": "Imagination", "dreams": "Free dreams", "errors": "Error by steps ahead"}
    shown = {"predictions": "predictions", "dreams": "dreams"}
    parts = []
    for name, text in texts.items():
        mine = [i for i, path in enumerate(media) if _kind(path) == shown.get(name)]
        carried = _carried(root, [media[i] for i in mine], [captions[i] for i in mine])
        parts.append(Section(titles[name], text, name if name in figures else "", media=carried))
    return parts


def _kind(path: Path) -> str:
    return "dreams" if path.stem.endswith("_dreams") else "predictions"


def curves(records: Sequence[Mapping[str, Any]], groups: Mapping[str, Sequence[str]]) -> list[Section]:
    """A section for each group of metrics, with what each means."""
    parts = []
    for group, names in groups.items():
        rows: Rows = []
        for name in names:
            metric, values = _described(name), curve(records, name)[1]
            rows.append([name, metric.description, metric.unit, metric.healthy, f"{values[-1]:.4g}"])
        table = Table(["metric", "meaning", "unit", "healthy", "last"], rows, words=4)
        parts.append(Section(group, figure=group, table=table, folded=True))
    return parts


def _described(name: str) -> Metric:
    try:
        return describe(name)
    except KeyError:
        return Metric(name, "")


def settings(config: Config) -> list[Section]:
    """What the run changed of its preset, and everything."""
    everything = dict(leaves(dataclasses.asdict(config)))
    usual = dict(leaves(dataclasses.asdict(compose(config.preset, config.size))))
    changed: Rows = [
        [name, _word(value), _word(usual[name])] for name, value in everything.items() if value != usual[name]
    ]
    text = f"Preset {config.preset}, changed in these settings." if changed else f"Preset {config.preset}, unchanged."
    table = Table(["setting", "value", f"in {config.preset}"], changed, words=3) if changed else None
    rows: Rows = [[name, _word(value)] for name, value in everything.items()]
    return [
        Section("Settings", text, table=table),
        Section("All settings", table=Table(["setting", "value"], rows, words=2), folded=True),
    ]


def provenance(run: Run) -> list[Section]:
    """Commands, code, versions and machine."""
    info = run.info
    resumed = info.get("resumed") or []
    rows: Rows = [["command", str(info.get("command", UNKNOWN))]]
    rows += [["resumed", str(command)] for command in (resumed if isinstance(resumed, list) else [resumed])]
    rows += [[name, str(info.get(name, UNKNOWN))] for name in ("commit", "created", "device", "threads")]
    rows += [[name, str(info.get(name, UNKNOWN))] for name in ("python", "platform")]
    versions = info.get("versions")
    rows += [[name, str(version)] for name, version in (versions.items() if isinstance(versions, dict) else ())]
    parameters: Rows = [[part, f"{number:,}"] for part, number in run.parameters.items()]
    parts = [Section("Command and versions", table=Table(["", ""], rows, words=2))]
    if parameters:
        parameters.append(["all", f"{sum(run.parameters.values()):,}"])
        parts.append(Section("Parameters", table=Table(["part", "parameters"], parameters)))
    return parts


def _carried(root: Path, paths: Sequence[Path], captions: Sequence[str]) -> list[Media]:
    """Files below `root` as media, carried as long as there is room."""
    found, room = [], CARRIED
    for path, caption in zip(paths, captions, strict=True):
        size = path.stat().st_size
        carried = size <= room
        room -= size if carried else 0
        note = "" if carried else f" ({size / 1e6:.1f} MB, not in this page)"
        link = path.relative_to(root).as_posix()
        found.append(Media(link, caption + note, path.read_bytes() if carried else None))
    return found


def _word(value: Any) -> str:
    return shlex.join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)
