"""Checkpoints: whole or not there, checked when read, and never a way to run code."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import pickle
import resource
import signal
from pathlib import Path

import pytest
import torch
from running import differences, forked

from dreamer.errors import UserError
from dreamer.runs import checkpoint
from dreamer.system.files import write_atomically

STATE = {
    "step": 7,
    "weights": {"a": torch.arange(12.0).view(3, 4)},
    "rng": {"cpu": torch.get_rng_state()},
    "queue": [[0, 1]],
}


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_saved_is_loaded_bit_for_bit(tmp_path):
    path = checkpoint.save(tmp_path / "checkpoints", 7, STATE, keep=2)
    assert path == tmp_path / "checkpoints" / "step_000000000007.ckpt"
    step, state, skipped = checkpoint.load(tmp_path / "checkpoints")
    assert (step, skipped) == (7, []) and not differences(state, STATE)


def test_the_newest_are_kept(tmp_path):
    for step in (9, 80, 700, 6000):
        checkpoint.save(tmp_path, step, {"step": step}, keep=2)
    assert files(tmp_path) == ["step_000000000700.ckpt", "step_000000006000.ckpt"]
    assert checkpoint.load(tmp_path)[1] == {"step": 6000}


def test_saving_a_step_again_replaces_it(tmp_path):
    checkpoint.save(tmp_path, 5, {"try": 1}, keep=2)
    checkpoint.save(tmp_path, 5, {"try": 2}, keep=2)
    assert len(files(tmp_path)) == 1 and checkpoint.load(tmp_path)[1] == {"try": 2}


def break_byte(path):
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "flipped bit": break_byte,
    "cut short": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: path.write_bytes(b""),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "header of another kind": lambda path: path.write_bytes(b"[1, 2]\n" + path.read_bytes()),
    "no checkpoint": lambda path: path.write_bytes(b'{"format": 1}\nhello'),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(tmp_path, damage):
    for step in (1, 2):
        checkpoint.save(tmp_path, step, STATE | {"step": step}, keep=2)
    DAMAGES[damage](tmp_path / "step_000000000002.ckpt")
    step, state, skipped = checkpoint.load(tmp_path)
    assert step == state["step"] == 1
    assert len(skipped) == 1 and skipped[0].startswith("skipped damaged checkpoint ") and "\n" not in skipped[0]
    assert "step_000000000002.ckpt: " in skipped[0]


@pytest.mark.parametrize("damage", DAMAGES)
def test_without_a_good_checkpoint_the_error_names_every_damaged_one(tmp_path, damage):
    checkpoint.save(tmp_path, 2, STATE, keep=2)
    DAMAGES[damage](tmp_path / "step_000000000002.ckpt")
    with pytest.raises(UserError, match=r"no usable checkpoint in .*step_000000000002\.ckpt: ") as caught:
        checkpoint.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_only_a_previous_checkpoint_is_called_intact(tmp_path, monkeypatch):
    def full(path, *parts):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_atomically", full)
    for intact in ("", "; the previous one is intact"):
        with pytest.raises(UserError) as caught:
            checkpoint.save(tmp_path, 2, STATE, keep=2)
        path = tmp_path / "step_000000000002.ckpt"
        assert str(caught.value) == f"cannot write checkpoint {path}: No space left on device{intact}"
        (tmp_path / "step_000000000001.ckpt").touch()


def test_no_checkpoint_at_all(tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UserError, match=f"^no usable checkpoint in {folder}$"):
            checkpoint.load(folder)


def test_a_run_that_went_on_from_an_older_checkpoint_drops_the_damaged_one(tmp_path):
    for step in (10, 20):
        checkpoint.save(tmp_path, step, {"step": step}, keep=2)
    break_byte(tmp_path / "step_000000000020.ckpt")
    checkpoint.save(tmp_path, 15, {"step": 15}, keep=1)
    assert files(tmp_path) == ["step_000000000015.ckpt"]


def test_another_format_is_refused_even_when_an_older_file_would_do(tmp_path):
    for step in (1, 2):
        checkpoint.save(tmp_path, step, STATE, keep=2)
    path = tmp_path / "step_000000000002.ckpt"
    header, _, data = path.read_bytes().partition(b"\n")
    path.write_bytes(json.dumps(json.loads(header) | {"format": 2}).encode() + b"\n" + data)
    with pytest.raises(UserError, match="format 2, this version reads format 1"):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize(
    ("moment", "when", "survivor"), [("fsync", "before", 1), ("replace", "before", 1), ("replace", "after", 2)]
)
def test_a_process_killed_while_writing_leaves_a_whole_checkpoint(tmp_path, moment, when, survivor):
    checkpoint.save(tmp_path, 1, {"step": 1}, keep=1)
    original = getattr(os, moment)

    def die(*arguments):
        if when == "after":
            original(*arguments)
        os.kill(os.getpid(), signal.SIGKILL)

    def save():
        setattr(os, moment, die)
        checkpoint.save(tmp_path, 2, {"step": 2}, keep=1)

    assert forked(save)[0] == -signal.SIGKILL
    assert checkpoint.load(tmp_path) == (survivor, {"step": survivor}, [])
    checkpoint.save(tmp_path, 3, {"step": 3}, keep=1)
    assert files(tmp_path) == ["step_000000000003.ckpt"]


def test_a_half_written_file_is_ignored_and_cleared_away(tmp_path):
    checkpoint.save(tmp_path, 1, {"step": 1}, keep=2)
    (tmp_path / "step_000000000002.ckpt.tmp").write_bytes(b"half")
    assert checkpoint.load(tmp_path) == (1, {"step": 1}, [])
    checkpoint.save(tmp_path, 2, {"step": 2}, keep=2)
    assert files(tmp_path) == ["step_000000000001.ckpt", "step_000000000002.ckpt"]


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path):
    checkpoint.save(tmp_path, 1, {"step": 1}, keep=1)

    def save():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        with pytest.raises(UserError) as caught:
            checkpoint.save(tmp_path, 2, {"weights": torch.zeros(10_000)}, keep=1)
        return str(caught.value)

    code, message = forked(save)
    assert code == 0 and message.endswith("File too large; the previous one is intact")
    assert files(tmp_path) == ["step_000000000001.ckpt"]
    assert checkpoint.load(tmp_path)[1] == {"step": 1}


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_hostile_checkpoint_runs_no_code(tmp_path):
    trap = str(tmp_path / "sprung")
    buffer = io.BytesIO()
    torch.save({"step": 1, "agent": Trap(trap)}, buffer)
    for data in (buffer.getvalue(), pickle.dumps(Trap(trap), protocol=2)):
        header = {"format": checkpoint.FORMAT, "step": 1, "sha256": hashlib.sha256(data).hexdigest()}
        (tmp_path / "step_000000000001.ckpt").write_bytes(json.dumps(header).encode() + b"\n" + data)
        with pytest.raises(UserError, match="no usable checkpoint") as caught:
            checkpoint.load(tmp_path)
        assert "\n" not in str(caught.value) and not os.path.exists(trap)


def test_write_atomically_leaves_no_trace_of_a_failure(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, b"old")
    path.unlink()
    path.mkdir()
    with pytest.raises(OSError):
        write_atomically(path, b"new")
    assert files(tmp_path) == ["file"]


# The best one


def saved(folder, step, best=None):
    """Write as a run does; `best` is the step whose weights become the best."""
    writer = checkpoint.CheckpointWriter(folder, keep=1)
    writer.begin(step, {"step": step}, lambda: None, None if best is None else {"step": best, "evaluation": {}})
    writer.wait()


def test_the_best_one_is_kept_beside_the_newest_and_found_by_step_or_by_name(tmp_path):
    folder = tmp_path / "checkpoints"
    saved(folder, 10, best=9)
    saved(folder, 20)
    assert checkpoint.load(folder)[0] == 20
    assert (
        checkpoint.load(folder, "best")[0] == checkpoint.load(folder, 9)[0] == 9
        and checkpoint.load(folder, 20)[0] == 20
    )
    with pytest.raises(UserError, match=rf"^no checkpoint of step 10 in {folder}; available steps: 9 \(best\), 20$"):
        checkpoint.load(folder, 10)
    saved(folder, 30, best=30)
    assert files(folder / "best") == ["step_000000000030.ckpt"] and checkpoint.load(folder, "best")[0] == 30
    break_byte(folder / "best" / "step_000000000030.ckpt")
    with pytest.raises(UserError, match="no usable checkpoint in .*best/step_000000000030.ckpt: its checksum"):
        checkpoint.load(folder, "best")
    assert checkpoint.load(folder, 30)[0] == 30, "the newest one has the same step"


def test_without_a_best_one_the_message_lists_the_steps(tmp_path):
    saved(tmp_path, 10)
    with pytest.raises(UserError, match=rf"^no best checkpoint in {tmp_path}; available steps: 10$"):
        checkpoint.load(tmp_path, "best")


@pytest.mark.parametrize(("deaths", "best"), [("before the newest", 10), ("before the former best is deleted", 20)])
def test_a_process_killed_between_best_and_newest_leaves_the_best_that_its_newest_names(tmp_path, deaths, best):
    saved(tmp_path, 10, best=10)

    def save():
        name = "save" if deaths == "before the newest" else "keep_best"
        setattr(checkpoint, name, lambda *words: os.kill(os.getpid(), signal.SIGKILL))
        saved(tmp_path, 20, best=20)

    assert forked(save)[0] == -signal.SIGKILL
    assert files(tmp_path / "best") == ["step_000000000010.ckpt", "step_000000000020.ckpt"]
    newest = checkpoint.load(tmp_path)[0]
    assert newest == best and checkpoint.keep_best(tmp_path, newest)
    assert checkpoint.load(tmp_path, "best")[0] == best and len(files(tmp_path / "best")) == 1
