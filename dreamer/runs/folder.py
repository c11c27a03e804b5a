"""The run folder: config, provenance, lock, checkpoints; enough to resume, evaluate and report."""

from __future__ import annotations

import datetime
import fcntl
import json
import platform
import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Required, cast

import torch
from pydantic import ConfigDict, StringConstraints, with_config
from typing_extensions import TypedDict

from dreamer.config import Config, from_json, to_json
from dreamer.errors import UserError, reason
from dreamer.runs.provenance import VERSIONED, command_line, commit, diff, package_version
from dreamer.runs.trust import check_folder
from dreamer.system import ranks
from dreamer.system.files import MB, Counter, Text, read_bytes, read_json, sync_folder, write_atomically
from dreamer.system.redaction import redact
from dreamer.tracking.destination import DIFF

UNBEGUN = {".lock", "config.json", "config.json.tmp", "run.json.tmp", DIFF, f"{DIFF}.tmp"}


class Parallel(TypedDict, total=False):
    """Choice between stepping environments in one process and in several, with the measurements behind `auto`."""

    on: Required[bool]
    processes: Counter
    seconds: dict[Text, float]


class StartFrom(TypedDict):
    """Run that gave the initial weights."""

    path: Text
    load: Annotated[str, StringConstraints(pattern=r"^[a-z_]+(, ?[a-z_]+)*$", max_length=1000)]


@with_config(ConfigDict(extra="allow"))
class RunInfo(TypedDict, total=False):
    """Content of run.json: provenance, and what cannot be found out again. Older runs lack some entries."""

    device: Required[Text]
    command: Text
    created: Text
    seed: int
    commit: Text
    python: Text
    platform: Text
    threads: Counter
    thread_seconds: dict[Text, float]
    versions: dict[Text, Text]
    parallel: Parallel
    start_from: StartFrom
    make_env: Text
    resumed: list[Text]
    parameters: dict[Text, Counter]
    replay: dict[Text, Counter]
    numerics: dict[Text, Text | Counter | bool]
    complete: Counter


@dataclass
class RunFolder:
    """Paths and provenance of one run."""

    path: Path
    """The folder."""
    config: Config
    """Full configuration, as in config.json."""
    info: RunInfo
    """Command, versions, commit, seed, device and more, as in run.json."""

    @property
    def metrics(self) -> Path:
        """JSON lines of all metrics, the primary record of the run."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def share(self) -> Path:
        """Folder of what this process of a run keeps for itself: the run folder, or rank_N in it for process N > 0."""
        return self.path / f"rank_{ranks.number()}" if ranks.number() else self.path

    @property
    def replay(self) -> Path:
        """Folder of the replay files of this process."""
        return self.share / "replay"

    @property
    def videos(self) -> Path:
        """Folder of videos."""
        return self.path / "videos"

    @property
    def faults(self) -> Path:
        """Folder of faults: failures of environments in environments.log, and batches whose loss is not finite."""
        return self.path / "faults"

    @property
    def never_began(self) -> bool:
        """True when the run died before its first checkpoint and record, so that it can be restarted."""
        recorded = self.metrics.exists() and self.metrics.stat().st_size
        return not recorded and not any(self.checkpoints.glob("step_*.ckpt"))

    @property
    def numerics(self) -> dict[str, Any]:
        """Everything that rounding depends on, as the run had it last."""
        known: dict[str, Any] = {name: self.info.get(name) for name in ("device", "threads") if name in self.info}
        return self.info.setdefault("numerics", known)  # absent if an older version wrote run.json

    def save(self) -> None:
        """Write config.json and run.json, in rank 0; raises `UserError` when the folder cannot be written."""
        if ranks.number():
            return
        try:
            write_atomically(self.path / "config.json", to_json(self.config).encode())
            write_atomically(self.path / "run.json", json.dumps(self.info, indent=2, ensure_ascii=False), "\n")
        except OSError as error:
            raise UserError(f"cannot write to {self.path}: {reason(error)}") from None


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a folder for this process; raises `UserError` when another process trains in it."""
    try:
        file = open(path / ".lock", "ab")  # noqa: SIM115
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"{path} is in use by another process") from None
    except OSError as error:
        raise UserError(f"cannot lock {path}: {reason(error)}") from None
    with file:
        yield


