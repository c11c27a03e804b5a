"""Tracking: metrics.jsonl is complete whatever happens, and every view shows what it holds."""

import io
import json
import math
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from itertools import groupby
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest
from running import differences, tiny_config
from tiny import unchecked

import dreamer
from dreamer.config import group_name
from dreamer.errors import UserError
from dreamer.runs import provenance
from dreamer.runs.folder import create_run, open_run
from dreamer.tracking import (
    JsonlWriter,
    Metric,
    Tracker,
    TrackingConfig,
    View,
    describe,
    is_registered,
    open_tracker,
    read,
)
from dreamer.tracking.console import ConsoleView
from dreamer.tracking.destination import as_kept, foreign
from dreamer.tracking.jsonl import STRICT
from dreamer.tracking.metrics import METRICS
from dreamer.tracking.progress import DISPLAYS, command_progress, follow, phase
from dreamer.tracking.tensorboard import TensorBoardView
from dreamer.tracking.views import ABANDON_SECONDS
from dreamer.tracking.wandb import WandbView

ROOT = Path(__file__).resolve().parent.parent
QUIET = TrackingConfig(wandb="off", console=False)
COMMIT = "0123456789abcdef0123456789abcdef01234567"


# Definitions


def test_every_row_of_the_registry_is_a_metric_below_the_title_of_its_group():
    page = (ROOT / "dreamer/tracking/metrics.md").read_text()
    sections = re.split(r"^## (\w+)$", page, flags=re.MULTILINE)
    rows = [
        (group, row)
        for group, text in zip(sections[1::2], sections[2::2], strict=True)
        for row in re.findall(r"^\| `.*", text, re.M)
    ]
    assert len(rows) == len(METRICS) > 70
    for (group, row), metric in zip(rows, METRICS, strict=True):
        assert metric.name.partition("/")[0] == group
        assert row == f"| `{metric.name}` | {metric.description} | {metric.unit} | {metric.healthy} |"


def test_definitions_are_complete_sentences_without_duplicates():
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert re.fullmatch(r"[a-z]+(/[a-z][a-z0-9_]*)*(/<[a-z]+>)?", metric.name)
        assert metric.description[0].isupper() and metric.description.endswith(".")


def test_describe_knows_names_and_families():
    assert describe("model/kl_dyn").unit == "nats"
    assert describe("loss/dyn").description != describe("loss/overshooting").description
    for key in ("joint_angles", "joint pos", "goal:x", "température"):
        assert describe(f"reconstruction/{key}").name == f"reconstruction/{key}"
    for unknown in ("train/retrun", "loss/", "reconstruction/a\tb", "train", "reconstruction/x\n"):
        assert describe(unknown) == Metric(unknown, "") and not is_registered(unknown)
    assert is_registered("loss/dyn") and is_registered("reconstruction/goal:x")


# metrics.jsonl


def test_jsonl_roundtrip_is_strict_json(tmp_path):
    writer = JsonlWriter(tmp_path / "metrics.jsonl")
    writer.write(0, 0, {"train/return": 0.1, "loss/actor": math.nan})
    writer.write(4, 1, {"loss/actor": math.inf, "loss/critic": -math.inf, "loss/dyn": np.float32(0.5)})

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line, parse_constant=refuse)["step"] for line in lines] == [0, 4]
    first, second = read(tmp_path / "metrics.jsonl")
    assert first["train/return"] == 0.1 and math.isnan(first["loss/actor"])
    assert second == {"step": 4, "updates": 1, "loss/actor": math.inf, "loss/critic": -math.inf, "loss/dyn": 0.5}


