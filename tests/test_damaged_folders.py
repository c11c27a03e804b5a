"""A corpus of damaged and hostile folders: every verb that reads one ends in one line, or does without what is damaged.

The folders are made from one recorded run of eight steps. Figures are not drawn, except in one test: that takes seconds
for each page. Memory is limited, so that a file that stands for terabytes is an error and no swapping.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import resource
import shutil
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch
from running import tiny_config
from test_bad_input import an_ablation, having, without
from tiny import make_batch

import dreamer
from dreamer.cli import track
from dreamer.cli.main import main
from dreamer.experiments.report import run_media, run_report
from dreamer.runs.folder import open_run
from dreamer.runs.saved import NEWER, State
from dreamer.system.redaction import warn
from dreamer.training.load import load

SECONDS, BYTES = 10, 2 * 10**9
"""Seconds of the processor and additional memory that a case may take."""
BIG = 10**400
CKPT = "checkpoints/step_000000000008.ckpt"
BATCH = "faults/batch_000000001.pt"
VIDEO = "videos/eval_000000008.mp4"
CURVE = [0.5, 0.25, 0.125]


def record():
    """The content of an imagination.json: two episodes, one key."""
    shape = [CURVE, CURVE]
    errors = dict.fromkeys(("rmse", "crps", "copy_rmse", "copy_crps"), CURVE[1:])
    percentiles = {f"percentile_{p}": shape for p in (5, 25, 50, 75, 95)}
    entry = {"key": "cue", "index": 0, "real": shape, **percentiles}
    entry |= {"samples": [shape, shape], "dreams": [shape, shape]}
    return {
        "settings": {"context": 1, "horizon": 2, "episodes": 2, "samples": 2},
        "episodes_alive": [2, 2],
        "errors": {"cue": {"unit": "standard deviations"} | errors},
        "traces": [entry, entry | {"key": "reward"}],
    }


def parts():
    """Results of the exam of one core."""
    example = {"samples": [0.1, 0.2], "means": [0.0, 1.0], "weights": [0.3, 0.7], "sigma": 0.1}
    names = ("nll_gap", "moved", "stuck", "true_moved", "moved_error_per_state", "coverage_50", "coverage_90")
    curves = dict.fromkeys(("rmse", "crps", "copy_rmse", "copy_crps"), [0.1] * 50)
    return {
        "uncertainty": dict.fromkeys(names, 0.5) | {"example": example},
        "memory": {"accuracy": {"10": 1.0, "50": 0.5, "200": 0.5}},
        "drift": curves,
        "speed": {"parameters": 7, "seconds_per_update": 0.1, "seconds_per_imagined_step": 0.1},
    }


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A folder with a run that has everything, an ablation with the same run, and an exam."""
    here = tmp_path_factory.mktemp("recorded")
    run = here / "run"
    dreamer.train(tiny_config("toy:copy", steps=8, **{"loop.log_every": 4}), run_dir=run)
    for name in ("faults", "videos", "imagination/step_000000008"):
        (run / name).mkdir(parents=True)
    agent = load(run)
    batch = make_batch(agent, batch=2, time=4)
    kept = {"batch": {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}}
    kept |= {"modules": agent.state_dict(), "discrete": agent.action.discrete}
    torch.save(kept | {"rng": torch.get_rng_state(), "device": "cpu"}, run / BATCH)
    (run / VIDEO).write_bytes(b"\0\0\0\x20ftyp")
    (run / "imagination/step_000000008/imagination.json").write_text(json.dumps(record()))
    (run / "imagination/step_000000008/image_strip.png").write_bytes(b"png")
    data = (run / "metrics.jsonl").read_bytes()
    tracked = {"id": "abc", "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "films": []}
    (run / "wandb_track.json").write_text(json.dumps(tracked))
    an_ablation(here / "ablation", cores=("rssm",), config=tiny_config("toy:copy", steps=8))
    shutil.copytree(run, here / "ablation" / "toy_copy" / "rssm" / "seed0")
    failed = [{"task": "toy:copy", "core": "rnn", "seed": 0, "error": "x"}]
    (here / "ablation" / "failures.json").write_text(json.dumps(failed))
    (here / "exam" / "parts").mkdir(parents=True)
    settings = {"format": 1, "size": "100k", "task": "dmc:cartpole_swingup", "free_nats": 0.0, "effort": 0.001}
    (here / "exam" / "exam.json").write_text(json.dumps(settings))
    for part, result in parts().items():
        (here / "exam" / "parts" / f"{part}_rssm_seed0.json").write_text(json.dumps(result))
    return here


@pytest.fixture
def here(recorded, tmp_path, monkeypatch, request):
    """The current folder, with copies of what the case needs; nothing is drawn, sent, or trained by other processes."""
    monkeypatch.chdir(tmp_path)
    case = getattr(request.node, "callspec", None)
    words = " ".join(CASES[case.params["case"]][1]).split() if case else ["run", "ablation", "exam"]
    for name in {word.partition("/")[0] for word in words} & {"run", "ablation", "exam"}:
        shutil.copytree(recorded / name, tmp_path / name)
    (tmp_path / "outside").write_text("mine")
    monkeypatch.setattr(run_report, "_draw", lambda records, panels, *_: dict.fromkeys(["returns", *panels], "<svg/>"))
    monkeypatch.setattr(run_media, "svg", lambda figure: "<svg/>")
    monkeypatch.setattr("dreamer.experiments.report.ablation_figures.draw", lambda *arguments: {})
    monkeypatch.setattr("dreamer.experiments.report.ablation_sections.core_colors", lambda names: dict.fromkeys(names))
    monkeypatch.setattr("dreamer.experiments.ablation.sweep.do_all", lambda *arguments: 0)
    monkeypatch.setattr(track, "WandbView", Shown)
    return tmp_path


class Shown(track.View):
    """Takes the place of W&B."""

    notice = "shown"

    def __init__(self, *arguments, run_id, **_):
        self.id = run_id


# Damages: each takes the folder in which the run, the ablation and the exam lie


def content(name, data):
    """The file holds this: bytes as they are, everything else as JSON."""

    def damage(here):
        shutil.rmtree(here / name) if (here / name).is_dir() else (here / name).unlink(missing_ok=True)
        (here / name).write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())

    return damage


