"""Folders of somebody else's, whatever is in them at any depth: one line from every verb, and nothing opened, ever."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import sys

import pytest
import torch
from running import newest, tiny_config, tiny_flags
from test_bad_input import an_ablation, forged, having, without
from test_cli import everything_below, refused

import dreamer
from dreamer.cli.main import main
from dreamer.runs import trust


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    """A run of four steps; copy it before changing it."""
    path = tmp_path_factory.mktemp("small") / "run"
    dreamer.train(tiny_config("toy:copy", steps=4), run_dir=path)
    return path


@pytest.fixture
def places(small_run, tmp_path, monkeypatch):
    """The current folder: a run, an ablation with the same run, and a file of the user's."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(small_run, tmp_path / "run")
    (tmp_path / "run" / "faults").mkdir()
    (tmp_path / "run" / "faults" / "batch_000000001.pt").touch()
    an_ablation(tmp_path / "ablation", cores=("rssm",))
    shutil.copytree(small_run, tmp_path / "ablation" / "toy_copy" / "rssm" / "seed0")
    (tmp_path / "outside").write_text("mine")
    return tmp_path


@pytest.fixture(autouse=True)
def never_hangs():
    """A pipe that is opened blocks for ever, which must be a failure and no more."""

    def stop(*arguments):
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


ON_A_RUN = [
    "train --resume run --steps 8",
    f"train {' '.join(tiny_flags(task='toy:copy'))} --run-dir new --from run",
    "evaluate run",
    "imagine run",
    "diagnose run",
    "track run --tensorboard",
    "track run --wandb",
    "report run",
    "debug-batch run/faults/batch_000000001.pt",
]
ON_AN_ABLATION = ["ablate --folder ablation", "ablate --folder ablation --tasks toy:copy", "report ablation"]
DEEP = "some/where/deep/below"


def bound(place):
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(place.parent)  # a name of a socket is short
        server.bind(place.name)
        os.chdir(here)


ODD = {
    "a link outside": (
        lambda place: place.symlink_to("/etc/hostname"),
        r"is a link to /etc/hostname; links out of .* are refused",
    ),
    "a link to nothing outside": (lambda place: place.symlink_to("/nowhere/.lock"), r"is a link to /nowhere/\.lock; "),
    "a link to a folder": (lambda place: place.symlink_to("/etc"), r"is a link to /etc; "),
    "a pipe": (os.mkfifo, r"is neither a file nor a folder"),
    "a socket": (bound, r"is neither a file nor a folder"),
}


@pytest.mark.parametrize("line", ON_A_RUN + ON_AN_ABLATION)
def test_no_verb_takes_a_folder_with_something_odd_at_any_depth(places, capsys, line):
    folder = places / ("ablation/toy_copy/rssm/seed0" if "ablation" in line else "run")
    for place in ("odd", f"checkpoints/{DEEP}/odd", f"{DEEP}/.lock"):
        for make, message in ODD.values():
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            make(folder / place)
            before = everything_of(places)
            assert re.search(message, refused(capsys, *line.split(" "))), (place, message)
            assert everything_of(places) == before
            (folder / place).unlink()
            shutil.rmtree(folder / "some", ignore_errors=True)


def everything_of(folder):
    """Names, and contents of files, also where there are things that are none."""
    return {path: path.lstat().st_mode for path in folder.rglob("*")}


@pytest.mark.parametrize("line", ON_A_RUN + ON_AN_ABLATION)
def test_the_files_that_a_verb_reads_first_may_be_pipes(places, capsys, line):
    folder = "ablation" if "ablation" in line else "run"
    for name in ("ablation.json", "config.json", "run.json", "metrics.jsonl", ".lock", "failures.json"):
        (places / folder / name).unlink(missing_ok=True)
        os.mkfifo(places / folder / name)
        assert f"{folder}/{name} is neither a file nor a folder" in refused(capsys, *line.split(" "))
        (places / folder / name).unlink()


def test_a_lock_of_a_cell_that_leads_elsewhere_makes_no_file_there(places, capsys):
    lock = places / "ablation" / "toy_copy" / "rssm" / "seed0" / ".lock"
    lock.unlink()
    lock.symlink_to(places / "made")
    assert "seed0/.lock is a link to " in refused(capsys, "ablate", "--folder", "ablation")
    assert not (places / "made").exists()