def test_an_unregistered_metric_is_written_with_one_warning(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv(STRICT)
    tracker = open_tracker(QUIET, tmp_path, {}, {}, 100, None)
    for step in range(3):
        tracker.log(step, {"train/return": 1.0, "mine/idea": step, "bare": 2.0})
    tracker.close("finished")
    assert [record["mine/idea"] for record in read(tmp_path / "metrics.jsonl")] == [0, 1, 2]
    warnings = capsys.readouterr().err.splitlines()
    assert ["'mine/idea' is not defined" in line for line in warnings] == [True, False] and "'bare'" in warnings[1]


def test_an_unregistered_metric_is_an_error_in_the_tests_and_nothing_is_written(tmp_path):
    tracker = open_tracker(QUIET, tmp_path, {}, {}, 100, None)
    with pytest.raises(ValueError, match="train/retrun"):
        tracker.log(0, {"train/length": 1.0, "train/retrun": 1.0})
    tracker.close("failed")
    assert read(tmp_path / "metrics.jsonl") == []


@pytest.mark.parametrize("name", ["step", "updates"])
def test_a_metric_cannot_take_the_place_of_a_counter(tmp_path, monkeypatch, name):
    monkeypatch.delenv(STRICT)
    writer = JsonlWriter(tmp_path / "metrics.jsonl")
    with pytest.raises(ValueError, match=f"cannot be called '{name}'"):
        writer.write(3, 1, {name: 7.0})
    assert read(tmp_path / "metrics.jsonl") == []


def test_a_cut_at_any_byte_costs_only_the_cut_record(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writer = JsonlWriter(path)
    for step in range(3):
        writer.write(step, step, {"train/return": step})
    whole, records = path.read_bytes(), read(path)
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        survivors = records[: whole[:size].count(b"\n")]
        assert read(path) == survivors
        reopened = JsonlWriter(path)
        assert reopened.last == (survivors[-1] if survivors else {})
        reopened.write(9, 9, {"train/return": 9})
        reopened.close()
        assert read(path) == [*survivors, {"step": 9, "updates": 9, "train/return": 9}]


def test_resume_forgets_what_followed_the_checkpoint(tmp_path):
    tracker = open_tracker(QUIET, tmp_path, {}, {}, 100, None)
    tracker.log(10, {"loop/updates": 3, "train/return": 1.0})
    offset = tracker.writer.size
    tracker.log(20, {"loop/updates": 7, "train/return": 2.0})
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 30, "upda')
    resumed = open_tracker(QUIET, tmp_path, {}, {}, 100, offset)
    resumed.log(20, {"eval/return_mean": 5.0})
    resumed.close("finished")
    resumed.close("finished")
    assert [(r["step"], r["updates"]) for r in read(tmp_path / "metrics.jsonl")] == [(10, 3), (20, 3)]


def test_a_file_shorter_than_the_checkpoint_is_told_and_continued(tmp_path, capsys):
    open_tracker(QUIET, tmp_path, {}, {}, 100, 50).close("finished")
    assert "lacks 50 bytes" in capsys.readouterr().err


def test_a_new_run_never_continues_the_file_of_another(tmp_path):
    tracker = open_tracker(QUIET, tmp_path, {}, {}, 100, None)
    tracker.log(0, {"train/return": 1.0})
    tracker.close("finished")
    with pytest.raises(UserError, match="earlier run"):
        open_tracker(QUIET, tmp_path, {}, {}, 100, None)
    assert len(read(tmp_path / "metrics.jsonl")) == 1


def test_damage_inside_the_file_is_told_with_its_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for damage in (b"{half\n", b"[1]\n", b'{"step": "x"}\n', b"\xff\n", b"[" * 10_000 + b"\n"):
        path.write_bytes(b'{"step": 1, "updates": 0}\n' + damage)
        with pytest.raises(UserError, match="line 2"):
            read(path)
    with pytest.raises(UserError, match="cannot read"):
        read(tmp_path / "none.jsonl")
    with pytest.raises(UserError, match="cannot write"):
        JsonlWriter(tmp_path)


def test_a_full_disk_leaves_whole_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writer = JsonlWriter(path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # A limit on the size of files fails as a full disk does: part of a write succeeds, the rest raises.
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    written = 0
    try:
        with pytest.raises(UserError, match="cannot write"):
            for written in range(10_000):
                writer.write(written, 0, {"train/return": 1.0})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(read(path)) == written > 1000
    assert path.read_bytes().endswith(b"\n")
    writer.write(written, 0, {"train/return": 1.0})
    assert len(read(path)) == written + 1


# Views that misbehave


class Raising(View):
    title = "Raising"

    def log(self, step, values):
        raise RuntimeError(f"cannot show step {step}\nwith details")


class Quitting(View):
    title = "Quitting"

    def log(self, step, values):
        sys.exit(3)


class Stalling(View):
    title = "Stalling"

    def __init__(self):
        self.abandoned = threading.Event()

    def log(self, step, values):
        threading.Event().wait()

    def abandon(self):
        self.abandoned.set()


class StallingStart(Stalling):
    title = "Stalling at start"

    def start(self):
        threading.Event().wait()


class Recording(View):
    title = "Recording"

    def __init__(self):
        self.calls = []

    def log(self, step, values):
        self.calls.append(("log", step, dict(values)))

    def video(self, step, name, path):
        self.calls.append(("video", step, name, path))

    def image(self, step, name, path):
        self.calls.append(("image", step, name, path))

    def summary(self, values):
        self.calls.append(("summary", dict(values)))

    def close(self, status):
        self.calls.append(("close", status))


@pytest.mark.parametrize("bad", [Raising, Quitting, Stalling, StallingStart])
def test_a_bad_view_neither_blocks_nor_costs_a_record(bad, tmp_path, capsys):
    view, good = bad(), Recording()
    config = TrackingConfig(close_seconds=0.3)
    tracker = Tracker(config, JsonlWriter(tmp_path / "metrics.jsonl"), [view, good])
    waits = []
    for step in range(1200):
        begin = time.perf_counter()
        tracker.log(step, {"train/return": step})
        waits.append(time.perf_counter() - begin)
        if step % 100 == 0:
            time.sleep(0.01)
    # All but the odd turn that the operating system gives to others.
    assert sorted(waits)[1190] < 0.05
    begin = time.perf_counter()
    tracker.close("finished")
    assert time.perf_counter() - begin < 2
    assert [record["step"] for record in read(tmp_path / "metrics.jsonl")] == list(range(1200))
    assert [call[1] for call in good.calls[:-1]] == list(range(1200)) and good.calls[-1] == ("close", "finished")
    told = [line for line in capsys.readouterr().err.splitlines() if view.title in line]
    if isinstance(view, Stalling):
        assert len(told) == 2 and "misses some records" in told[0] and "did not finish in time" in told[1]
        assert view.abandoned.is_set()
    else:
        assert len(told) == 1 and "switched off" in told[0] and "metrics.jsonl is complete" in told[0]


def test_views_get_everything_in_order(tmp_path):
    view = Recording()
    tracker = Tracker(TrackingConfig(), JsonlWriter(tmp_path / "metrics.jsonl"), [view])
    tracker.log(1, {"train/return": 2})
    tracker.video(1, "eval/film", tmp_path / "film.mp4")
    tracker.image(1, "imagination/errors", tmp_path / "errors.png")
    tracker.summary({"eval/return_mean": 3})
    tracker.close("interrupted")
    assert view.calls == [
        ("log", 1, {"train/return": 2.0}),
        ("video", 1, "eval/film", tmp_path / "film.mp4"),
        ("image", 1, "imagination/errors", tmp_path / "errors.png"),
        ("summary", {"eval/return_mean": 3.0}),
        ("close", "interrupted"),
    ]


# Console


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


class Closed(io.StringIO):
    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")


def test_console_prints_plain_lines_at_most_every_ten_seconds():
    now = [0.0]
    stream = io.StringIO()
    console = ConsoleView(1000, stream, clock=lambda: now[0])
    for step in range(0, 400, 10):
        now[0] = step / 10
        console.log(step, {"train/return": float(step), "time/env_steps_per_second": 1234.5, "loss/dyn": 1.0})
    evaluation = {"eval/return_mean": 81.25, "eval/return_std": 2.0, "eval/episodes": 10, "eval/mode_return_mean": 90.0}
    console.log(400, evaluation)
    now[0] = 60.0
    with phase("evaluating", 30, "steps") as show:
        for done in (1, 2):
            show(done)
            console.advance(400, learning=True)
    console.close("finished")
    lines = stream.getvalue().splitlines()
    assert lines[0] == "step 0 of 1,000 (0%)  ETA -  1,234 env steps/s  train return 0.0"
    assert lines[1] == "step 100 of 1,000 (10%)  ETA 0:01:30  1,234 env steps/s  train return 100.0"
    assert len(lines) == 6
    assert lines[5].startswith("step 400 of 1,000 (40%)  evaluating 0 of 30 steps  ETA 0:00:58  1,234 env steps/s")
    assert lines[4] == "step 400  evaluation return 81.2 (std 2.0) over 10 episodes, most likely actions 90.0"


def test_console_draws_a_bar_in_a_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("NO_COLOR", raising=False)
    colored, plain = draw_in_terminal(), None
    monkeypatch.setenv("NO_COLOR", "1")
    plain = draw_in_terminal()
    for output in (colored, plain):
        assert "500 of 1,000 steps" in output and "ETA 0:00:" in output and "7.5 updates/s" in output
        assert "train return 12.0" in output and "evaluation return 9.0" in output
        frames = re.findall(r"(collecting|learning|filming|finished) .*?([\d,]+) of 1,000 steps", output)
        names = ["collecting", "collecting", "learning", "filming", "learning", "finished"]
        assert [frame for frame, _ in groupby(frames)] == list(zip(names, ["0", "500", *4 * ["520"]], strict=True))
        assert output.count("40 steps") == 1
        assert output.index("\x1b[?25l") < output.rindex("\x1b[?25h")
    assert re.search(r"\x1b\[[0-9;]*38;", colored) and not re.search(r"\x1b\[[0-9;]*38;", plain)


def draw_in_terminal():
    now = [0.0]
    stream = Terminal()
    console = ConsoleView(1000, stream, clock=lambda: now[0])
    console.log(0, {"train/return": 11.0, "time/updates_per_second": 7.5})
    now[0] = 10.0
    console.log(500, {"train/return": 12.0, "eval/return_mean": 9.0})
    now[0] += 0.3
    console.advance(520, learning=True)
    with phase("filming", unit="steps") as show:
        now[0] += 0.3
        show(40)
    console.close("finished")
    return stream.getvalue()


def test_console_survives_odd_streams(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    ascii_terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    monkeypatch.setattr(ascii_terminal, "isatty", lambda: True, raising=False)
    for stream in (ascii_terminal, Closed()):
        console = ConsoleView(1000, stream)
        console.log(10, {"eval/return_mean": 1.0})
        console.close("failed")
    assert b"evaluation return 1.0" in ascii_terminal.buffer.getvalue()
    monkeypatch.setenv("TERM", "dumb")
    dumb = Terminal()
    ConsoleView(1000, dumb).log(10, {"train/return": 1.0})
    assert "\x1b" not in dumb.getvalue() and "step 10" in dumb.getvalue()


def test_a_command_shows_its_phases_in_a_terminal_and_erases_them(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr("dreamer.tracking.progress.BAR_SECONDS", 0.0)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    before = list(DISPLAYS)
    with command_progress():
        with phase("memory", 2, "models") as show:
            show(1)
            assert list(follow("abcd", "training", 4, "updates")) == list("abcd")
            print("a line of a library", file=sys.stderr)
        assert sys.stderr is terminal
        drawn = len(terminal.getvalue())
        print("the result")
    output = terminal.getvalue()
    assert len(output) == drawn and before == DISPLAYS, "nothing is left of the bar when results are printed"
    assert "memory 1 of 2 models, training" in output and "3 of 4 updates  ETA 0:00:00" in output
    assert "\na line of a library\n" in output.replace("\x1b[2K", "").replace("\r", "\n")
    assert output.endswith("\x1b[?25h\r\x1b[1A\x1b[2K"), "the cursor is back and the line erased"


def test_from_python_and_outside_a_terminal_a_phase_shows_nothing(monkeypatch, capsys):
    with command_progress():
        assert list(follow(range(3), "training", 3)) == [0, 1, 2]
    assert list(follow(range(3), "training", 3)) == [0, 1, 2] and capsys.readouterr() == ("", "")


def test_lines_for_a_file_stay_there_while_a_bar_is_in_the_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    file = io.StringIO()
    monkeypatch.setattr(sys, "stderr", file)
    console = ConsoleView(1000, Terminal())
    print("to the file", file=sys.stderr)
    console.close("finished")
    assert file.getvalue() == "to the file\n"


# TensorBoard


def test_tensorboard_is_read_back_and_drops_what_a_resume_repeats(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = TrackingConfig(wandb="off", console=False, tensorboard=True)
    first = open_tracker(config, tmp_path, {}, {}, 100, None)
    first.log(0, {"train/return": 0.0})
    first.log(10, {"train/return": 1.0, "loss/dyn": math.nan})
    offset = first.writer.size
    first.log(20, {"train/return": -1.0})
    first.log(30, {"train/return": -1.0})
    first.close("failed")
    second = open_tracker(config, tmp_path, {}, {}, 100, offset)
    second.log(20, {"train/return": 2.0})
    second.close("finished")
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/return")] == [(0, 0), (10, 1), (20, 2)]
    assert math.isnan(events.Scalars("loss/dyn")[0].value)


def test_tensorboard_keeps_pictures(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    picture = tmp_path / "errors.png"
    imageio.imwrite(picture, np.zeros((7, 300, 3), np.uint8))
    tracker = open_tracker(TrackingConfig(wandb="off", console=False, tensorboard=True), tmp_path, {}, {}, 100, None)
    tracker.image(20, "imagination/errors", picture)
    tracker.close("finished")
    (image,) = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Images("imagination/errors")
    assert (image.step, image.width, image.height) == (20, 300, 7)
    assert image.encoded_image_string == picture.read_bytes()


def test_films_and_pictures_stay_where_they_are_when_not_wanted(tmp_path):
    view = Recording()
    tracker = Tracker(TrackingConfig(video=False), JsonlWriter(tmp_path / "metrics.jsonl"), [view])
    tracker.video(1, "eval/film", tmp_path / "film.mp4")
    tracker.image(1, "imagination/errors", tmp_path / "errors.png")
    tracker.close("finished")
    assert view.calls == [("close", "finished")]


def test_missing_tensorboard_is_one_line(tmp_path, monkeypatch, capsys):
    for name in [name for name in sys.modules if name.partition(".")[0] == "tensorboard"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    tracker = Tracker(QUIET, JsonlWriter(tmp_path / "metrics.jsonl"), [TensorBoardView(tmp_path / "tensorboard")])
    tracker.log(0, {"train/return": 1.0})
    tracker.close("finished")
    (line,) = capsys.readouterr().err.splitlines()
    assert "pip install tensorboard" in line and len(read(tmp_path / "metrics.jsonl")) == 1


# W&B


@pytest.fixture
def hanging_server(monkeypatch, home):
    """A user who is logged in to a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
        yield


def test_offline_wandb_run_is_read_back_and_resumed(tmp_path, home, capfd):
    run_dir = tmp_path / "a run"
    run_dir.mkdir()
    film = run_dir / "eval_000000010.mp4"
    imageio.mimwrite(film, [np.full((16, 16, 3), 8 * i, np.uint8) for i in range(8)], fps=8, macro_block_size=16)
    names = {"wandb_project": "some-project", "wandb_group": "g", "wandb_tags": ("a", "b")}
    config = TrackingConfig(console=False, close_seconds=200.0, **names)
    info = {"commit": COMMIT + "-dirty", "command": "dreamer train --seed 3"}

    tracker = open_tracker(config, run_dir, info, {"seed": 3, "agent": {"size": "1m"}}, 100, None)
    tracker.log(0, {"train/return": 1.5, "loss/actor": math.nan})
    tracker.log(10, {"train/return": 2.5})
    tracker.video(10, "eval/film", film)
    picture = run_dir / "errors.png"
    imageio.imwrite(picture, np.zeros((7, 9, 3), np.uint8))
    tracker.image(10, "imagination/errors", picture)
    offset = tracker.writer.size
    tracker.log(20, {"train/return": 3.5})
    tracker.summary({"eval/return_mean": 7.0})
    (run_dir / "step_000000000020.ckpt").write_bytes(b"weights")
    tracker.artifact(20, "best", {"checkpoints/step_000000000020.ckpt": run_dir / "step_000000000020.ckpt"})
    tracker.close("finished")
    assert service_processes() == []

    printed = capfd.readouterr()
    assert printed.out == "" and len(printed.err.splitlines()) == 1
    assert f"upload with: wandb sync '{run_dir}/wandb'/offline-run-*" in printed.err

    (folder,) = (run_dir / "wandb").glob("offline-run-*")
    records = inspect(folder)
    (run,) = find(records, "run")
    assert run["run_id"] == (run_dir / "wandb_id").read_text().strip()
    assert run["project"] == "some-project" and run["run_group"] == "g" and run["tags"] == ["a", "b"]
    settings = run["config"]["update"]
    assert settings["seed"] == 3 and settings["agent"] == {"size": "1m"} and settings["run_info"] == info
    assert run["git"]["commit"] == COMMIT
    assert {"glob_name": "*", "step_metric": "step"}.items() <= find(records, "metric")[1].items()
    history = [record["item"] for record in find(records, "history")]
    assert [item["step"] for item in history] == [0, 10, 10, 10, 20]
    assert [item.get("train/return") for item in history] == [1.5, 2.5, None, None, 3.5]
    assert history[0]["loss/actor"] == "NaN"
    assert (folder / "files" / history[2]["eval/film.path"]).read_bytes() == film.read_bytes()
    assert (folder / "files" / history[3]["imagination/errors.path"]).read_bytes()[:4] == b"\x89PNG"
    summary = {key: value for record in find(records, "summary") for key, value in record["update"].items()}
    assert summary["final/return_mean"] == 7.0 and summary["train/return"] == {"max": 3.5}
    assert run["job_type"] == "train" and run["display_name"] == "a run"
    (artifact,) = find(records, "artifact")
    assert (artifact["type"], set(artifact["aliases"])) == ("model", {"best", "latest"})
    (content,) = artifact["manifest"]["contents"]
    assert content["path"] == "checkpoints/step_000000000020.ckpt" and artifact["name"] == f"model-{run['run_id']}"
    assert Path(content["local_path"]).read_bytes() == b"weights"
    assert [record["exit_code"] for record in find(records, "exit")] == [0]

    resumed = open_tracker(config, run_dir, info, {}, 100, offset)
    resumed.log(20, {"train/return": 3.5})
    resumed.close("interrupted")
    assert service_processes() == []
    (again,) = set((run_dir / "wandb").glob("offline-run-*")) - {folder}
    records = inspect(again)
    assert find(records, "run")[0]["run_id"] == run["run_id"] and find(records, "run")[0]["resume"] is True
    assert "display_name" not in find(records, "run")[0], "a resumed run keeps its name"
    assert [record["item"]["step"] for record in find(records, "history")] == [20]
    assert find(records, "preempting") and find(records, "exit")[0]["exit_code"] == 1


VARIABLES = {
    "PROJECT": ("project", "their-project", "project", "my-project"),
    "ENTITY": ("entity", "their-team", "entity", "my-team"),
    "NAME": ("display_name", "their-name", "name", "my-name"),
    "RUN_GROUP": ("run_group", "their-group", "group", "my-group"),
    "TAGS": ("tags", "a,b", "tags", ("c",)),
    "NOTES": ("notes", "their notes", None, None),
    "JOB_TYPE": ("job_type", "their-job", None, None),
    "RUN_ID": ("run_id", "their-id", None, None),
}
"""Variable of W&B -> its field in the record of a run, a value, the setting here and another value."""


def test_variables_of_wandb_win_over_defaults_and_flags_over_variables(tmp_path, home, monkeypatch, capfd):
    for variable, (_, value, *_) in VARIABLES.items():
        monkeypatch.setenv(f"WANDB_{variable}", value)
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    flags = {f"wandb_{setting}": value for *_, setting, value in VARIABLES.values() if setting}
    for folder, config in (("first", {}), ("second", flags)):
        (tmp_path / folder).mkdir()
        config = TrackingConfig(console=False, close_seconds=200.0, **config)
        tracker = open_tracker(config, tmp_path / folder, {}, {}, 100, None, group="usual-group")
        tracker.close("finished")
        assert f"upload with: wandb sync {tmp_path}/wandb/offline-run-*" in capfd.readouterr().err
    first, second = (find(inspect(run), "run")[0] for run in sorted((tmp_path / "wandb").glob("offline-run-*")))
    for field, value, setting, given in VARIABLES.values():
        assert first[field] == (value.split(",") if field == "tags" else value)
        assert second[field] == ((list(given) if field == "tags" else given) if setting else first[field])


def test_without_flags_and_variables_wandb_gets_the_defaults(tmp_path, home):
    path = tmp_path / "some run"
    path.mkdir()
    config = TrackingConfig(console=False, close_seconds=200.0)
    open_tracker(config, path, {}, {}, 100, None, group="usual-group").close("finished")
    (run,) = find(inspect(next((path / "wandb").glob("offline-run-*"))), "run")
    found = {name: run.get(name) for name in ("project", "run_group", "display_name", "job_type", "entity", "tags")}
    assert found == {
        "project": "dreamer",
        "run_group": "usual-group",
        "display_name": "some run",
        "job_type": "train",
        "entity": None,
        "tags": None,
    }


def test_wandb_gets_used_settings_uncommitted_changes_and_the_best_model(tmp_path, home, monkeypatch):
    """Of a whole run; the changes are in its folder, too."""
    secret = "an-old-secret-value"
    monkeypatch.setenv("SOME_TOKEN", secret)
    monkeypatch.setattr(provenance, "CODE", edited_checkout(tmp_path / "code", f"x = 2  # {secret}\n"))
    changes = {"agent.dynamics.core": "gru", "agent.dynamics.gru.deter": 16, "tracking.wandb": "offline"}
    changes |= {"tracking.wandb_artifact": "best", "tracking.close_seconds": 100.0}
    with unchecked():
        run = dreamer.train(tiny_config(steps=20, **{"loop.eval_every": 10} | changes), run_dir=tmp_path / "run")
    records = inspect(next((run.path / "wandb").glob("offline-run-*")))
    (logged,) = find(records, "run")
    settings = logged["config"]["update"]
    dynamics = settings["agent"]["dynamics"]
    assert set(dynamics) == {"core", "latent", "gru"} and dynamics["gru"]["deter"] == 16
    assert logged["run_group"] == group_name(open_run(run.path).config)
    assert logged["git"]["commit"] == open_run(run.path).info["commit"].removesuffix("-dirty")
    patch = (run.path / "diff.patch").read_text()
    assert "-x = 1\n+x = 2  # [secret]\n" in patch and open_run(run.path).info["commit"].endswith("-dirty")
    (sent,) = (run.path / "wandb").glob("offline-run-*/files/diff.patch")
    assert sent.read_text() == patch and {"path": "diff.patch"} in [
        file for one in find(records, "files") for file in one["files"]
    ]
    (artifact,) = find(records, "artifact")
    names = {content["path"]: content["local_path"] for content in artifact["manifest"]["contents"]}
    assert set(artifact["aliases"]) == {"best", "latest"} and set(names) == {
        "config.json",
        "run.json",
        "checkpoints/step_000000000010.ckpt",
    }
    for name, local in names.items():
        target = tmp_path / "model" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(Path(local).read_bytes())
    assert not differences(
        dreamer.load(tmp_path / "model").state_dict(), dreamer.load(run.path, checkpoint="best").state_dict()
    )


def edited_checkout(folder, text):
    """A git repository whose only file, `x.py`, differs from its commit."""
    folder.mkdir()
    (folder / "x.py").write_text("x = 1\n")
    name = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    for words in (["init", "-q"], ["add", "x.py"], [*name, "commit", "-q", "-m", "x"]):
        subprocess.run(["git", "-C", str(folder), *words], check=True, capture_output=True)
    (folder / "x.py").write_text(text)
    return folder


def test_uncommitted_changes_are_cut_at_a_line_and_kept_only_where_wanted(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "CODE", edited_checkout(tmp_path / "code", "y = 'some line'\n" * 100_000))
    found = provenance.diff()
    assert 990_000 < len(found.encode()) <= 1_000_000
    *_, line, last = found.splitlines()
    assert (line, last) == ("+y = 'some line'", "# cut here: there are more changes than 1 MB")
    config = tiny_config(**{"tracking.git_diff": False})
    assert not (create_run(tmp_path / "off", config, "cpu").path / "diff.patch").exists()
    monkeypatch.setattr(provenance, "CODE", tmp_path)
    assert (
        provenance.diff() == "" and not (create_run(tmp_path / "on", tiny_config(), "cpu").path / "diff.patch").exists()
    )


@pytest.mark.parametrize(("mode", "lines"), [("disabled", 0), ("offline", 1)])
def test_wandb_mode_is_respected(mode, lines, tmp_path, hanging_server, monkeypatch, capfd):
    monkeypatch.setenv("WANDB_MODE", mode)
    tracker = open_tracker(TrackingConfig(console=False), tmp_path, {}, {}, 100, None)
    tracker.log(0, {"train/return": 1.0})
    tracker.close("finished")
    assert len(capfd.readouterr().err.splitlines()) == lines
    assert len(list(tmp_path.glob("wandb/offline-run-*"))) == lines
    assert service_processes() == []


def test_wandb_goes_offline_when_the_server_does_not_answer(tmp_path, hanging_server, capfd):
    view = WandbView(TrackingConfig(close_seconds=4.0), tmp_path, {}, {}, init_seconds=1.0)
    view.start()
    view.log(0, {"train/return": 1.0})
    view.close("finished")
    assert "offline (no connection" in view.notice and "a" * 40 not in view.notice
    (folder,) = tmp_path.glob("wandb/offline-run-*")
    assert [record["item"]["train/return"] for record in find(inspect(folder), "history")] == [1.0]
    assert service_processes() == []
    printed = capfd.readouterr()
    assert printed.out == printed.err == ""


def test_a_process_ends_though_wandb_hangs(tmp_path, hanging_server):
    script = """
        import sys, time
        from pathlib import Path
        from dreamer.tracking import TrackingConfig, open_tracker

        tracker = open_tracker(TrackingConfig(console=False, close_seconds=1.0), Path(sys.argv[1]), {}, {}, 100, None)
        for step in range(5):
            tracker.log(step, {"train/return": 1.0})
        time.sleep(1)
        begin = time.monotonic()
        tracker.close("finished")
        print(time.monotonic() - begin)
    """
    begin = time.monotonic()
    done = run_script(script, tmp_path)
    assert time.monotonic() - begin < 30
    assert float(done.stdout) < 1 + ABANDON_SECONDS
    assert done.stderr.splitlines() == ["dreamer: W&B did not finish in time; metrics.jsonl is complete"]
    assert len(read(tmp_path / "metrics.jsonl")) == 5


@pytest.mark.skipif(sys.platform != "linux", reason="finds the service process in /proc")
def test_a_killed_wandb_service_is_one_line(tmp_path, home, capfd):
    tracker = open_tracker(TrackingConfig(console=False), tmp_path, {}, {}, 100, None)
    printed = ""
    for step in range(600):
        tracker.log(step, {"train/return": 1.0})
        printed += capfd.readouterr().err
        if "switched off" in printed:
            break
        if "offline" in printed:
            for process in service_processes():
                os.kill(process, signal.SIGKILL)
        time.sleep(0.05)
    tracker.close("finished")
    printed += capfd.readouterr().err
    assert len(printed.splitlines()) == 2 and "W&B is switched off" in printed
    assert len(read(tmp_path / "metrics.jsonl")) == step + 1


def test_a_hostile_wandb_id_is_refused(tmp_path, home, capfd):
    (tmp_path / "wandb_id").write_text("../../etc\n")
    tracker = open_tracker(TrackingConfig(console=False), tmp_path, {}, {}, 100, None)
    tracker.log(0, {"train/return": 1.0})
    tracker.close("finished")
    assert "delete it to start a new W&B run" in capfd.readouterr().err
    assert len(read(tmp_path / "metrics.jsonl")) == 1 and service_processes() == []


def run_script(script, *arguments):
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=environment)


def inspect(folder):
    """The records of a W&B run, by W&B's own reader."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def find(records, kind):
    return [record[kind] for record in records if record["type"] == kind]


def service_processes():
    """Running W&B service processes that this process has started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = path.read_text().partition("(")[2].rpartition(")")
        except OSError:
            continue
        state, parent = rest.split()[:2]
        if name.startswith("wandb-core") and int(parent) == os.getpid() and state != "Z":
            found.append(int(path.parent.name))
    return found


def test_the_wandb_run_of_a_sweep_is_kept_and_resumed(tmp_path, home, monkeypatch, capfd):
    """In a sweep W&B takes id, project and entity from its variables and not from the call."""
    sweep = {"SWEEP_ID": "s1", "RUN_ID": "chosen", "PROJECT": "theirs", "ENTITY": "team"}
    with monkeypatch.context() as patched:
        for name, value in sweep.items():
            patched.setenv(f"WANDB_{name}", value)
        open_tracker(TrackingConfig(console=False), tmp_path, {}, {}, 100, None).close("interrupted")
    assert (tmp_path / "wandb_id").read_text() == "chosen\n"
    kept = as_kept(TrackingConfig(console=False), tmp_path)
    assert (kept.wandb_project, kept.wandb_entity) == ("theirs", "team")
    assert foreign(kept) == {"wandb-project": "theirs", "wandb-entity": "team"}, "the folder alone does not choose"
    open_tracker(kept, tmp_path, {}, {}, 100, 0).close("finished")
    first, second = (find(inspect(run), "run")[0] for run in sorted((tmp_path / "wandb").glob("offline-run-*")))
    assert first["run_id"] == second["run_id"] == "chosen"
    assert (second["project"], second["entity"]) == ("theirs", "team")
