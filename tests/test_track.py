"""`dreamer track`: W&B and TensorBoard, by their own readers, hold every record of a run once."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil

import imageio.v2 as imageio
import numpy as np
import pytest
from PIL import Image
from running import ROOT
from test_tracking import find, inspect

import dreamer
from dreamer.cli.main import main
from dreamer.config import to_json
from dreamer.tracking import JsonlWriter, read
from dreamer.tracking.tensorboard import GIF_FRAMES

RECORDED = ROOT / "tests/recorded/pendulum.jsonl"
BEGAN = 1_700_000_000


@pytest.fixture
def run(tmp_path):
    """A finished run with two films; and a link among the films that leads to something else."""
    path = tmp_path / "a run"
    (path / "videos").mkdir(parents=True)
    (path / "config.json").write_text(to_json(dreamer.compose("quick", task="gym:Pendulum-v1", steps=20_000)))
    (path / "run.json").write_text(json.dumps({"device": "cpu", "created": "2023-11-14T22:13:20+00:00"}))
    shutil.copy(RECORDED, path / "metrics.jsonl")
    for step in (10_000, 20_000):
        frames = [np.full((32, 48, 3), (i * 2) % 255, np.uint8) for i in range(120)]
        imageio.mimwrite(path / "videos" / f"eval_{step:09d}.mp4", frames, fps=25, macro_block_size=16)
    (path / "notes").write_text("mine")
    (path / "videos" / "eval_000000001.mp4").symlink_to("../notes")
    return path


def track(run, capsys, *flags):
    assert main(["track", str(run), *flags]) == 0
    return capsys.readouterr().out


def scalars(run):
    """Every metric in TensorBoard: its name, and step and value of each event."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0, "images": 0}).Reload()
    return events, {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}


def expected(run):
    names = dict.fromkeys(name for record in read(run / "metrics.jsonl") for name in record if "/" in name)
    return {
        name: [(r["step"], pytest.approx(r[name], rel=1e-6)) for r in read(run / "metrics.jsonl") if name in r]
        for name in names
    }


def test_tensorboard_has_every_record_once_however_often_it_is_written(run, capsys):
    for _ in range(2):
        assert "22 records, videos: 2" in track(run, capsys, "--tensorboard")
        events, found = scalars(run)
        assert found == expected(run) and len(found) > 30
        assert len(list((run / "tensorboard").iterdir())) == 1
    films = events.Images("eval/film")
    assert [film.step for film in films] == [10_000, 20_000]
    gif = Image.open(io.BytesIO(films[0].encoded_image_string))
    assert gif.format == "GIF" and gif.size == (48, 32) and 50 < gif.n_frames <= GIF_FRAMES
    assert gif.info["duration"] == 80, "two frames of a video with 25 frames per second"
    elapsed = [record["time/elapsed"] for record in read(run / "metrics.jsonl") if "time/elapsed" in record]
    assert [e.wall_time for e in events.Scalars("time/elapsed")] == pytest.approx([BEGAN + s for s in elapsed])


def test_wandb_has_every_record_once_however_often_it_is_logged(run, capsys):
    told = track(run, capsys, "--wandb")
    run_id = re.match(r"W&B run ([0-9a-f]{8}): 22 new records, videos: 2; logs offline", told)[1]
    (folder,) = (run / "wandb").glob("offline-run-*")
    records = inspect(folder)
    history = [record["item"] for record in find(records, "history")]
    written = read(run / "metrics.jsonl")
    logged = [{k: v for k, v in item.items() if "/" in k} for item in history if "eval/film._type" not in item]
    assert [item["step"] for item in history if "eval/film._type" not in item] == [r["step"] for r in written]
    assert [item.get("train/return") for item in logged] == [r.get("train/return") for r in written]
    assert [item["step"] for item in history if "eval/film._type" in item] == [10_000, 20_000]
    assert find(records, "run")[0]["run_id"] == run_id and find(records, "run")[0]["config"]["update"]["seed"] == 0
    assert [record["exit_code"] for record in find(records, "exit")] == [0]
    assert not any(path.read_bytes() == b"mine" for path in folder.rglob("*") if path.is_file())

    assert track(run, capsys, "--wandb") == f"W&B run {run_id}: nothing new, it has all 22 records; videos: 2\n"
    assert list((run / "wandb").glob("offline-run-*")) == [folder]


def test_wandb_gets_what_has_come_since_and_a_run_of_its_own_when_the_past_has_changed(run, capsys):
    whole = (run / "metrics.jsonl").read_bytes()
    shutil.rmtree(run / "videos")
    (run / "metrics.jsonl").write_bytes(b"".join(whole.splitlines(True)[:5]) + b'{"half a rec')
    run_id = re.match(r"W&B run (\w+): 5 new records", track(run, capsys, "--wandb"))[1]
    before = set((run / "wandb").glob("offline-run-*"))
    (run / "metrics.jsonl").write_bytes(b"".join(whole.splitlines(True)[:8]))
    assert f"W&B run {run_id}: 3 new records" in track(run, capsys, "--wandb")
    (more,) = set((run / "wandb").glob("offline-run-*")) - before
    steps = [item["item"]["step"] for item in find(inspect(more), "history")]
    assert steps == [record["step"] for record in read(run / "metrics.jsonl")][5:]
    writer = JsonlWriter(run / "metrics.jsonl")  # a resume from an earlier checkpoint writes another past
    writer.truncate(len(b"".join(whole.splitlines(True)[:6])))
    for step in range(7_000, 7_500):
        writer.write(step, 1, {"train/return": 1.0})
    writer.close()
    other = re.match(r"W&B run (\w+): 506 new records", track(run, capsys, "--wandb"))[1]
    assert other != run_id


HOSTILE = {"id": "../../etc", "bytes": 0, "sha256": hashlib.sha256(b"").hexdigest(), "films": []}


@pytest.mark.parametrize("damage", ["", "[]", json.dumps(HOSTILE), '{"bytes": "many"}', "[" * 100_000])
def test_a_damaged_note_of_what_was_logged_is_a_fresh_start(run, damage):
    from dreamer.cli.track import STATE, _state

    (run / STATE).write_text(damage)
    state = _state(run / STATE, b"")
    assert state["bytes"] == 0 and state["films"] == [] and re.fullmatch("[0-9a-f]{8}", state["id"])


def test_a_tracker_that_cannot_be_written_is_told_in_one_line(run, capsys, monkeypatch):
    (run / "tensorboard").write_text("a file")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    for flags, message in (
        ((), "dreamer: name the tracker: --wandb, --tensorboard or both\n"),
        (("--tensorboard",), "dreamer: TensorBoard: [Errno 17] File exists: "),
        (("--wandb",), "dreamer: W&B is disabled here (WANDB_MODE)\n"),
    ):
        assert main(["track", str(run), *flags]) == 2
        assert capsys.readouterr().err.startswith(message)
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert main(["track", str(run), "--wandb"]) == 0, "the session of before must not be asked again"