def changed(name, value, *path, drop=False):
    """The file, JSON, holds `value` at `path`, or lacks that entry."""

    def damage(here):
        tree = inner = json.loads((here / name).read_text())
        for key in path[:-1]:
            inner = inner[key]
        if drop:
            del inner[path[-1]]
        else:
            inner[path[-1]] = value
        (here / name).write_text(json.dumps(tree))

    return damage


def sparse(name, size=10**12):
    """The file has a terabyte of zeros, which take no space."""
    return lambda here: os.truncate(here / name, size)


def folder(name):
    def damage(here):
        (here / name).unlink(missing_ok=True)
        (here / name).mkdir()

    return damage


def file_instead(name):
    """A file in the place of a folder."""

    def damage(here):
        shutil.rmtree(here / name, ignore_errors=True)
        (here / name).write_text("x")

    return damage


def files_instead(here):
    """Files in the places of folders, and a folder in that of a file, that only results go to."""
    for name in ("videos", "imagination", "faults"):
        file_instead(f"run/{name}")(here)
    folder("run/curve.png")(here)


def of_run(damage):
    """A damage of the checkpoint, from the corpus of bad input."""
    return lambda here: damage(here / "run")


def raw(make):
    """The checkpoint has these bytes after its header, which is right."""

    def damage(here):
        data = make()
        header = {"format": 1, "step": 8, "sha256": hashlib.sha256(data).hexdigest()}
        alone(content(f"run/{CKPT}", json.dumps(header).encode() + b"\n" + data))(here)

    return damage


def saved(tree):
    buffer = io.BytesIO()
    torch.save(tree, buffer)
    return buffer.getvalue()


def bomb():
    """Content of `torch.save`, compressed a thousandfold."""
    source = zipfile.ZipFile(io.BytesIO(saved({"x": torch.zeros(10**7)})))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    return buffer.getvalue()


def laughs(depth):
    tree = []
    for _ in range(depth):
        tree = [tree] * 10
    return tree


def kept(change):
    """The kept batch says something else."""

    def damage(here):
        tree = torch.load(here / "run" / BATCH, weights_only=True)
        replaced = change(tree)
        torch.save(tree if replaced is None else replaced, here / "run" / BATCH)

    return damage


def at(value, *path):
    def change(tree):
        for key in path[:-1]:
            tree = tree[key]
        if value is None:
            del tree[path[-1]]
        else:
            tree[path[-1]] = value

    return change


