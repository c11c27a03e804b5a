"""No text from a folder steers a terminal or forges a line, on standard output or standard error, from any verb."""

from __future__ import annotations

import io
import json
import re
import shutil
import sys
import warnings
from pathlib import Path

import pytest
from running import ROOT, make_run, tiny_config, tiny_flags
from test_bad_input import an_ablation

import dreamer
from dreamer.cli.main import main
from dreamer.system.redaction import show, visible, warn

HOSTILE = "\x1b[2J\x1b]0;owned\x07a\rb\ndreamer: all is well\x85\u202egnp.exe\u2028\x9b31m\x7f"
"""Text that clears a screen, names a window, returns to the start of a line, forges a line and reverses text."""
NAME = HOSTILE.replace("/", "")
SHOWN = "\\u001b[2J\\u001b]0;owned\\u0007a\\rb\\ndreamer: all is well\\u0085\\u202egnp.exe\\u2028\\u009b31m\\u007f"


def harmless(text):
    """True if line breaks are the only unprintable characters."""
    return all(line.isprintable() for line in text.split("\n"))


def test_text_is_made_visible_in_the_escapes_of_json():
    assert visible(HOSTILE) == SHOWN and harmless(SHOWN)
    assert json.loads(f'"{SHOWN}"') == HOSTILE
    assert (
        visible("Größe 1\u2009m, 箱 \N{ROBOT FACE} \udcff\U000e0001")
        == "Größe 1\\u2009m, 箱 \N{ROBOT FACE} \\udcff\\U000e0001"
    )
    assert visible("plain ± −") == "plain ± −"


@pytest.mark.parametrize(("say", "stream"), [(show, "stdout"), (warn, "stderr")])
def test_a_line_stays_a_line_whatever_it_quotes_and_wherever_it_goes(monkeypatch, say, stream):
    for encoding in ("utf-8", "ascii", "latin-1"):
        raw = io.BytesIO()
        monkeypatch.setattr(sys, stream, io.TextIOWrapper(raw, encoding=encoding))
        say("first", f"é {HOSTILE}")
        lines = raw.getvalue().decode(encoding).split("\n")
        assert lines == ["first", f"{'é' if encoding != 'ascii' else chr(92) + 'xe9'} {SHOWN}", ""]
    monkeypatch.setattr(sys, stream, None)  # as in a process without a console
    say("nobody hears")


def test_nothing_else_prints():
    """All but the progress bar, which draws numbers alone, goes through `show` and `warn`."""
    own = {"redaction.py", "console.py", "__main__.py"}
    places = [path for path in (ROOT / "dreamer").rglob("*.py") if path.name not in own]
    assert len(places) > 80
    for path in places:
        found = re.findall(r"(?<![\w.])print\(|sys\.std(?:out|err)\.write", path.read_text())
        assert not found, f"{path.name} prints by itself"


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    """A run of four steps; copy it before changing it."""
    path = tmp_path_factory.mktemp("small") / "run"
    dreamer.train(tiny_config("toy:copy", steps=4), run_dir=path)
    return path


def hostile_config(**changes):
    """A configuration with text where text can be."""
    names = {f"tracking.wandb_{name}": HOSTILE for name in ("name", "group")} | {"tracking.wandb_tags": (HOSTILE,)}
    return json.dumps(flattened(tiny_config("toy:copy", steps=4, **names)) | changes)


def flattened(config):
    from dreamer.config import to_json

    return json.loads(to_json(config))


def hostile_task(run):
    (run / "config.json").write_text(hostile_config(task=HOSTILE))


def hostile_tracking(run):
    (run / "config.json").write_text(hostile_config())


def hostile_checkpoint(run):
    (run / "checkpoints" / f"step_9{NAME}.ckpt").write_bytes(b"damaged")


def hostile_info(run):
    text = dict.fromkeys(("command", "created", "commit", "device", "python", "platform"), HOSTILE)
    (run / "run.json").write_text(json.dumps(text | {"device": "cpu", "resumed": [HOSTILE]}))


def hostile_metrics(run):
    record = {"step": 4, "updates": 0, "eval/return_mean": 1.0, f"loss/{HOSTILE}": 1.0, HOSTILE: 2.0}
    (run / "metrics.jsonl").write_text(json.dumps(record) + "\n")


def hostile_files(run):
    (run / NAME).write_text("")
    (run / "videos").mkdir(exist_ok=True)
    (run / "videos" / f"eval_{NAME}.mp4").write_bytes(b"")
    (run / "faults").mkdir(exist_ok=True)
    (run / "faults" / f"{NAME}.pt").write_bytes(b"not a batch")


def hostile_origin(run):
    shutil.rmtree(run / "checkpoints")
    (run / "metrics.jsonl").unlink()
    info = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(info | {"start_from": {"path": HOSTILE, "load": "all"}}))


def hostile_owner(run):
    info = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(info | {"make_env": HOSTILE}))


def hostile_link(run):
    (run / NAME).symlink_to(f"/{NAME}")


