"""Atomic, checksummed checkpoints.

A checkpoint is one file, `step_<step>.ckpt`: a line of JSON with its format version and SHA-256, then the bytes of
`torch.save`. It is written to a temporary name, synced and renamed, so it exists whole or not at all, also when a step
is saved twice. Loading never unpickles objects (`weights_only=True`).

A run hands a snapshot of its state to a `CheckpointWriter`, whose thread writes it while training continues.

The folder `best` inside holds one more: the weights that had the highest evaluation return. They are written just
before the checkpoint whose state names their step, and the former ones are deleted just after it.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from typing_extensions import TypedDict

from dreamer.errors import UserError, reason
from dreamer.runs.saved import State, read_large, understood, unpacked
from dreamer.system.files import Counter, sync_folder, write_atomically
from dreamer.system.redaction import warn
from envs.ranges import adapter, violation

FORMAT = 1
TRIED = 100
"""Largest number of checkpoints that are tried, the newest ones."""
SHOWN = 10
"""Largest number of steps that a message lists, the newest ones."""
BEST = "best"
"""Folder of the best checkpoint, inside that of the newest ones."""
Wanted = int | Literal["best"] | None
"""Checkpoint to load: that of a step, the best one by evaluation, or None for the newest."""


class NoCheckpoint(UserError):
    """A folder holds no usable checkpoint."""


class Header(TypedDict):
    """First line of a checkpoint."""

    format: int
    step: Counter
    sha256: str


def save(folder: Path, step: int, state: Mapping[str, Any], keep: int) -> Path:
    """Write a checkpoint of environment step `step`, then delete all but the newest `keep` up to this step.

    Later ones are deleted too: they are damaged, since the run was resumed from an older one.
    Raises `UserError` when the disk is full or not writable; older checkpoints stay as they were.
    """
    path = _write(folder, step, state)
    _keep(folder, [other for other in _newest_first(folder) if other.name <= path.name][:keep])
    return path


def save_best(folder: Path, state: Mapping[str, Any]) -> None:
    """Write a best checkpoint of the step `state["step"]` beside the former one, which `keep_best` deletes."""
    _write(folder / BEST, state["step"], state)


def keep_best(folder: Path, step: int) -> bool:
    """Delete every best checkpoint but that of `step`; returns True where that one exists."""
    kept = [path for path in _newest_first(folder / BEST) if step_of(path) == step]
    _keep(folder / BEST, kept)
    return bool(kept)


def file_of(folder: Path, wanted: Literal["last", "best"]) -> Path | None:
    """The file of the last or the best checkpoint; None where there is none."""
    return next(iter(_newest_first(folder / BEST if wanted == BEST else folder)), None)


def load(folder: Path, wanted: Wanted = None) -> tuple[int, State, list[str]]:
    """Read a checkpoint onto the CPU; returns its step, its state, and a line per damaged one skipped.

    By default it is the newest good one. These lines are printed as well. Raises `NoCheckpoint` when there is none, and
    `UserError` for one of another format or with impossible values. The best checkpoint holds weights alone.
    """
    skipped: list[str] = []
    for path in _newest_first(folder)[:TRIED] if wanted is None else _files_of(folder, wanted):
        try:
            header, _, data = read_large(path).partition(b"\n")
            manifest: Header = adapter(Header).validate_json(header, strict=True)
            if manifest["format"] == FORMAT and hashlib.sha256(data).hexdigest() != manifest["sha256"]:
                raise ValueError("its checksum does not match")
            state = unpacked(data) if manifest["format"] == FORMAT else None
        except ValueError as error:  # the next older one may be good
            skipped.append(f"skipped damaged checkpoint {path}: {violation(error)}")
        else:
            if skipped:
                warn(*skipped)
            return manifest["step"], _checked(state, manifest, path), skipped
    detail = f" ({'; '.join(skipped[:3])})" if skipped else ""
    raise NoCheckpoint(f"no usable checkpoint in {folder}{detail}")


def _files_of(folder: Path, wanted: int | Literal["best"]) -> list[Path]:
    """The files of the checkpoint that is wanted; raises `NoCheckpoint` with the steps that are there."""
    newest, best = _newest_first(folder), _newest_first(folder / BEST)
    found = best if wanted == BEST else [path for path in (*newest, *best) if step_of(path) == wanted]
    if found:
        return found[:TRIED]
    steps = {step_of(path): "" for path in reversed(newest)} | {step_of(path): " (best)" for path in best}
    listed = ", ".join(f"{step}{best}" for step, best in sorted(steps.items())[-SHOWN:] if step >= 0)
    what = "best checkpoint" if wanted == BEST else f"checkpoint of step {wanted}"
    raise NoCheckpoint(f"no {what} in {folder}; available steps: {listed or 'none'}")


def _checked(state: Any, header: Header, path: Path) -> State:
    """The state, with types and ranges checked."""
    if header["format"] != FORMAT:
        raise UserError(
            f"checkpoint {path} has format {header['format']}, this version reads format {FORMAT}; "
            "use the version of the code named in run.json"
        )
    with understood(path.parent):
        checked: State = adapter(State).validate_python(state)
        if checked.get("step", header["step"]) != header["step"]:
            raise ValueError(f"it is of step {checked['step']} and not {header['step']}")
    return checked


def snapshot(tree: Any) -> Any:
    """A copy of nested dicts and lists of tensors on the CPU, which shares no memory with the original."""
    if isinstance(tree, torch.Tensor):
        return tree.detach().to("cpu", copy=True)
    if isinstance(tree, Mapping):
        return {key: snapshot(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(snapshot(value) for value in tree)
    return tree


class CheckpointWriter:
    """Writes one checkpoint at a time in its own thread, so that training does not wait for the disk.

    `keep` newest ones are kept, and the best one beside them.
    """

    def __init__(self, folder: Path, keep: int):
        self.folder, self.keep = folder, keep
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def busy(self) -> bool:
        """True while a checkpoint is being written."""
        return self._thread is not None and self._thread.is_alive()

    def begin(
        self,
        step: int,
        state: Mapping[str, Any],
        before: Callable[[], None],
        best: Mapping[str, Any] | None = None,
    ) -> None:
        """Start a thread that calls `before` and then writes `state`, a snapshot that does not change any more.

        `before` makes everything durable that the checkpoint refers to. `best` is the state of a new best checkpoint,
        of the step `best["step"]`. Call `wait` for the previous checkpoint first.
        """

        def write() -> None:
            try:
                before()
                if best is not None:
                    save_best(self.folder, best)
                save(self.folder, step, state, self.keep)
                if best is not None:
                    keep_best(self.folder, best["step"])
            except BaseException as error:  # `wait` raises it
                self._error = error

        self._thread = threading.Thread(target=write, name="dreamer checkpoint", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Return once the checkpoint is safe on disk; raises the thread's error, `UserError` for a full disk."""
        self.join()
        if self._error is not None:
            raise self._error

    def join(self) -> None:
        """Return once nothing is being written, whether or not that succeeded."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None


def _write(folder: Path, step: int, state: Mapping[str, Any]) -> Path:
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    data = buffer.getbuffer()
    header = {"format": FORMAT, "step": step, "sha256": hashlib.sha256(data).hexdigest()}
    path = folder / f"step_{step:012d}.ckpt"
    try:
        for made in (folder.parent, folder) if folder.name == BEST else (folder,):
            made.mkdir(exist_ok=True)  # without its parents: the run folder may have been moved
            sync_folder(made.parent)
        write_atomically(path, json.dumps(header).encode(), b"\n", data)
    except OSError as error:
        intact = "; the previous one is intact" if any(_newest_first(folder)) else ""
        raise UserError(f"cannot write checkpoint {path}: {reason(error)}{intact}") from error
    return path


def step_of(path: Path) -> int:
    """The step in the name of a checkpoint; -1 in other names."""
    found = re.fullmatch(r"step_([0-9]{1,16})\.ckpt", path.name)
    return int(found[1]) if found else -1


def _keep(folder: Path, kept: Iterable[Path]) -> None:
    """Delete all other checkpoints of a folder, and what is left of unfinished ones."""
    for other in {*_newest_first(folder), *filter(Path.is_file, folder.glob("*.tmp"))} - set(kept):
        other.unlink()


def _newest_first(folder: Path) -> list[Path]:
    return sorted((path for path in folder.glob("step_*.ckpt") if path.is_file()), reverse=True)