def alone(damage):
    """As `damage`, with no other checkpoint to fall back to."""

    def both(here):
        damage(here)
        for other in (here / "run" / "checkpoints").glob("*.ckpt"):
            if other.name != Path(CKPT).name:
                other.unlink()

    return both


def in_cell(damage):
    return lambda here: damage(here / "ablation" / "toy_copy" / "rssm" / "seed0")


def rename(old, new):
    return lambda here: (here / "run" / "imagination" / old).rename(here / "run" / "imagination" / new)


def lines(*records, end=b"\n"):
    return content("run/metrics.jsonl", b"".join(json.dumps(one).encode() + end for one in records))


GOOD = {"step": 4, "updates": 1, "loss/dyn": 1.0, "eval/return_mean": 1.0}
WIDE = torch.zeros(1).expand(10**12)
ODD_FILES = {
    "empty": b"",
    "null": None,
    "a list": [1],
    "binary": b"\xff\xfe\0\0",
    "too deep": b"[" * 10**5,
    "half a character": b'{"device": "\\ud800"}',
    "two megabytes": b'{"x": "' + b"x" * 2_000_000 + b'"}',
}
INFO = {
    "device": 5,
    "device ": None,
    "command": 7,
    "created": {},
    "commit": [],
    "seed": "x",
    "threads": -1,
    "threads ": BIG,
    "versions": [],
    "versions ": {"torch": 3},
    "platform": "x" * 20_000,
    "parallel": True,
    "parallel ": {},
    "parallel  ": {"on": 1},
    "start_from": 7,
    "start_from ": {"path": "x"},
    "make_env": [],
    "resumed": "x",
    "resumed ": [1],
    "parameters": [],
    "parameters ": {"a": "b"},
    "parameters  ": {"a": -1},
    "parameters   ": {"a": BIG},
    "replay": "big",
}
SETTINGS = {
    "steps ": -1,
    "steps  ": "many",
    "seed": 2**70,
    "task": 3,
    "env": [],
    "loop": None,
    "size": "2m",
    "preset": {},
    "device": "abacus",
    "unknown": 1,
    "tracking": {"wandb": 3},
}
LARGE = [
    (BIG, "steps"),
    (10**7, "agent", "world_model", "encoder", "layers"),
    (2**31, "agent", "behavior", "actor", "units"),
    (10**9, "agent", "imagination_horizon"),
    (10**9, "loop", "batch_size"),
]
METRICS = {
    "step of 400 digits": {"step": BIG},
    "step negative": {"step": -1},
    "step a half": {"step": 1.5},
    "step a word": {"step": "5"},
    "step true": {"step": True},
    "updates of 400 digits": {"updates": BIG},
    "a word": {"loss/dyn": "high"},
    "a truth": {"loss/dyn": True},
    "nothing": {"loss/dyn": None},
    "a list": {"loss/dyn": [1.0]},
    "a name of 3 MB": {"x" * 3_000_000: 1.0},
    "5,001 names": {f"x{i}": 1.0 for i in range(5_001)},
}
FINE = {
    "near the end of float64": {"loss/dyn": 1.7e308, "eval/return_mean": -1.7e308},
    "of 400 digits": {"loss/dyn": BIG, "x/y": -BIG},
    "denormal": {"loss/dyn": 5e-324, "eval/return_mean": 5e-324},
    "not finite": {"loss/dyn": "NaN", "loss/rep": "Infinity", "eval/return_mean": "-Infinity"},
    "2,000 names": {f"x{i}": 1.0 for i in range(2_000)},
    "step of 2^53": {"step": 2**53},
}
IMAGINED = "run/imagination/step_000000008/imagination.json"
RECORDS = {
    "errors a list": ([], "errors"),
    "errors of a key a list": ([], "errors", "cue"),
    "a curve a word": ("x", "errors", "cue", "rmse"),
    "a curve of words": (["x", "y"], "errors", "cue", "rmse"),
    "a curve shorter": ([1.0], "errors", "cue", "rmse"),
    "a curve empty": ([], "errors", "cue", "crps"),
    "a unit a number": (3, "errors", "cue", "unit"),
    "settings a list": ([], "settings"),
    "context infinite": (float("inf"), "settings", "context"),
    "context not a number": (float("nan"), "settings", "context"),
    "context negative": (-5, "settings", "context"),
    "context of 400 digits": (BIG, "settings", "context"),
    "samples a word": ("x", "settings", "samples"),
    "alive a number": (3, "episodes_alive"),
    "alive negative": ([-1], "episodes_alive"),
    "traces a dict": ({}, "traces"),
    "no traces": ([], "traces"),
    "a trace a list": ([], "traces", 0),
    "real empty": ([], "traces", 0, "real"),
    "real ragged": ([[1.0], [1.0, 2.0]], "traces", 0, "real"),
    "real flat": (CURVE, "traces", 0, "real"),
    "real of words": ([["x"]], "traces", 0, "real"),
    "more episodes": ([CURVE] * 5, "traces", 1, "real"),
    "percentiles of another length": ([[1.0]], "traces", 0, "percentile_50"),
    "samples flat": ([CURVE], "traces", 0, "samples"),
    "rollouts longer": ([[[1.0] * 9]] * 2, "traces", 0, "dreams"),
    "beyond float32": ([[1e39] * 3] * 2, "traces", 0, "real"),
    "3,000 steps": ([[1.0] * 3000] * 2, "traces", 0, "real"),
}
STATES = {
    "elapsed not a number": (float("nan"), "elapsed"),
    "elapsed infinite": (float("inf"), "elapsed"),
    "elapsed negative": (-1.0, "elapsed"),
    "elapsed a word": ("x", "elapsed"),
    "evaluation of words": ({"eval/return_mean": "x"}, "evaluation"),
    "updates negative": (-1, "updates"),
    "updates without end": (2**70, "updates"),
    "episodes true": (True, "episodes"),
    "due a number": (3, "evaluation_due"),
    "guard a list": ([], "guard"),
    "guard of words": ({"skipped": "x", "in_a_row": 0}, "guard"),
    "guard without a count": ({"skipped": 0}, "guard"),
    "a billion updates due": ({"debt": 1e9}, "ratio"),
    "due not a number": ({"debt": float("nan")}, "ratio"),
    "due unknown": ({}, "ratio"),
    "counts of metrics 0": ({"sums": {"loss/dyn": 1.0}, "counts": {"loss/dyn": 0}}, "meter"),
    "metrics without counts": ({"sums": {"loss/dyn": 1.0}, "counts": {}}, "meter"),
    "spec a list": ([], "spec"),
    "four axes": ({"cue": (1, 1, 1, 1)}, "spec", "obs_shapes"),
    "modules wide": ({"x": WIDE}, "agent", "modules"),
    "a row of a terabyte": (WIDE, "collector", "returns"),
    "rows of more environments": (torch.zeros(99), "collector", "returns"),
    "another observation": ({"x": torch.zeros(4, 1)}, "collector", "obs"),
    "an observation wider": ({"cue": torch.zeros(4, 9), "action": torch.zeros(4, 1)}, "collector", "obs"),
    "core states wider": (torch.zeros(4, 3), "collector", "state"),
    "held actions flat": (torch.zeros(4), "collector", "exploration", "held"),
    "open episodes missing": ([], "collector", "actions"),
    "an open episode of words": (["x"] * 2, "collector", "actions"),
    "live slots of floats": (torch.zeros(9), "replay", "live"),
    "randomness a number": (3, "rng"),
    "collector a number": (3, "collector"),
    "agent a list": ([], "agent"),
}
KEPT = {
    "no batch": (None, "batch"),
    "no weights": (None, "modules"),
    "no kind of action": (None, "discrete"),
    "no randomness": (None, "rng"),
    "no device": (None, "device"),
    "a batch of words": ("x", "batch"),
    "weights a list": ([1], "modules"),
    "no weights at all": ({}, "modules"),
    "randomness short": (torch.zeros(3, dtype=torch.uint8), "rng"),
    "randomness a word": ("x", "rng"),
    "no reward": (None, "batch", "reward"),
    "one column more": (torch.zeros(2, 4), "batch", "more"),
    "reward flat": (torch.zeros(2), "batch", "reward"),
    "reward of integers": (torch.zeros(2, 4, dtype=torch.int64), "batch", "reward"),
    "flags of floats": (torch.zeros(2, 4), "batch", "is_first"),
    "more rows": (torch.zeros(2, 9), "batch", "reward"),
    "other observations": ({"x": torch.zeros(2, 4, 7)}, "batch", "obs"),
    "observations a tensor": (torch.zeros(2, 4), "batch", "obs"),
    "observations flat": ({"cue": torch.zeros(2, 4)}, "batch", "obs"),
    "actions wider": (torch.zeros(2, 4, 9), "batch", "prev_action"),
    "context wider": (torch.zeros(2, 9), "batch", "context"),
    "a terabyte": (WIDE, "batch", "reward"),
}
TRACKED = {"bytes": -1, "bytes ": BIG, "bytes  ": "x", "id": "../x", "id ": 3, "films": "x", "films ": [3], "sha256": 7}
FAILURES = ["x", [{}], [{"task": "a", "core": "b", "seed": "c", "error": "d"}], b"["]
ABLATIONS = {
    "format": 3,
    "tasks": "toy:copy",
    "tasks ": [3],
    "tasks  ": {},
    "cores": [["rssm"]],
    "cores ": None,
    "objectives": 3,
    "seeds": 10**9,
    "seeds ": "x",
    "seeds  ": BIG,
    "match_params": "perhaps",
    "config": [],
    "config ": {},
    "config  ": None,
}
EXAMS = {
    "uncertainty": [("x", "moved"), ([1.0], "nll_gap"), ({}, "example")],
    "memory": [([], "accuracy"), ({}, "accuracy"), ({"10": "x", "50": 1.0, "200": 1.0}, "accuracy")],
    "drift": [(3, "rmse"), ([], "crps"), (["x"] * 50, "rmse")],
    "speed": [("x", "seconds_per_update"), ([], "parameters")],
}
EXAM = "exam --folder exam --cores rssm --seeds 1 --effort 0.001 --jobs 1 --parts speed"
RESUME = "train --resume run --steps 12"
RESTORE = "resume run"
"""As `RESUME`, from Python: the parser of all options of `dreamer train` takes longer than everything else here."""


