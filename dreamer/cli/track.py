"""`dreamer track`: sends the metrics and videos of a run to W&B or TensorBoard afterwards, each record once."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import os
import secrets
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from pydantic import StringConstraints
from typing_extensions import TypedDict

from dreamer.cli.parsing import parse
from dreamer.config import group_name, used_tree
from dreamer.errors import UserError, first_line
from dreamer.runs.folder import RunFolder, locked, open_run
from dreamer.runs.trust import check_destination
from dreamer.system.files import Counter, Text, read_bytes, read_json, write_atomically
from dreamer.system.redaction import show, warn
from dreamer.tracking import View, read
from dreamer.tracking.jsonl import COUNTERS, LIMIT, records_in
from dreamer.tracking.tensorboard import TensorBoardView
from dreamer.tracking.video import evaluation_videos
from dreamer.tracking.wandb import WandbView
from dreamer.tracking.wandb_session import RUN_ID
from envs.errors import one_line

STATE = "wandb_track.json"
"""File of what W&B has: run id, length and SHA-256 of that part of metrics.jsonl, and names of the videos."""
UPLOAD_SECONDS = 3600.0
"""Longest wait for W&B; here, unlike in training, there is nothing else to do."""


class Tracked(TypedDict):
    """Content of `STATE`."""

    id: Annotated[str, StringConstraints(pattern=f"^{RUN_ID.pattern}$")]
    bytes: Counter
    sha256: Text
    films: list[Text]


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
    with locked(folder.path):
        if args.tensorboard:
            lines.append(_to_tensorboard(folder))
        if args.wandb:
            lines.append(_to_wandb(folder, args))
    return lines


def _to_tensorboard(run: RunFolder) -> str:
    """Write events to a temporary folder; when they are complete, they replace the old ones."""
    records, videos = read(run.metrics), evaluation_videos(run.path)
    folder, aside = run.path / "tensorboard", run.path / "tensorboard.new"
    with one_line("TensorBoard"):
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
    data, videos = read_bytes(run.metrics, LIMIT), evaluation_videos(run.path)
    data = data[: data.rfind(b"\n") + 1]
    state = _state(run.path / STATE, data)
    records = records_in(data, run.metrics)
    new = records[data[: state["bytes"]].count(b"\n") :]
    unseen = [video for video in videos if video[1].name not in state["films"]]
    if not new and not unseen:
        return f"W&B run {state['id']}: nothing new, it has all {len(records)} records; videos: {len(videos)}"
    with one_line("W&B"):
        (run.path / STATE).unlink(missing_ok=True)
        group = group_name(run.config, run.info.get("start_from"))
        view = WandbView(tracking, run.path, run.info, used_tree(run.config), run_id=state["id"], group=group)
        view.start()
        if not view.notice:
            raise UserError("W&B is disabled here (WANDB_MODE)")
        _show(view, new, unseen)
        view.summary({name: value for record in new for name, value in record.items() if name.startswith("eval/")})
        view.close("finished")
        names = [path.name for _, path in videos]
        shown: Tracked = {"id": view.id, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "films": names}
        write_atomically(run.path / STATE, json.dumps(shown).encode())
    return f"W&B run {view.id}: {len(new)} new records, videos: {len(unseen)}; {view.notice}"


def _show(view: View, records: Sequence[dict[str, Any]], videos: Sequence[tuple[int, Path]]) -> None:
    """Log records and videos in the order of their steps."""
    waiting = list(videos)
    for record in records:
        while waiting and waiting[0][0] < record["step"]:
            _show_video(view, *waiting.pop(0))
        view.log(record["step"], {name: value for name, value in record.items() if name not in COUNTERS})
    for step, path in waiting:
        _show_video(view, step, path)


def _show_video(view: View, step: int, path: Path) -> None:
    """Show a video, or print a line about one that cannot be read."""
    try:
        view.video(step, "eval/film", path)
    except Exception as error:
        warn(f"dreamer: left out: {path}: {first_line(error)}")


def _began(run: RunFolder) -> float:
    try:
        return datetime.datetime.fromisoformat(run.info["created"]).timestamp()
    except (KeyError, ValueError, OverflowError):
        return 0.0


def _state(path: Path, data: bytes) -> Tracked:
    """Return what W&B has, or a new W&B run where that is unknown or no longer the start of metrics.jsonl."""
    new: Tracked = {"id": secrets.token_hex(4), "bytes": 0, "sha256": "", "films": []}
    if not path.is_file():
        return new
    try:
        state = read_json(path, Tracked)
    except UserError as error:
        warn(f"dreamer: left out, so that a new W&B run begins: {error}")
        return new
    same = state["bytes"] <= len(data) and hashlib.sha256(data[: state["bytes"]]).hexdigest() == state["sha256"]
    return state if same else new