def create_run(
    path: Path, config: Config, device: str, origin: Mapping[str, Any] | None = None, unique: bool = False
) -> RunFolder:
    """Create a run folder; raises `UserError` when it exists with content or cannot be written.

    With `unique`, a path that exists gets a number, since several processes may choose the same name at once.
    `origin` is written to run.json at once: entries without which the run cannot be restarted. A configuration that
    holds a secret is refused as well, since it would be written, shown and sent to trackers.
    """
    _refuse_secrets(config)
    if unique:
        path = create_unique(path)
    _make_empty(path)
    info = {
        "command": command_line(),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seed": config.seed,
        "device": device,
        "commit": commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "versions": {name: package_version(name) for name in VERSIONED},
        **(origin or {}),
    }
    run = RunFolder(path, config, cast(RunInfo, info))
    with locked(path):
        _refuse_content(path)  # another process may have been faster
        if config.tracking.git_diff and (changes := diff()):
            try:
                write_atomically(path / DIFF, changes)
            except OSError as error:
                raise UserError(f"cannot write to {path}: {reason(error)}") from None
        run.save()
    return run


def open_run(path: Path) -> RunFolder:
    """Open an existing run folder; raises `UserError` when it is not one or was written by another version."""
    check_folder(path)
    missing = next((path / name for name in ("config.json", "run.json") if not (path / name).exists()), None)
    if missing:
        run = next((parent for parent in path.absolute().parents if (parent / "run.json").is_file()), None)
        hint = f"; name the run folder that it belongs to: {run}" if run else ""
        wrong = "it is a file" if path.is_file() else f"{missing} is missing"
        raise UserError(f"no run folder at {path}: {wrong}{hint}")
    try:
        text = read_bytes(path / "config.json", MB)
        info = read_json(path / "run.json", RunInfo)
    except UserError as error:
        raise UserError(f"{path} is not a run folder: {error}") from None
    try:
        return RunFolder(path, from_json(text), info)
    except UserError as error:
        raise UserError(f"{path / 'config.json'}: {error}{_origin(info)}") from None


def _origin(info: RunInfo) -> str:
    """The end of a message that names the commit in `run.json`, if there is one."""
    written = info.get("commit", "")
    return f"; the run was made at commit {written[:12]}" if re.fullmatch("[0-9a-f]{40}", written) else ""


def _refuse_secrets(config: Config) -> None:
    for line in to_json(config).splitlines():
        if redact(line) != line:
            name = line.partition(":")[0].strip(' "') if ":" in line else "a setting"
            raise UserError(f"{name} holds what looks like a secret; leave it in the environment")


def _make_empty(path: Path) -> None:
    try:
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        path.mkdir(parents=True, exist_ok=True)
        for folder in missing:
            sync_folder(folder.parent)
    except FileExistsError:
        pass
    except OSError as error:
        raise UserError(f"cannot write to {path}: {reason(error)}") from None
    check_folder(path)
    _refuse_content(path)


def _refuse_content(path: Path) -> None:
    """Raise `UserError` unless the folder is empty, or left by a process that died while it created it."""
    try:
        names = {file.name for file in path.iterdir()} if path.is_dir() else None
    except OSError as error:
        raise UserError(f"cannot read {path}: {reason(error)}") from None
    if names is None or names - UNBEGUN:
        hint = f"continue it with `dreamer train --resume {shlex.quote(str(path))}` or pick another --run-dir"
        raise UserError(f"{path} already exists; {hint}")


def create_unique(path: Path) -> Path:
    """Create the folder `path`, or where that exists `path_2`, `path_3`, ...; return its path."""
    place, number = path, 1
    while True:
        try:
            place.mkdir(parents=True)
            sync_folder(place.parent)
            return place
        except FileExistsError:
            number += 1
            place = path.with_name(f"{path.name}_{number}")
        except OSError as error:
            raise UserError(f"cannot write to {path}: {reason(error)}") from None


def default_path(config: Config, stamp: str = "") -> Path:
    """Default run folder: runs/<task>_<core>_<size>_seed<seed>_<time>, or with `stamp` in the place of the time."""
    stamp = stamp or datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    task = re.sub(r"[^A-Za-z0-9]+", "_", config.task).strip("_")
    return Path("runs") / f"{task}_{config.agent.dynamics.core}_{config.size}_seed{config.seed}_{stamp}"