def one_line(damages, *verbs):
    return {name: (damage, verbs, {2}) for name, damage in damages.items()}


def completes(damages, *verbs):
    return {name: (damage, verbs, {0, 1}) for name, damage in damages.items()}


def either(damages, *verbs):
    return {name: (damage, verbs, {0, 1, 2}) for name, damage in damages.items()}


def odd(name, end=b""):
    """A file that is none of its kind, in all ways, and a folder in its place, and a terabyte of zeros."""
    written = {what: data if isinstance(data, bytes) else json.dumps(data).encode() for what, data in ODD_FILES.items()}
    damages = {f"{name}: {what}": content(name, data + end) for what, data in written.items()}
    return damages | {f"{name}: a folder": folder(name), f"{name}: a terabyte": sparse(name)}


def each(name, values):
    return {f"{name}: {key.strip()} {value!r:.30}": changed(name, value, key.strip()) for key, value in values.items()}


def of_parts():
    for part, damages in EXAMS.items():
        for value, *path in damages:
            name = f"exam/parts/{part}_rssm_seed0.json"
            yield f"{name}: {'.'.join(path)} {value!r:.20}", changed(name, value, *path)


EVALUATE = "evaluate run --episodes 1"
RAW = {
    "not an archive": lambda: b"hello",
    "an old pickle": lambda: b"\x80\x02}q\x00.",
    "compressed": bomb,
    "a number": lambda: saved(3),
    "a list": lambda: saved([1]),
    "weights wide": lambda: saved({"agent": {"modules": {"x": WIDE}}, "spec": {}}),
    "a sparse tensor": lambda: saved({"x": torch.zeros(9, 9).to_sparse()}),
    "a tensor without memory": lambda: saved({"x": torch.zeros(10**9, device="meta")}),
    "nested deeply": lambda: saved(laughs(200)),
    "a billion lists": lambda: saved(laughs(9)),
}
HEADERS = {
    "no JSON": b"\xff\n",
    "endless": b"1" * 10**6,
    "step of 400 digits": b'{"format": 1, "sha256": "", "step": 1%s}\n' % (b"0" * 400),
    "step negative": b'{"format": 1, "sha256": "", "step": -1}\n',
    "format of 400 digits": b'{"format": 1%s, "sha256": "", "step": 1}\n' % (b"0" * 400),
}
METRIC_FILES = {name: damage for name, damage in odd("run/metrics.jsonl", b"\n").items() if not name.endswith("empty")}
CASES = {
    **one_line(odd("run/run.json"), "diagnose run", "report run"),
    **one_line(each("run/run.json", INFO), "diagnose run", f"debug-batch run/{BATCH}"),
    **one_line(odd("run/config.json"), "diagnose run", EVALUATE),
    **either(each("run/config.json", SETTINGS), "diagnose run", "track run --tensorboard"),
    **one_line(
        {f"config: {'.'.join(p)} of {len(str(v))} digits": changed("run/config.json", v, *p) for v, *p in LARGE},
        "diagnose run",
    ),
    **one_line(METRIC_FILES, "diagnose run", "report run", "track run --wandb"),
    **one_line({f"metrics: {k}": lines(GOOD, GOOD | v) for k, v in METRICS.items()}, "diagnose run", "report run"),
    **one_line({"metrics: a terabyte, resumed": sparse("run/metrics.jsonl")}, RESUME),
    **one_line({"metrics: no step": lines({"updates": 1})}, "diagnose run", "track run --tensorboard"),
    **completes(
        {f"metrics: {k}": lines(GOOD, GOOD | v) for k, v in FINE.items()},
        *("diagnose run", "report run", "track run --tensorboard"),
    ),
    **completes({"metrics: no line break": lines(GOOD, end=b"")}, "diagnose run", "report run"),
    **completes({"metrics: empty": content("run/metrics.jsonl", b"")}, "diagnose run", "report run"),
    **completes({f"record: {k}": changed(IMAGINED, *v) for k, v in RECORDS.items()}, "report run"),
    **completes({"record: no episodes": changed(IMAGINED, 0, "settings", "episodes", drop=True)}, "report run"),
    **completes(odd(IMAGINED), "report run"),
    **completes({"record: a step without end": rename("step_000000008", f"step_{'9' * 60}")}, "report run"),
    **completes({"record: a step of letters": rename("step_000000008", "step_x")}, "report run"),
    **completes({"film: a folder": folder(f"run/{VIDEO}")}, "report run", "track run --tensorboard"),
    **completes({"film: a terabyte": sparse(f"run/{VIDEO}")}, "report run", "track run --wandb"),
    **completes({"film: others": content(f"run/{VIDEO}", b"#EXTM3U\nhttp://x\n")}, "track run --tensorboard"),
    **completes({"film: cut": content(f"run/{VIDEO}", b"\0\0\0\x20ftypisom")}, "track run --tensorboard"),
    **completes({"picture: a folder": folder("run/imagination/step_000000008/image_strip.png")}, "report run"),
    **one_line({f"checkpoint: {k}": raw(v) for k, v in RAW.items()}, EVALUATE),
    **one_line({f"header: {k}": alone(content(f"run/{CKPT}", v)) for k, v in HEADERS.items()}, EVALUATE, RESTORE),
    **one_line({"checkpoint: a terabyte": alone(sparse(f"run/{CKPT}"))}, EVALUATE, "imagine run"),
    **one_line({"checkpoint: a folder": alone(folder(f"run/{CKPT}"))}, EVALUATE, RESUME),
    **one_line({f"{name}: a file": file_instead(f"run/{name}") for name in ("replay", "checkpoints")}, RESTORE),
    **one_line({"tensorboard: a file": file_instead("run/tensorboard")}, "track run --tensorboard"),
    **one_line({"lock: a folder": folder("run/.lock")}, "track run --tensorboard", RESTORE),
    **one_line({"page: a folder": folder("run/report.html")}, "report run"),
    **one_line({"rows: a folder": folder("run/replay/rows.bin")}, RESTORE),
    **completes({"places: files": files_instead}, RESTORE, "report run", EVALUATE),
    **one_line({"another task": changed("run/config.json", "toy:counting", "task")}, EVALUATE, "imagine run", RESTORE),
    **completes({"checkpoint: damaged, with another": sparse(f"run/{CKPT}")}, EVALUATE),
    **one_line({f"state: {k}": of_run(having(*v)) for k, v in STATES.items()}, RESTORE),
    **one_line({f"state: no {k}": of_run(without(k)) for k in State.__annotations__ if k not in NEWER}, RESTORE),
    **one_line({"state: late, ablated": in_cell(having("late", "evaluated_at"))}, "ablate --folder ablation"),
    **one_line({f"kept: {k}": kept(at(*v)) for k, v in KEPT.items()}, f"debug-batch run/{BATCH}"),
    **one_line({"kept: compressed": content(f"run/{BATCH}", bomb())}, f"debug-batch run/{BATCH}"),
    **one_line({"kept: a terabyte": sparse(f"run/{BATCH}")}, f"debug-batch run/{BATCH}"),
    **one_line({"kept: a list": kept(lambda tree: [1])}, f"debug-batch run/{BATCH}"),
    **{
        name: case
        for name, case in completes(odd("run/wandb_track.json"), "track run --wandb").items()
        if "a folder" not in name
    },
    **one_line({"run/wandb_track.json: a folder": folder("run/wandb_track.json")}, "track run --wandb"),
    **completes(each("run/wandb_track.json", TRACKED), "track run --wandb"),
    **completes(
        {f"failures: {v!r}": content("ablation/failures.json", v) for v in FAILURES}, "ablate --folder ablation"
    ),
    **completes({"failures: a terabyte": sparse("ablation/failures.json")}, "ablate --folder ablation"),
    **one_line({"failures: a folder": folder("ablation/failures.json")}, "ablate --folder ablation"),
    **one_line(odd("ablation/ablation.json"), "ablate --folder ablation"),
    **one_line(each("ablation/ablation.json", ABLATIONS), "ablate --folder ablation"),
    **one_line(odd("exam/exam.json"), EXAM),
    **one_line(odd("exam/parts/memory_rssm_seed0.json"), EXAM),
    **one_line(dict(of_parts()), EXAM),
}


