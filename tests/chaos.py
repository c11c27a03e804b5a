"""Kills a training run again and again, lets it go on each time, and compares it with one that was never killed.

`scripts/chaos` runs this. A child either dies at a random line of one of `PLACES`, or at a random time of its parent's
choosing; every child goes on with `dreamer train --resume`, as a person or a scheduler would.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from nursery import resolve, warm_up

PACKAGES = [Path(__file__).resolve().parent.parent / name for name in ("dreamer", "envs")]
PLACES = {
    "append": "dreamer.experience.ring:Ring.append",
    "wrap": "dreamer.experience.ring:Ring.append",
    "state write-back": "dreamer.experience.replay:Replay.write_states",
    "checkpoint write": "dreamer.runs.checkpoint:save",
    "commit": "dreamer.experience.replay:Replay.commit",
    "metrics write": "dreamer.tracking.jsonl:JsonlWriter.write",
    "saving": "dreamer.training.saver:Saver.save",
    "resuming": "dreamer.training.state:RunState.load_state_dict",
    "update": "dreamer.agent:Agent.update",
    "any time": "",
}
"""Where a child dies: at a random line of this function or of what it calls in this project."""
LINES = {"update": 400, "saving": 150, "resuming": 250, "commit": 40, "state write-back": 40}
"""Lines from which the one to die at is drawn; a call that has fewer ends the child as it returns."""
NEAR = 400
"""Steps before the end of the ring at which the next child is sent to die there."""
SETTINGS = {
    "task": "toy:copy",
    "steps": 3600,
    "env.num_envs": 4,
    "env.time_limit": 7,
    "replay.capacity": 1000,
    "loop.replay_ratio": 0.5,
    "loop.log_every": 80,
    "loop.eval_every": 800,
    "loop.checkpoint_every": 80,
}
"""900 rows of each of four environments, whose ring has 298 places, so that it is overwritten twice."""


@dataclass(frozen=True)
class Death:
    """How one child ended."""

    place: str
    """One of `PLACES`."""
    where: str
    """File, line and position when it died, as far as it could tell."""
    step: int
    """Step of the checkpoint from which the next child goes on; -1 when there was none."""


# In the child


def at_the_wrap(ring: Any, *_: Any) -> bool:
    """Whether an append is one of the two around the end of the ring."""
    return ring.head % ring.size in (0, ring.size - 1) and ring.head > 1


class Assassin:
    """Kills this process at a line of one call of a function."""

    def __init__(self, place: str, call: int, line: int, report: int):
        self.place, self.call, self.line, self.report = place, call, line, report
        self.calls = 0

    def hire(self) -> None:
        """Wait for the call."""
        owner, name = resolve(PLACES[self.place])
        original = getattr(owner, name)
        counted: Callable[..., bool] = at_the_wrap if self.place == "wrap" else lambda *_: True

        def watched(*arguments: Any, **keywords: Any) -> Any:
            self.calls += counted(*arguments)
            if self.calls != self.call or not counted(*arguments):
                return original(*arguments, **keywords)
            sys.settrace(self.trace)
            result = original(*arguments, **keywords)
            sys.settrace(None)
            self.strike("after the call")
            return result

        setattr(owner, name, watched)

    def trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        """Count lines of this project."""
        file = Path(frame.f_code.co_filename)
        if not any(file.is_relative_to(package) for package in PACKAGES):
            return None
        if event == "line":
            self.line -= 1
            if self.line < 0:
                self.strike(f"{file.name}:{frame.f_lineno}")
        return self.trace

    def strike(self, where: str) -> None:
        """The end."""
        os.write(self.report, f"{where}, call {self.call}".encode())
        os.kill(os.getpid(), signal.SIGKILL)


# In the parent


def fork(words: list[str], log: Path, plan: tuple[str, int, int] | None, seconds: float | None) -> tuple[int, str]:
    """Run `dreamer` in a child and end it as planned; returns its exit code (negative: the signal) and its report."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 99
        try:
            import torch

            from dreamer.cli.main import main

            torch.set_num_threads(1)
            for stream in (1, 2):
                os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
            if plan is not None:
                Assassin(*plan, writer).hire()
            code = main(words)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(code)
    os.close(writer)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    with open(reader) as answer:
        text = answer.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text


def words_for(folder: Path, settings: dict[str, Any]) -> list[str]:
    """The command that begins a run, or goes on with it."""
    from running import tiny_flags

    if (folder / "run.json").exists():
        return ["train", "--resume", str(folder)]
    return ["train", *tiny_flags(**settings), "--run-dir", str(folder)]


def newest_step(folder: Path) -> int:
    """Step of the newest checkpoint, -1 without one."""
    return max((int(path.stem.split("_")[1]) for path in (folder / "checkpoints").glob("*.ckpt")), default=-1)


