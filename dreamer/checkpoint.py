"""Atomic, checksummed checkpoints.

A checkpoint is one file, `step_<step>.ckpt`: a line of JSON with its format version and SHA-256, then the bytes of
`torch.save`. It is written to a temporary name, synced and renamed, so it exists whole or not at all, also when a step
is saved twice. Loading never unpickles objects (`weights_only=True`).

A run hands a snapshot of its state to a `CheckpointWriter`, whose thread writes it while the run goes on.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from dreamer.errors import UserError

FORMAT = 1


def save(folder: Path, step: int, state: Mapping[str, Any], keep: int) -> Path:
    """Write a checkpoint of environment step `step`, then delete all but the newest `keep` up to this step.

    Later ones are deleted too: a run that saves behind them went on from an older one because they are damaged.
    Raises `UserError` when the disk is full or not writable; older checkpoints stay as they were.
    """
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    data = buffer.getbuffer()
    header = {"format": FORMAT, "step": step, "sha256": hashlib.sha256(data).hexdigest()}
    path = folder / f"step_{step:012d}.ckpt"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sync_folder(folder.parent)
        write_atomically(path, json.dumps(header).encode(), b"\n", data)
    except OSError as error:
        raise UserError(f"cannot write checkpoint {path}: {error.strerror}; the previous one is intact") from error
    kept = [other for other in _newest_first(folder) if other.name <= path.name][:keep]
    for other in {*_newest_first(folder), *folder.glob("*.tmp")} - set(kept):
        other.unlink()
    return path


def load(folder: Path) -> tuple[int, dict[str, Any], list[str]]:
    """Read the newest good checkpoint onto the CPU: its step, its state, and a line for each damaged one skipped.

    Raises `UserError` when there is none, or when it was written in another format.
    """
    skipped: list[str] = []
    for path in _newest_first(folder):
        try:
            header, _, data = path.read_bytes().partition(b"\n")
            manifest = json.loads(header)
            if manifest["format"] != FORMAT:
                raise UserError(
                    f"checkpoint {path} has format {manifest['format']}, this version reads format {FORMAT}; "
                    "use the version of the code named in run.json"
                )
            if hashlib.sha256(data).hexdigest() != manifest["sha256"]:
                raise ValueError("its checksum does not match")
            if type(manifest["step"]) is not int:
                raise ValueError("its step is no number")
            state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
            if not isinstance(state, dict):
                raise ValueError("it holds no state")
            return manifest["step"], state, skipped
        except UserError:
            raise
        except Exception as error:  # whatever is wrong with a damaged file, the next older one may be good
            skipped.append(f"skipped damaged checkpoint {path}: {str(error).partition(chr(10))[0]}")
    detail = f" ({'; '.join(skipped)})" if skipped else ""
    raise UserError(f"no usable checkpoint in {folder}{detail}")


def snapshot(tree: Any) -> Any:
    """A copy of nested dicts and lists of tensors that lies on the CPU and shares no memory with the original."""
    if isinstance(tree, torch.Tensor):
        return tree.detach().to("cpu", copy=True)
    if isinstance(tree, Mapping):
        return {key: snapshot(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(snapshot(value) for value in tree)
    return tree


class CheckpointWriter:
    """Writes one checkpoint at a time in a thread of its own, so that training does not wait for the disk."""

    def __init__(self, folder: Path, keep: int):
        self.folder, self.keep = folder, keep
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being written now."""
        return self._thread is not None and self._thread.is_alive()

    def begin(self, step: int, state: Mapping[str, Any], before: Callable[[], None]) -> None:
        """Start to write `state`, a snapshot that nobody changes any more, after having called `before` there.

        `before` makes durable what the checkpoint refers to. `wait` must have been called for the checkpoint before.
        """

        def write() -> None:
            try:
                before()
                save(self.folder, step, state, self.keep)
            except BaseException as error:  # raised again where somebody can hear it
                self._error = error

        self._thread = threading.Thread(target=write, name="dreamer checkpoint", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Return once the checkpoint is safely on disk; raises what went wrong, `UserError` for a full disk."""
        self.join()
        if self._error is not None:
            raise self._error

    def join(self) -> None:
        """Return once nothing is being written any more, well or not."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None


def write_atomically(path: Path, *parts: bytes | memoryview) -> None:
    """Replace `path` by the joined parts such that a crash leaves either the old or the new content."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb", opener=_no_link) as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def _no_link(path: str, flags: int) -> int:
    """Open a file to write, and no link that leads to another one."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def sync_folder(path: Path) -> None:
    """Make the names in a folder safe against power loss; what the files hold is another matter. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step_*.ckpt"), reverse=True) if folder.is_dir() else []
