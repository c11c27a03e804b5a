"""Atomic, checksummed checkpoints.

A checkpoint is one file, `step_<step>.ckpt`: a line of JSON with its format version and SHA-256, then the bytes of
`torch.save`. It is written to a temporary name, synced and renamed, so it exists whole or not at all, also when a step
is saved twice. Loading never unpickles objects (`weights_only=True`).
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
from collections.abc import Mapping
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
    data = buffer.getvalue()
    header = {"format": FORMAT, "step": step, "sha256": hashlib.sha256(data).hexdigest()}
    path = folder / f"step_{step:012d}.ckpt"
    try:
        folder.mkdir(parents=True, exist_ok=True)
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
            return manifest["step"], torch.load(io.BytesIO(data), map_location="cpu", weights_only=True), skipped
        except UserError:
            raise
        except Exception as error:  # whatever is wrong with a damaged file, the next older one may be good
            skipped.append(f"skipped damaged checkpoint {path}: {str(error).partition(chr(10))[0]}")
    detail = f" ({'; '.join(skipped)})" if skipped else ""
    raise UserError(f"no usable checkpoint in {folder}{detail}")


def write_atomically(path: Path, *parts: bytes) -> None:
    """Replace `path` by the joined parts such that a crash leaves either the old or the new content."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step_*.ckpt"), reverse=True) if folder.is_dir() else []