def torment(folder: Path, settings: dict[str, Any], kills: int, seconds: float, seed: int) -> list[Death]:
    """Train in `folder`, killed `kills` times; `seconds` is what a whole run takes."""
    draw, deaths, log = random.Random(seed), list[Death](), folder.with_suffix(".log")
    others = [place for place in PLACES if place != "wrap"]
    places = [others[i % len(others)] for i in range(kills)]
    wraps = [lap * ring(settings) * settings["env.num_envs"] for lap in range(1, 10)]
    draw.shuffle(places)
    if places[0] == "resuming":  # the first child has nothing to resume
        places = [*places[1:], places[0]]
    for left, place in zip(range(kills, 0, -1), places, strict=True):
        step = max(newest_step(folder), 0)
        share = 1.8 * (1 - step / settings["steps"]) / (left + 1)
        if step < wraps[0] <= step + NEAR:
            place = "wrap"
            wraps.pop(0)
        plan, wait = None, None
        if place == "any time":
            wait = draw.uniform(0, share * seconds)
        else:
            last = 2 if place == "wrap" else int(share * calls(place, settings))
            plan = place, draw.randint(1, max(1, last)), draw.randrange(LINES.get(place, 20))
        code, where = fork(words_for(folder, settings), log, plan, wait)
        if code == 0:
            raise RuntimeError(f"the run ended before it could be killed ({place}); see {log}")
        if code != -signal.SIGKILL:
            raise RuntimeError(f"a child ended with {code} instead of being killed ({place}); see {log}")
        deaths.append(Death(place, where or f"after {wait:.2f} s", newest_step(folder)))
    code, _ = fork(words_for(folder, settings), log, None, None)
    if code != 0:
        raise RuntimeError(f"the last child ended with {code}; see {log}")
    return deaths


def calls(place: str, settings: dict[str, Any]) -> float:
    """About how often a whole run comes to a place, a little less so that a child does not end before."""
    rows = settings["steps"] / settings["env.num_envs"]
    updates = settings["steps"] * settings["loop.replay_ratio"] / 8
    checkpoints = settings["steps"] / settings["loop.checkpoint_every"]
    often = {
        "append": rows,
        "state write-back": updates,
        "update": updates,
        "metrics write": settings["steps"] / settings["loop.log_every"],
        "resuming": 1,
    }
    return 0.9 * often.get(place, checkpoints)


def ring(settings: dict[str, Any]) -> int:
    """Places of the ring."""
    from running import tiny_config

    from dreamer.experience.replay import ring_size
    from dreamer.runs.forecast import rows_between_checkpoints

    config = tiny_config(**settings)
    slack, kept = rows_between_checkpoints(config), config.loop.keep_checkpoints
    return ring_size(config.replay, config.env.num_envs, config.loop.batch_length, slack, kept)


def pixels() -> dict[str, Any]:
    """The settings of a run that learns from frames; raises `UserError` where nothing draws."""
    from running import PIXELS

    from envs.rendering import require_backend

    require_backend()
    return PIXELS


def compare(folder: Path, twin: Path) -> None:
    """Raise AssertionError unless both runs have the same metrics, weights and replay.

    Looked at in a fork, like all that runs here: to look starts a server of processes and loads what draws, and a child
    that inherited either could use neither.
    """
    from running import assert_same_run, forked

    code, _ = forked(lambda: str(assert_same_run(folder, twin)))
    if code != 0:
        raise AssertionError(f"{folder} and {twin} differ")


def chaos(
    folder: Path, cores: list[str], modes: list[str], kills: int, changes: dict[str, Any], seed: int
) -> list[dict[str, Any]]:
    """For every core and mode of environments: a run killed `kills` times against one that was never killed."""
    warm_up()
    results: list[dict[str, Any]] = []
    for core in cores:
        settings = SETTINGS | {"agent.dynamics.core": core} | changes
        twin = folder / f"{core}-twin"
        began = time.monotonic()
        code, _ = fork(words_for(twin, settings), twin.with_suffix(".log"), None, None)
        if code != 0:
            raise RuntimeError(f"the run that is not killed ended with {code}; see {twin.with_suffix('.log')}")
        seconds = time.monotonic() - began
        for mode in modes:
            run = folder / f"{core}-{mode}"
            own = settings | ({"env.parallel": "on"} if mode == "async" else {})
            began = time.monotonic()
            deaths = torment(run, own, kills, seconds, seed + len(results))
            compare(run, twin)
            taken = time.monotonic() - began
            results.append({"core": core, "environments": mode, "deaths": [vars(death) for death in deaths]})
            killed = f"killed {kills} times in {taken:.0f} s"
            print(f"{core}, {mode} environments: {killed}, then bit-identical to the reference run")
            for death in deaths:
                print(f"    {death.place:<17} {death.where:<34} next child goes on from step {death.step}", flush=True)
    return results


def main() -> None:
    """The command line of `scripts/chaos`."""
    parser = argparse.ArgumentParser(prog="scripts/chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="times that each run is killed (default 20)")
    parser.add_argument("--steps", type=int, default=SETTINGS["steps"], help="environment steps of a run")
    parser.add_argument("--cores", default="rssm,mdn_rnn", help="dynamics cores (default rssm,mdn_rnn)")
    parser.add_argument("--environments", default="sync,async", help="sync, async or both (default)")
    parser.add_argument("--pixels", action="store_true", help="learn from frames of the control suite")
    parser.add_argument("--seed", type=int, default=0, help="of the moments to die at")
    parser.add_argument("--set", nargs="*", default=[], metavar="PATH=VALUE", help="settings of every run")
    parser.add_argument("--json", type=Path, help="write what happened here")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    cores, modes = args.cores.split(","), args.environments.split(",")
    changes = {"steps": args.steps} | (pixels() if args.pixels else {}) | dict(word.split("=", 1) for word in args.set)
    try:
        results = chaos(folder, cores, modes, args.kills, changes, args.seed)
    except Exception as error:
        print(f"scripts/chaos: {error}\neverything is kept in {folder}", file=sys.stderr)
        sys.exit(1)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
