"""The page of a run: what it shows is what the run did, and nothing in it can act or be fetched."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from running import HOSTILE, make_run, tiny_config
from tiny import unchecked

import dreamer
from dreamer.cli.main import main
from dreamer.experiments.report import run_media, run_report
from dreamer.experiments.report.run_report import POINTS, thinned, write_run_report
from dreamer.runs.folder import open_run

PASSIVE = """
html head meta title style body h1 h2 p div nav a section figure figcaption svg g defs path text tspan use rect clippath
details summary table thead tbody tr th td i video img
"""
"""Elements that can do nothing."""


class Reader(HTMLParser):
    """Collects elements, their attributes and the text between them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attributes]

    def handle_data(self, data: str) -> None:
        self.text += data


def read_page(path: Path) -> Reader:
    """Read a page and check that it is closed: no script, no handler, nothing from elsewhere."""
    text = path.read_text()
    page = Reader(text)
    assert not page.tags - set(PASSIVE.split())
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    for name, value in page.attributes:
        if name == "src":
            assert re.match(r"data:(video/mp4|image/png);base64,[\w+/=]+$", value)
        elif name in ("href", "xlink:href"):
            assert value.startswith(("#", "./"))
        elif name not in ("xmlns", "xmlns:xlink"):
            assert "://" not in value, (name, value)
    assert not re.search(r"url\((?!#)|@import", text)
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:" in text
    return page


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run that was looked at, with open-loop evaluations and videos."""
    path = tmp_path_factory.mktemp("trained") / "run"
    with unchecked():
        dreamer.train(tiny_config(task="toy:copy", steps=40, **{"loop.imagine_every": 40}), run_dir=path)
    (path / "videos").mkdir()
    for step in (10, 20, 30, 40, 50, 60, 70):
        (path / "videos" / f"eval_{step:09d}.mp4").write_bytes(b"video of step %d" % step)
    return path


def test_the_page_of_a_run_shows_what_it_did(trained, capsys):
    assert main(["report", str(trained)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("Finished: return ") and f"report  {trained / 'report.html'}" in said
    page = read_page(trained / "report.html")
    evaluation = json.loads((trained / "metrics.jsonl").read_text().splitlines()[-2])
    assert f"return {evaluation['eval/return_mean']:z,.1f} ± " in page.text and "over 2 episodes" in page.text
    for title in (
        "Returns",
        "Videos",
        "Open-loop predictions",
        "Imagined rollouts",
        "Error by steps ahead",
        "World model",
        "Settings",
    ):
        assert title in page.text
    assert re.search(r"^Unhealthy: .*updates.*; see Diagnosis\.$", said, re.MULTILINE)
    assert "too few to learn much" in page.text and "no metric is infinite" in page.text
    info = json.loads((trained / "run.json").read_text())
    for text in (info["command"], info["commit"], info["versions"]["torch"], info["platform"], "toy:copy"):
        assert text in page.text
    assert f"{sum(info['parameters'].values()):,} parameters" in page.text
    assert "Open-loop skill over 28 steps ahead" in page.text, "an episode has 33 rows, 5 of them observed"
    page_text = (trained / "report.html").read_text()
    assert page_text.count("<svg") == 4 + 3, "returns, three of the imagination, three groups of metrics"
    assert "Loss that trains the prior towards the posterior" in page.text, "what a metric means"


def test_videos_are_carried_by_the_page_as_far_as_there_is_room(trained, monkeypatch):
    write_run_report(trained)
    sources = [value for name, value in read_page(trained / "report.html").attributes if name == "src"]
    videos = [base64.b64decode(source.partition(",")[2]) for source in sources]
    assert videos == [b"video of step %d" % step for step in (70, 50, 30, 10)]
    monkeypatch.setattr(run_media, "CARRIED", 35)
    write_run_report(trained)
    page = read_page(trained / "report.html")
    assert sum(name == "src" for name, _ in page.attributes) == 2
    links = [value for name, value in page.attributes if value.endswith(".mp4")]
    assert links == ["./videos/eval_000000030.mp4", "./videos/eval_000000010.mp4"]
    assert "step 30 (0.0 MB, not in this page)" in page.text
    write_run_report(trained, links=False)
    page = read_page(trained / "report.html")
    assert not [value for _, value in page.attributes if value.endswith(".mp4")] and "step 30" not in page.text


def test_settings_are_those_changed_from_the_preset(trained):
    changed, everything = run_report.settings(open_run(trained).config)
    assert changed.table is not None and everything.table is not None
    rows = {row[0]: row[1:] for row in changed.table.rows}
    assert rows["loop.batch_size"] == ["2", "4"] and rows["task"][0] == "toy:copy" and "loop.video" not in rows
    assert dict(everything.table.rows)["loop.video"] == "never" and len(everything.table.rows) > 80


def test_a_run_that_has_not_ended_or_begun_has_a_page(tmp_path):
    half = make_run(tmp_path / "half", until=200)
    _, summary = write_run_report(half)
    assert summary[0].startswith("Unfinished, at step 200 of 400: return 0.5 ± n/a over n/a episodes")
    assert "15.0 s" not in summary[1] and "20.0 s on cpu; 1,234 parameters" in summary[1]
    empty = make_run(tmp_path / "empty", until=0)
    assert write_run_report(empty)[1] == ["Unfinished, at step 0 of 400: not evaluated yet."]
    for path in (half, empty):
        assert "No open-loop evaluation yet" in read_page(path / "report.html").text


def test_nothing_that_a_run_holds_can_become_markup(tmp_path, trained):
    info = dict.fromkeys(("command", "commit", "created", "python", "platform"), HOSTILE)
    info |= {"versions": {HOSTILE: HOSTILE}, "resumed": [HOSTILE], "parameters": {HOSTILE: 3}}
    path = make_run(tmp_path / "<b onclick='x'>run", task=HOSTILE, info=info)
    with (path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 400, "updates": 1, f"loss/{HOSTILE}": 1.0}) + "\n")
    study = path / "imagination" / "step_000000400"
    study.mkdir(parents=True)
    record = json.loads(next(trained.glob("imagination/*/imagination.json")).read_text())
    record["errors"] = {f"{HOSTILE}{key}": curves | {"unit": HOSTILE} for key, curves in record["errors"].items()}
    for trace in record["traces"]:
        trace["key"] = HOSTILE
    (study / "imagination.json").write_text(json.dumps(record))
    (study / "<script>_dreams.mp4").write_bytes(b"video")
    write_run_report(path)
    page = read_page(path / "report.html")
    assert page.text.count(HOSTILE) > 20 and "<script> dreams" in page.text
    assert "<script" not in (path / "report.html").read_text()


DAMAGES = {
    "no metrics": (lambda path: (path / "metrics.jsonl").unlink(), "cannot read .*metrics.jsonl"),
    "no configuration": (lambda path: (path / "config.json").unlink(), "no run folder at .*config.json is missing"),
    "page": (lambda path: (path / "report.html.tmp").mkdir(), "cannot write to"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_run_is_one_line(tmp_path, trained, capsys, damage):
    path = make_run(tmp_path / "run")
    study = path / "imagination" / "step_000000400"
    study.mkdir(parents=True)
    record = next(trained.glob("imagination/*/imagination.json")).read_text()
    (study / "imagination.json").write_text(record)
    break_it, message = DAMAGES[damage]
    break_it(path)
    assert main(["report", str(path)]) == 2
    error = capsys.readouterr().err
    assert re.match(f"dreamer: .*{message}", error) and error.count("\n") == 1


def test_metrics_are_shown_where_their_names_belong():
    names = ["eval/return_mean", "loss/actor", "loss/dyn", "behavior/entropy", "optim/grad_norm", "step", "mine/idea"]
    assert run_report.panels(names) == {
        "World model": ["loss/dyn"],
        "Actor and critic": ["loss/actor", "behavior/entropy"],
        "Optimizer, replay and time": ["optim/grad_norm"],
        "Other metrics": ["mine/idea"],
    }


def test_long_curves_are_thinned_to_means():
    steps = np.arange(1000.0)
    short = thinned(steps[:POINTS], steps[:POINTS])
    np.testing.assert_array_equal(short[0], steps[:POINTS])
    where, values = thinned(steps, np.ones(1000))
    assert len(where) == POINTS and (values == 1).all()
    assert where[0] == pytest.approx(1.0) and where[-1] == pytest.approx(997.5), "the means of 3 and of 4 records"