def hostile_in_all_that_is_read(run):
    for host in (hostile_tracking, hostile_checkpoint, hostile_info, hostile_metrics, hostile_files):
        host(run)


QUICK = [
    ("train", "--resume", "run", "--steps", "8"),
    ("train", "--resume", "run", "--help"),
    ("evaluate", "run", "--episodes", "1"),
    ("diagnose", "run"),
    ("diagnose", "run", "--json"),
    ("track", "run", "--tensorboard"),
    ("report", "run"),
    ("report", "."),
    ("debug-batch", f"run/faults/{NAME}.pt"),
]
THOROUGH = [
    *QUICK,
    ("train", *tiny_flags(task="toy:copy"), "--run-dir", "new", "--from", "run"),
    ("evaluate", "run", "--episodes", "1", "--json"),
    ("imagine", "run", "--context", "1", "--horizon", "1", "--episodes", "1", "--shown", "1"),
]
HOSTS = {
    hostile_in_all_that_is_read: THOROUGH,
    hostile_task: QUICK,
    hostile_origin: QUICK[:1],
    hostile_owner: QUICK[:3],
    hostile_link: QUICK[:3],
}


@pytest.mark.filterwarnings("always")
@pytest.mark.parametrize("host", HOSTS, ids=lambda host: host.__name__)
def test_no_verb_prints_what_steers_a_terminal(small_run, tmp_path, monkeypatch, capfd, host):
    monkeypatch.chdir(tmp_path)
    said = ""
    for words in HOSTS[host]:
        shutil.rmtree(tmp_path / "new", ignore_errors=True)
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        host(Path(shutil.copytree(small_run, tmp_path / "run")))
        try:
            code = main(list(words))
        except SystemExit as stop:  # the help
            code = stop.code
        out, err = capfd.readouterr()
        assert code in (0, 1, 2) and harmless(out) and harmless(err), (words, out, err)
        assert "\ndreamer: all is well" not in out + err, words
        said += out + err
    assert "all is well" in said or host is hostile_in_all_that_is_read, "it was never quoted"


def test_diagnose_and_resume_show_what_they_quote(small_run, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    run = Path(shutil.copytree(small_run, tmp_path / "run"))
    hostile_task(run)
    assert main(["diagnose", "run"]) in (0, 1)
    assert capfd.readouterr().out.startswith(f"run: rssm on {SHOWN}, step 4 of 4\n")
    hostile_tracking(run)
    hostile_checkpoint(run)
    assert main(["train", "--resume", "run", "--steps", "8"]) == 0
    assert f"skipped damaged checkpoint run/checkpoints/step_9{SHOWN}.ckpt: " in capfd.readouterr().err


def test_an_ablation_and_its_report_show_what_they_quote(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    folder = an_ablation(tmp_path / "ablation", tasks=(HOSTILE,), cores=("rssm",))
    failures = [{"task": "toy:copy", "core": HOSTILE, "seed": 0, "error": HOSTILE}]
    (folder / "failures.json").write_text(json.dumps(failures))
    assert main(["ablate", "--folder", "ablation"]) == 2
    make_run(folder / "a" / "b" / "seed0", task=HOSTILE)
    make_run(folder / "a" / "b" / "seed1", task=HOSTILE, seed=1)
    assert main(["report", "ablation"]) == 0
    out, err = capfd.readouterr()
    assert harmless(out) and harmless(err) and "\ndreamer: all is well" not in out + err
    written = json.loads((folder / "ablation.json").read_text())
    (folder / "ablation.json").write_text(json.dumps(written | {"tasks": ["toy:copy"], "cores": [HOSTILE]}))
    for words in (("ablate", "--folder", "ablation"), ("ablate", "--folder", "ablation", "--help")):
        try:
            main(list(words))
        except SystemExit as stop:
            assert stop.code == 0
        out, err = capfd.readouterr()
        assert harmless(out) and harmless(err) and "\ndreamer: all is well" not in out + err


def test_warnings_of_libraries_are_lines_too(monkeypatch, capfd):
    def tasks(argv):
        warnings.warn(f"Glyph {HOSTILE} missing", stacklevel=1)
        return 0

    monkeypatch.setattr("dreamer.cli.commands.tasks", tasks)
    assert main(["tasks"]) == 0
    out, err = capfd.readouterr()
    assert out == "" and err.endswith(f"UserWarning: Glyph {SHOWN} missing\n") and err.count("\n") == 1


def test_a_failure_of_an_environment_is_a_line(capfd, tmp_path):
    from functools import partial

    from faulty import Faulty

    def odd(answer):
        raise RuntimeError(HOSTILE.replace("\n", ""))

    flags = {"env.restarts": 100, "loop.eval_every": 10**6}
    dreamer.train(tiny_config("mine", steps=60, **flags), run_dir=tmp_path / "run", make_env=partial(Faulty, odd))
    out, err = capfd.readouterr()
    assert "\\u001b[2J" in err and harmless(out) and harmless(err)