@pytest.mark.parametrize("name", [".lock", "config.json.tmp"])
@pytest.mark.parametrize("words", [("train", "--run-dir"), ("ablate", "--tasks", "toy:copy", "--folder")])
def test_a_folder_to_be_made_may_hold_no_links_either(places, capsys, words, name):
    (places / "empty").mkdir()
    (places / "empty" / name).symlink_to(places / "made")
    flags = tiny_flags() if words[0] == "train" else ["--preset", "debug"]
    assert f"empty/{name} is a link to " in refused(capsys, *words, "empty", *flags)
    assert not (places / "made").exists()


@pytest.mark.parametrize("words", [("imagine", "run", "--folder", "there"), ("exam", "--folder", "there")])
def test_a_folder_that_results_go_to_is_looked_at(places, capsys, words):
    (places / "there").mkdir()
    (places / "there" / "errors.png").symlink_to(places / "made")
    assert "there/errors.png is a link to " in refused(capsys, *words)


def test_links_within_a_folder_and_those_of_wandb_are_no_harm(places, capsys):
    run = places / "run"
    (run / "again").symlink_to("checkpoints")
    logs = run / "wandb" / "offline-run-20250101_000000-abcdefgh" / "logs"
    logs.mkdir(parents=True)
    (logs / "debug-core.log").symlink_to("/elsewhere/.cache/wandb/logs/core-debug.log")
    assert main(["evaluate", str(run), "--episodes", "1"]) == 0
    (logs / "debug.log").symlink_to("/elsewhere/.cache/wandb/logs/core-debug.log")
    capsys.readouterr()
    assert "logs/debug.log is a link to /elsewhere" in refused(capsys, "evaluate", run)


def test_the_walk_ends(places, capsys, monkeypatch):
    deep = places / "run"
    for _ in range(trust.DEPTH + 1):
        deep = deep / "d"
        deep.mkdir()
    (deep / "file").touch()
    assert f"lies more than {trust.DEPTH} folders deep in run" in refused(capsys, "diagnose", "run")
    shutil.rmtree(places / "run" / "d")
    seen = []
    with monkeypatch.context() as patched:
        patched.setattr(trust, "ENTRIES", 100)
        patched.setattr(trust, "_resolved", lambda path: seen.append(path) or path)
        (places / "run" / "many").mkdir()
        for number in range(200):
            (places / "run" / "many" / str(number)).symlink_to("0")
        assert "run holds more than 100 files and folders" in refused(capsys, "diagnose", "run")
    assert len(seen) < 100
    assert trust.ENTRIES >= 100_000, "an ablation of hundreds of runs"


def test_a_folder_that_may_not_be_read_is_one_line(places, capsys, monkeypatch):
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    (places / "run" / "videos").mkdir(exist_ok=True)
    (places / "run" / "videos" / "closed").mkdir()
    monkeypatch.setattr(os, "scandir", refuse)
    assert refused(capsys, "report", "run") == "cannot read run/videos/closed: Permission denied"


@pytest.mark.parametrize("change", [without("evaluated_at"), having("late", "evaluated_at"), forged(lambda state: {})])
def test_a_checkpoint_of_a_cell_that_says_nothing_is_one_line(places, capsys, change):
    change(places / "ablation" / "toy_copy" / "rssm" / "seed0")
    message = refused(capsys, "ablate", "--folder", "ablation")
    assert ("seed0/checkpoints does not fit this run: " in message and "evaluated_at" in message) or "'step'" in message


