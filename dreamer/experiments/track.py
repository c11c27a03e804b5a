"""`dreamer track`: shows a run in a tracker after the fact, from metrics.jsonl and the films, each record once."""

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

from dreamer.checkpoint import write_atomically
from dreamer.errors import UserError, first_line
from dreamer.run import RunFolder, open_run
from dreamer.tracking import View, read
from dreamer.tracking.tensorboard import TensorBoardView
from dreamer.tracking.wandb import WandbView
from dreamer.tracking.wandb_session import RUN_ID
from dreamer.trust import check_destination

STATE = "wandb_track.json"
"""What W&B has been given: run id, length and SHA-256 of that part of metrics.jsonl, and the films."""
FILM = re.compile(r"eval_(\d{1,18})\.mp4")
FILM_FPS = 25
UPLOAD_SECONDS = 3600.0
"""Longest wait for W&B: a run in training waits seconds, but here there is nothing else to do."""


@dataclass(frozen=True)
class TrackArguments:
    """Show a run in W&B or TensorBoard after the fact; what an earlier call has shown is not shown twice."""

    run: tyro.conf.Positional[Path]
    """Run folder."""
    wandb: bool = False
    """Log to W&B, as a W&B run of its own beside one that training may have made."""
    tensorboard: bool = False
    """Write RUN/tensorboard anew."""
    wandb_entity: str = ""
    """W&B user or team; empty is the run's own, where that is not somebody else's, or the default of the account."""
    wandb_project: str = ""
    """W&B project; empty is the run's own, where the folder is not alone in naming it."""


def track(args: TrackArguments) -> list[str]:
    """Do what the arguments ask for and say what was shown; raises `UserError` when a tracker cannot be written."""
    if not (args.wandb or args.tensorboard):
        raise UserError("name the tracker: --wandb, --tensorboard or both")
    run = open_run(args.run)
    lines = []
    with run.locked():
        if args.tensorboard:
            lines.append(_to_tensorboard(run))
        if args.wandb:
            lines.append(_to_wandb(run, args))
    return lines


def _to_tensorboard(run: RunFolder) -> str:
    """Events are written aside and take the place of the old ones when they are complete."""
    records, films = read(run.metrics), _films(run)
    folder, aside = run.path / "tensorboard", run.path / "tensorboard.new"
    with _told("TensorBoard"):
        if aside.exists():
            shutil.rmtree(aside)
        view = TensorBoardView(aside, began=_began(run))
        view.start()
        _show(view, records, films)
        view.close("finished")
        folder.mkdir(exist_ok=True)
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        for new in aside.iterdir():
            os.replace(new, folder / new.name)
        aside.rmdir()
    look = f"tensorboard --logdir {shlex.quote(str(folder))}"
    return f"TensorBoard: {len(records)} records, films: {len(films)}; look with: {look}"


def _to_wandb(run: RunFolder, args: TrackArguments) -> str:
    """A call that died while it logged leaves no state, so that the next one starts a W&B run of its own."""
    tracking = dataclasses.replace(run.config.tracking, wandb="auto", close_seconds=UPLOAD_SECONDS)
    given = {name: getattr(args, name) for name in ("wandb_entity", "wandb_project") if getattr(args, name)}
    tracking = dataclasses.replace(tracking, **given)
    named = [f"{name.replace('_', '-')}={value}" for name, value in given.items()]
    check_destination(tracking, named, run.path, "--")
    data, films = run.metrics.read_bytes() if run.metrics.is_file() else b"", _films(run)
    data = data[: data.rfind(b"\n") + 1]
    state = _state(run.path / STATE, data)
    records = read(run.metrics)
    new = records[data[: state["bytes"]].count(b"\n") : data.count(b"\n")]
    unseen = [film for film in films if film[1].name not in state["films"]]
    if not new and not unseen:
        return f"W&B run {state['id']}: nothing new, it has all {len(records)} records; films: {len(films)}"
    with _told("W&B"):
        (run.path / STATE).unlink(missing_ok=True)
        view = WandbView(tracking, run.path, run.info, dataclasses.asdict(run.config), run_id=state["id"])
        view.start()
        if not view.notice:
            raise UserError("W&B is disabled here (WANDB_MODE)")
        _show(view, new, unseen)
        view.summary({name: value for record in new for name, value in record.items() if name.startswith("eval/")})
        view.close("finished")
        names = [path.name for _, path in films]
        shown = {"id": state["id"], "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "films": names}
        write_atomically(run.path / STATE, json.dumps(shown).encode())
    return f"W&B run {state['id']}: {len(new)} new records, films: {len(unseen)}; {view.notice}"


def _show(view: View, records: Sequence[dict[str, Any]], films: Sequence[tuple[int, Path]]) -> None:
    """Records and films in the order of their steps."""
    waiting = list(films)
    for record in records:
        while waiting and waiting[0][0] < record["step"]:
            view.video(waiting[0][0], "eval/film", waiting.pop(0)[1], FILM_FPS)
        view.log(int(record["step"]), {name: value for name, value in record.items() if "/" in name})
    for step, path in waiting:
        view.video(step, "eval/film", path, FILM_FPS)


def _films(run: RunFolder) -> list[tuple[int, Path]]:
    """Step and path of every film; links are left out, since they may lead to what is nobody else's business."""
    named = [(FILM.fullmatch(path.name), path) for path in run.videos.glob("*.mp4") if not path.is_symlink()]
    return sorted((int(match[1]), path) for match, path in named if match)


def _began(run: RunFolder) -> float:
    try:
        return datetime.datetime.fromisoformat(run.info["created"]).timestamp()
    except (KeyError, TypeError, ValueError):
        return 0.0


def _state(path: Path, data: bytes) -> dict[str, Any]:
    """What W&B has been given, or a fresh start where that is unknown or no longer what metrics.jsonl begins with."""
    try:
        state = json.loads(path.read_text())
        seen = data[: state["bytes"]]
        same = len(seen) == state["bytes"] and hashlib.sha256(seen).hexdigest() == state["sha256"]
        if same and RUN_ID.fullmatch(state["id"]) and isinstance(state["films"], list):
            return state
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass  # a fresh W&B run repeats nothing in the old one
    return {"id": secrets.token_hex(4), "bytes": 0, "films": []}


@contextlib.contextmanager
def _told(tracker: str) -> Iterator[None]:
    """Whatever a tracker's library raises becomes one line."""
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"{tracker}: {first_line(error)}") from error