def test_the_corpus_is_large():
    assert len(CASES) >= 150


@pytest.fixture
def little_memory():
    """A limit of `BYTES` above what this process has now."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + BYTES, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize("case", CASES)
def test_a_damaged_folder_gets_one_line_or_does_without(here, capsys, little_memory, case):
    damage, verbs, expected = CASES[case]
    damage(here)
    for verb in verbs:
        begin, outside = time.process_time(), outside_of(here)
        code = resume() if verb == RESTORE else main(verb.split(" "))
        said = capsys.readouterr()
        assert code in expected, (verb, code, said)
        assert time.process_time() - begin < SECONDS and outside_of(here) == outside
        assert "Traceback" not in said.err and all(len(line) < 2000 for line in said.err.splitlines()), said.err
        if code == 2:
            told = [line for line in said.err.splitlines() if "left out" not in line]
            assert said.out == "" and len(told) == 1 and told[0].startswith("dreamer: "), said


def resume():
    try:
        dreamer.resume("run", config=tiny_config("toy:copy", steps=12, **{"loop.log_every": 4}))
    except dreamer.UserError as error:
        warn(f"dreamer: {error}")
        return 2
    return 0


def outside_of(here):
    return {path: path.read_bytes() if path.is_file() else None for path in here.iterdir()}


def test_what_is_left_out_is_named(here, capsys):
    content(IMAGINED, b"[]")(here)
    folder(f"run/{VIDEO}")(here)
    assert main(["report", "run"]) == 0
    left_out = capsys.readouterr().err.splitlines()
    assert left_out[0].startswith(f"dreamer: left out: {IMAGINED}: input should be a valid dictionary")
    assert left_out[1:] == [f"dreamer: left out: cannot read run/{VIDEO}: Is a directory"]
    assert "No open-loop evaluation yet" in (here / "run" / "report.html").read_text()


def test_a_page_with_the_largest_numbers_is_drawn(here, capsys, monkeypatch):
    monkeypatch.undo()
    monkeypatch.chdir(here)
    numbers = [{"loss/a": 1.7e308, "loss/b": 1e38, "loss/c": 5e-324, "eval/return_mean": -1e308, "x" * 200: "NaN"}]
    numbers += [{"loss/a": -1e38, "loss/b": -1e38, "loss/c": 0.0, "eval/return_mean": 3.4e38, "x" * 200: "Infinity"}]
    lines(*({"step": 2**53 * i, "updates": 1} | values for i, values in enumerate(numbers)))(here)
    changed(IMAGINED, [[1e38, -1e38, None]] * 2, "traces", 0, "real")(here)
    assert main(["report", "run"]) == 0
    assert "No open-loop evaluation yet" not in (here / "run" / "report.html").read_text()


def test_what_another_version_wrote_into_run_json_stays(here):
    changed("run/run.json", {"x": [1]}, "new")(here)
    run = open_run(here / "run")
    run.save()
    assert json.loads((here / "run" / "run.json").read_text())["new"] == {"x": [1]}


def test_an_error_of_an_environment_is_not_blamed_on_the_checkpoint(here, monkeypatch):
    def fails(*arguments):
        raise RuntimeError("the simulator broke")

    monkeypatch.setattr("envs.restore_vector", fails)
    with pytest.raises(RuntimeError, match="^the simulator broke$"):
        main(RESUME.split(" "))