@pytest.mark.parametrize("named", ["wandb_entity", "wandb_project"])
def test_an_ablation_chooses_no_place_in_wandb(places, capsys, monkeypatch, named):
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    path = places / "ablation" / "ablation.json"
    written = json.loads(path.read_text())
    written["config"]["tracking"] |= {"wandb": "auto", named: "thief's"}
    path.write_text(json.dumps(written))
    flag = f"--tracking.{named.replace('_', '-')} 'thief'\"'\"'s'"
    assert refused(capsys, "ablate", "--folder", "ablation").endswith(
        f"ablation says where in W&B its data go; if you trust it, add {flag}"
    )
    monkeypatch.setattr("dreamer.experiments.ablation.sweep.do_all", lambda *arguments: 2)
    assert main(["ablate", "--folder", "ablation", flag.split(" ")[0], "thief's"]) == 130
    assert capsys.readouterr().out.rstrip().endswith(f"resume with: dreamer ablate --folder ablation {flag}")


# Where a run takes its first weights from


@pytest.fixture
def unbegun(places, small_run):
    """A run that died before its first checkpoint; `run.json` says that it began with the weights of `evil`."""
    run = shutil.copytree(small_run, places / "unbegun")
    shutil.rmtree(run / "checkpoints")
    shutil.rmtree(run / "replay")
    (run / "metrics.jsonl").unlink()
    shutil.copytree(small_run, places / "evil")
    info = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(info | {"start_from": {"path": str(places / "evil"), "load": "all"}}))
    return run


def marked(run, value):
    """All weights of a run are this."""

    def mark(state):
        for weight in state["agent"]["modules"].values():
            weight.fill_(value)

    forged(mark)(run)


def test_first_weights_come_from_where_the_user_says_and_from_nowhere_else(unbegun, places, capsys):
    marked(places / "evil", 666.0)
    before = everything_below(unbegun)
    message = refused(capsys, "train", "--resume", "unbegun")
    assert message.endswith(f"began with the weights of another run; if you trust it, add --from {places / 'evil'}")
    with pytest.raises(dreamer.UserError, match="if you trust it, add --from"):
        dreamer.resume(unbegun)
    after = {path: content for path, content in everything_below(unbegun).items() if path.name != ".lock"}
    assert after == {path: content for path, content in before.items() if path.name != ".lock"}
    assert main(["train", "--resume", "unbegun", "--from", "run"]) == 0
    weights = newest(unbegun)["agent"]["modules"]
    own = newest(places / "run")["agent"]["modules"]
    assert not any((value == 666.0).any() for value in weights.values())
    assert any(torch.equal(weights[name], own[name]) for name in own)
    assert json.loads((unbegun / "run.json").read_text())["start_from"] == {"path": str(places / "run"), "load": "all"}


ORIGINS = [7, "evil", True, [], {}, {"path": "evil"}, {"load": "all"}, {"path": 3, "load": "all"}]


@pytest.mark.parametrize("origin", [*ORIGINS, {"path": "evil", "load": "Actor!"}, {"path": "evil", "load": [1]}])
def test_an_origin_that_says_nothing_is_one_line(unbegun, capsys, origin):
    info = json.loads((unbegun / "run.json").read_text())
    (unbegun / "run.json").write_text(json.dumps(info | {"start_from": origin}))
    for words in ((), ("--from", "run")):
        message = refused(capsys, "train", "--resume", "unbegun", *words)
        assert message.startswith("unbegun is not a run folder: unbegun/run.json: start_from")


def test_a_run_that_has_weights_takes_no_others(places, unbegun, capsys):
    assert "run has weights of its own" in refused(capsys, "train", "--resume", "run", "--from", "evil")
    info = json.loads((unbegun / "run.json").read_text())
    del info["start_from"]
    (unbegun / "run.json").write_text(json.dumps(info))
    message = refused(capsys, "train", "--resume", "unbegun", "--from", "evil")
    assert message == "--from evil: unbegun began with weights of its own; resume it without --from"


@pytest.mark.skipif(sys.platform != "linux", reason="opens no link by a flag of Linux's")
def test_a_file_is_never_written_through_a_link(tmp_path):
    from dreamer.system.files import write_atomically

    (tmp_path / "mine").write_text("mine")
    (tmp_path / "x.json.tmp").symlink_to(tmp_path / "mine")
    with pytest.raises(OSError, match="symbolic link"):
        write_atomically(tmp_path / "x.json", b"{}")
    write_atomically(tmp_path / "x.json", b"{}")
    assert (tmp_path / "mine").read_text() == "mine" and (tmp_path / "x.json").read_bytes() == b"{}"
