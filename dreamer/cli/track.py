"""`dreamer track`: sends the metrics and videos of a run to W&B or TensorBoard afterwards, each record once."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import json
import os
import re
import secrets
import shlex
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from dreamer.cli.parsing import parse
from dreamer.errors import UserError, first_line
from dreamer.runs.folder import RunFolder, open_run
from dreamer.runs.trust import check_destination
from dreamer.system.files import write_atomically
from dreamer.system.redaction import show
from dreamer.tracking import View, read
from dreamer.tracking.jsonl import COUNTERS
from dreamer.tracking.tensorboard import TensorBoardView
from dreamer.tracking.wandb import WandbView
from dreamer.tracking.wandb_session import RUN_ID

STATE = "wandb_track.json"
"""File of what W&B has: run id, length and SHA-256 of that part of metrics.jsonl, and names of the videos."""
VIDEO = re.compile(r"eval_(\d{1,18})\.mp4")
UPLOAD_SECONDS = 3600.0
"""Longest wait for W&B; here, unlike in training, there is nothing else to do."""


@dataclass(frozen=True)
class TrackArguments:
    """Send the metrics and videos of a run to W&B or TensorBoard; what an earlier call has sent is not sent again."""

    run: tyro.conf.Positional[Path]
    """Run folder."""
    wandb: bool = False
    """Send to W&B, as a separate W&B run from one that training may have made."""
    tensorboard: bool = False
    """Rewrite RUN/tensorboard."""
    wandb_entity: str = ""
    """W&B user or team; empty is the run's own where the user's settings name it too, else the account's default."""
    wandb_project: str = ""
    """W&B project; empty is the run's own where the user's settings name it too."""


def run(argv: Sequence[str]) -> int:
    """Send the run to the trackers named and print what was sent."""
    show(*track(parse(TrackArguments, "track", argv)))
    return 0


def track(args: TrackArguments) -> list[str]:
    """Return one line for each tracker; raises `UserError` when one cannot be written."""
    if not (args.wandb or args.tensorboard):
        raise UserError("name the tracker: --wandb, --tensorboard or both")
    folder = open_run(args.run)
    lines = []
    with folder.locked():
        if args.tensorboard:
            lines.append(_to_tensorboard(folder))
        if args.wandb:
            lines.append(_to_wandb(folder, args))
    return lines


def _to_tensorboard(run: RunFolder) -> str:
    """Write events to a temporary folder; when they are complete, they replace the old ones."""
    records, videos = read(run.metrics), _videos(run)
    folder, aside = run.path / "tensorboard", run.path / "tensorboard.new"
    with _one_line_errors("TensorBoard"):
        if aside.exists():
            shutil.rmtree(aside)
        view = TensorBoardView(aside, began=_began(run))
        view.start()
        _show(view, records, videos)
        view.close("finished")
        folder.mkdir(exist_ok=True)
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        for new in aside.iterdir():
            os.replace(new, folder / new.name)
        aside.rmdir()
    command = f"tensorboard --logdir {shlex.quote(str(folder))}"
    return f"TensorBoard: {len(records)} records, videos: {len(videos)}; show with: {command}"


def _to_wandb(run: RunFolder, args: TrackArguments) -> str:
    """Log what W&B lacks. An interrupted call leaves no state, so that the next one starts another W&B run."""
    tracking = dataclasses.replace(run.config.tracking, wandb="auto", close_seconds=UPLOAD_SECONDS)
    given = {name: getattr(args, name) for name in ("wandb_entity", "wandb_project") if getattr(args, name)}
    tracking = dataclasses.replace(tracking, **given)
    named = [f"{name.replace('_', '-')}={value}" for name, value in given.items()]
    check_destination(tracking, named, run.path, "--")
    data, videos = run.metrics.read_bytes() if run.metrics.is_file() else b"", _videos(run)
    data = data[: data.rfind(b"\n") + 1]
    state = _state(run.path / STATE, data)
    records = read(run.metrics)
    new = records[data[: state["bytes"]].count(b"\n") : data.count(b"\n")]
    unseen = [video for video in videos if video[1].name not in state["films"]]
    if not new and not unseen:
        return f"W&B run {state['id']}: nothing new, it has all {len(records)} records; videos: {len(videos)}"
    with _one_line_errors("W&B"):
        (run.path / STATE).unlink(missing_ok=True)
        view = WandbView(tracking, run.path, run.info, dataclasses.asdict(run.config), run_id=state["id"])
        view.start()
        if not view.notice:
            raise UserError("W&B is disabled here (WANDB_MODE)")
        _show(view, new, unseen)
        view.summary({name: value for record in new for name, value in record.items() if name.startswith("eval/")})
        view.close("finished")
        names = [path.name for _, path in videos]
        shown = {"id": view.id, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "films": names}
        write_atomically(run.path / STATE, json.dumps(shown).encode())
    return f"W&B run {view.id}: {len(new)} new records, videos: {len(unseen)}; {view.notice}"


def _show(view: View, records: Sequence[dict[str, Any]], videos: Sequence[tuple[int, Path]]) -> None:
    """Log records and videos in the order of their steps."""
    waiting = list(videos)
    for record in records:
        while waiting and waiting[0][0] < record["step"]:
            view.video(waiting[0][0], "eval/film", waiting.pop(0)[1])
        view.log(int(record["step"]), {name: value for name, value in record.items() if name not in COUNTERS})
    for step, path in waiting:
        view.video(step, "eval/film", path)


def _videos(run: RunFolder) -> list[tuple[int, Path]]:
    """Return step and path of every video; links are left out, since they may lead to private files."""
    named = [(VIDEO.fullmatch(path.name), path) for path in run.videos.glob("*.mp4") if not path.is_symlink()]
    return sorted((int(match[1]), path) for match, path in named if match)


def _began(run: RunFolder) -> float:
    try:
        return datetime.datetime.fromisoformat(run.info["created"]).timestamp()
    except (KeyError, TypeError, ValueError):
        return 0.0


def _state(path: Path, data: bytes) -> dict[str, Any]:
    """Return what W&B has, or a new W&B run where that is unknown or no longer the start of metrics.jsonl."""
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        seen = data[: state["bytes"]]
        same = len(seen) == state["bytes"] and hashlib.sha256(seen).hexdigest() == state["sha256"]
        if same and RUN_ID.fullmatch(state["id"]) and isinstance(state["films"], list):
            return state
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass  # a new W&B run repeats nothing in the old one
    return {"id": secrets.token_hex(4), "bytes": 0, "films": []}


@contextlib.contextmanager
def _one_line_errors(tracker: str) -> Iterator[None]:
    """Turn whatever a tracker's library raises into one line."""
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"{tracker}: {first_line(error)}") from error
