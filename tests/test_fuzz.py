"""Readers of files from outside, fed with what hypothesis makes of good ones: an answer or one line, never a traceback.

CI tries 60 examples a test. A longer run, which counts them:

    DREAMER_FUZZ_EXAMPLES=20000 python -m pytest tests/test_fuzz.py --hypothesis-show-statistics
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import os
import random
import re
import tempfile
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from running import tiny_config

import dreamer
from dreamer.batch import Row
from dreamer.cli.track import _state
from dreamer.config import from_json, to_json
from dreamer.errors import UserError
from dreamer.experience.layout import RowLayout
from dreamer.experience.replay import Replay, ReplayConfig
from dreamer.experiments.diagnosis.checks import CHECKS
from dreamer.experiments.diagnosis.history import RunHistory
from dreamer.experiments.report.document import Document, Section, Table, TableCell, html, markdown
from dreamer.experiments.report.run_folders import find_runs
from dreamer.runs import checkpoint
from dreamer.runs.folder import open_run
from dreamer.runs.saved import understood
from dreamer.tracking import JsonlWriter, read
from dreamer.training.load import load

fuzz = settings(
    max_examples=int(os.environ.get("DREAMER_FUZZ_EXAMPLES", 60)),
    derandomize="DREAMER_FUZZ_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
)
NUMBERS = st.one_of(st.integers(), st.floats(), st.sampled_from([0, -1, 1, 2**31, 2**63, 10**30, 1e308, 0.5]))
LEAVES = st.one_of(
    st.none(), st.booleans(), NUMBERS, st.text(max_size=12), st.sampled_from(["../../x", "<script>", "$\\x$", "NaN"])
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
SEEDS = st.integers(0, 2**32 - 1)


def one_line(error: UserError) -> bool:
    return "\n" not in str(error) and 5 < len(str(error)) < 2000


def damaged(tree, value, seed):
    """A copy of nested dicts and lists in which one place is gone, doubled or `value`; `seed` says where."""
    tree, rng = copy.deepcopy(tree), random.Random(seed)
    inner = tree
    while True:
        keys = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
        if not keys:
            return value
        key = rng.choice(keys)
        if isinstance(inner[key], (dict, list)) and inner[key] and rng.random() < 0.8:
            inner = inner[key]
            continue
        action = rng.choice(["replace", "replace", "delete", "add"])
        if action == "delete":
            del inner[key]
        elif action == "replace":
            inner[key] = value
        elif isinstance(inner, dict):
            inner[f"{key}_"] = value
        else:
            inner.append(value)
        return tree


def cut(data: bytes, seed: int) -> bytes:
    """The bytes with some flipped, cut off or repeated."""
    rng, data = random.Random(seed), bytearray(data)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(data) + 1)
        match rng.choice(["flip", "cut", "insert", "repeat"]):
            case "flip" if place < len(data):
                data[place] ^= 1 << rng.randrange(8)
            case "cut":
                del data[place : place + rng.randint(1, 64)]
            case "insert":
                data[place:place] = rng.choice([b"\0", b"\xff\xfe", b"\n", b"{", b"1e999", b'"'])
            case _:
                data[place:place] = data[max(0, place - 32) : place]
    return bytes(data)


# Configuration and run.json

CONFIG = json.loads(to_json(tiny_config()))
INFO = {"device": "cpu", "command": "dreamer train", "commit": "unknown", "parameters": {"encoder": 3}, "created": "x"}


@fuzz
@given(value=TREES, seed=SEEDS)
def test_a_changed_configuration_is_read_as_it_is_or_refused(value, seed):
    try:
        config = from_json(json.dumps(damaged(CONFIG, value, seed)))
    except UserError as error:
        assert one_line(error)
    else:
        assert from_json(to_json(config)) == config


@fuzz
@given(seed=SEEDS)
def test_a_damaged_configuration_is_read_or_refused(seed):
    try:
        from_json(cut(to_json(tiny_config()).encode(), seed).decode(errors="replace"))
    except UserError as error:
        assert one_line(error)


@fuzz
@given(config=TREES, info=TREES, metrics=TREES, seed=SEEDS, which=st.integers(0, 7))
def test_a_changed_run_folder_is_read_or_refused(config, info, metrics, seed, which):
    """By what opens it, by the report and by the diagnosis."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run"
        path.mkdir()
        record = {"step": 5, "updates": 1, "eval/return_mean": 1.0, "loop/updates": 1.0, "time/elapsed": 2.0}
        changed = damaged(CONFIG, config, seed) if which & 1 else CONFIG
        (path / "config.json").write_text(json.dumps(changed))
        (path / "run.json").write_text(json.dumps(damaged(INFO, info, seed) if which & 2 else INFO))
        records = [record, damaged(record, metrics, seed) if which & 4 else record]
        (path / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
        try:
            run = open_run(path)
            course = RunHistory(run.config, read(run.metrics))
            assert all(check(course).says for check in CHECKS.values())
        except UserError as error:
            assert one_line(error)
        runs, failures = find_runs(Path(folder))
        assert len(runs) + len(failures) == 1 and all("\n" not in failure.error for failure in failures)


# metrics.jsonl


@fuzz
@given(values=st.lists(st.floats(), max_size=5), seed=SEEDS)
def test_damaged_metrics_are_read_or_refused(values, seed):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "metrics.jsonl"
        writer = JsonlWriter(path)
        for step, value in enumerate(values):
            writer.write(step, step, {"train/return": value})
        writer.close()
        path.write_bytes(cut(path.read_bytes(), seed))
        try:
            records = read(path)
            assert all(isinstance(v, (int, float)) and isinstance(r["step"], int) for r in records for v in r.values())
            JsonlWriter(path).close()
        except UserError as error:
            assert one_line(error)


@fuzz
@given(state=TREES, data=st.binary(max_size=20))
def test_any_note_of_what_was_tracked_is_understood_or_forgotten(state, data):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state.json"
        path.write_text(json.dumps(state))
        found = _state(path, data)
        assert 0 <= found["bytes"] <= len(data) and isinstance(found["films"], list)


# Replay

LAYOUT = RowLayout({"x": (2,)}, 1, 3)


def small_replay(folder):
    return Replay(ReplayConfig(capacity=1000), Path(folder), LAYOUT, 2, 2, 4, 16, 0)


@fuzz
@given(value=TREES, seed=SEEDS)
def test_a_changed_state_of_replay_is_refused_or_can_be_sampled(value, seed):
    with tempfile.TemporaryDirectory() as folder:
        replay = small_replay(folder)
        for _ in range(40):
            replay.ring.append(replay_row(), np.zeros((2, 3)))
        replay.next_online, replay.queue = 36, type(replay.queue)([(0, 5), (1, 33)])
        state = damaged(replay.state_dict(), value, seed)
        again = small_replay(folder)
        try:
            with understood(Path(folder)):
                again.load_state_dict(state)
        except UserError as error:
            assert one_line(error)
        else:
            batch, windows = again.sample()
            assert batch.reward.shape == (2, 4) and set(windows.stream) <= {0, 1}


def replay_row():
    return Row({"x": np.zeros((2, 2))}, np.zeros((2, 1)), *np.zeros((4, 2)))


@fuzz
@given(data=st.binary(min_size=1, max_size=64))
def test_flags_of_replay_are_flags_whatever_the_file_holds(data):
    with tempfile.TemporaryDirectory() as folder:
        replay = small_replay(folder)
        for _ in range(40):
            replay.ring.append(replay_row(), np.zeros((2, 3)))
        stored = replay.ring.rows.reshape(-1).view("u1")
        stored[:] = np.resize(np.frombuffer(data, "u1"), len(stored))
        batch, _ = replay.sample()
        for flag in (batch.is_first, batch.is_last, batch.is_terminal):
            assert set(flag.view(torch.uint8).unique().tolist()) <= {0, 1}


# Checkpoints


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("fuzz") / "run"
    dreamer.train(tiny_config(steps=4), run_dir=path)
    return path, checkpoint.load(path / "checkpoints")[1]


def write(folder: Path, data: bytes, **header):
    folder.mkdir(exist_ok=True)
    manifest = {"format": 1, "step": 4, "sha256": hashlib.sha256(data).hexdigest()} | header
    (folder / "step_000000000004.ckpt").write_bytes(json.dumps(manifest).encode() + b"\n" + data)


@fuzz
@given(seed=SEEDS, step=TREES, whole=st.booleans())
def test_a_damaged_checkpoint_is_refused(trained, seed, step, whole):
    """Also where whoever damaged it has made its checksum anew."""
    path, _ = trained
    file = max((path / "checkpoints").glob("*.ckpt"))
    header, _, data = file.read_bytes().partition(b"\n")
    with tempfile.TemporaryDirectory() as folder:
        if whole:
            write(Path(folder), cut(data, seed), step=step)
        else:
            (Path(folder) / file.name).write_bytes(cut(header + b"\n" + data[:2000], seed))
        try:
            found, state, _ = checkpoint.load(Path(folder))
            assert type(found) is int and isinstance(state, dict)
        except UserError as error:
            assert one_line(error)


@fuzz
@given(value=TREES, seed=SEEDS)
def test_a_checkpoint_that_says_something_else_is_refused_or_loaded(trained, value, seed):
    path, state = trained
    changed = damaged({"spec": state["spec"], "agent": {"modules": dict(state["agent"]["modules"])}}, value, seed)
    buffer = io.BytesIO()
    torch.save(changed, buffer)
    with tempfile.TemporaryDirectory() as folder:
        for name in ("config.json", "run.json"):
            (Path(folder) / name).write_bytes((path / name).read_bytes())
        write(Path(folder) / "checkpoints", buffer.getvalue())
        try:
            load(folder)
        except UserError as error:
            assert one_line(error)


# Reports


class Tags(HTMLParser):
    """The start tags of a page, with the names of their attributes and where links lead."""

    def __init__(self, text):
        super().__init__()
        self.found, self.links = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, [name for name, _ in attrs]))
        self.links += [value for name, value in attrs if name in ("href", "src")]


def document(words):
    a, b, c, d, e, f, g, h = words
    table = Table([a, b], [[c, TableCell(d, link=e)], [f, g]], words=1)
    return Document(a, b, [c, h], [Section(d, e, table=table), Section(f, g, table=table, folded=True)])


HOSTILE = [
    "</td><script>x</script>",
    '" onload="x',
    "javascript:x",
    "](x)",
    "|",
    "<img src=x onerror=y>",
    "--><svg/onload=z>",
]


@fuzz
@given(words=st.lists(st.text(min_size=1, max_size=20) | st.sampled_from(HOSTILE), min_size=8, max_size=8))
def test_no_text_becomes_markup(words):
    tags = Tags(html(document(words), {}))
    assert tags.found == Tags(html(document("x" * 8), {})).found
    assert all(link.startswith("./") or re.fullmatch(r"#s\d+", link) for link in tags.links)
    text = markdown(document(words))
    assert not re.search(r"<\w|\]\((?!\./)", text.replace("](figures/", ""))
