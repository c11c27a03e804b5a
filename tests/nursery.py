"""Runs `dreamer` in forks of one process that has imported everything, with faults injected into them.

An order has the words for `dreamer`, a file for what it prints, its folder and environment, and injections: a function
by its path, the number of the call before which something happens ("after" before the path: after which), what happens
(one of `ACTIONS`), and its arguments. The faults are real: a disk is filled, a parameter is overwritten, a signal is
sent.

One such process serves all tests of a worker, since importing takes longer than most runs.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Ended:
    """What became of a child."""

    code: int
    """Exit status, or minus the signal."""
    output: str
    """Standard output."""
    errors: str
    """Standard error."""


def fill(_: Any, folder: str) -> None:
    """Fill the disk of a folder to the last byte."""
    with open(Path(folder) / "filler", "ab", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


def poison_weight(agent: Any) -> None:
    """Make a number of the actor NaN, as a broken memory cell would."""
    import torch

    with torch.no_grad():
        next(agent.actor_critic.actor.parameters()).view(-1)[0] = float("nan")


def poison_rows(replay: Any, first: int, last: int) -> None:
    """Make the rewards of some rows of every environment NaN."""
    replay.ring.rows["reward"][first:last] = float("nan")


def kill(_: Any, number: int) -> None:
    """Send this process a signal."""
    os.kill(os.getpid(), number)


def pause(_: Any, seconds: float) -> None:
    """Let others go first."""
    time.sleep(seconds)


def kill_worker(collector: Any) -> None:
    """Kill the process of the first environment."""
    os.kill(collector.vector.processes[0].pid, signal.SIGKILL)


def destroy_context(env: Any) -> None:
    """Destroy the OpenGL context of a task of the control suite, as a driver would: nobody is told."""
    from dm_control._render.pyopengl import egl_renderer as renderer

    renderer.EGL.eglDestroyContext(renderer.EGL_DISPLAY, env._physics.contexts.gl._context)


def release_context(_: Any) -> None:
    """Leave this thread without a current OpenGL context, as another library that draws may."""
    from dm_control._render.pyopengl import egl_renderer as renderer

    none = renderer.EGL.EGL_NO_SURFACE, renderer.EGL.EGL_NO_SURFACE, renderer.EGL.EGL_NO_CONTEXT
    renderer.EGL.eglMakeCurrent(renderer.EGL_DISPLAY, *none)


def terminate_display(_: Any) -> None:
    """End the connection to what draws, with all contexts of this process."""
    from dm_control._render.pyopengl import egl_renderer as renderer

    renderer.EGL.eglTerminate(renderer.EGL_DISPLAY)


def shell(_: Any, command: str) -> None:
    """Run a shell command."""
    subprocess.run(command, shell=True, check=True)


def set_streams(_: Any, *states: str) -> None:
    """Put standard input, output and error into states: as they are, closed, on a full disk, or read by nobody."""
    for number, (name, state) in enumerate(zip(("stdin", "stdout", "stderr"), states, strict=True)):
        stream = getattr(sys, name)
        if state == "closed":
            os.close(number)
            stream = None
        elif state != "open":
            reader, writer = os.pipe()
            os.close(reader)
            os.dup2(os.open("/dev/full", os.O_WRONLY) if state == "full" else writer, number)
            stream = os.fdopen(number, "w", encoding="ascii", closefd=False)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


ACTIONS = {
    "folder": lambda _, path: os.chdir(path),
    "shell": shell,
    "streams": set_streams,
    "fill": fill,
    "poison weight": poison_weight,
    "poison rows": poison_rows,
    "signal": kill,
    "pause": pause,
    "kill worker": kill_worker,
    "destroy context": destroy_context,
    "release context": release_context,
    "terminate display": terminate_display,
}


def resolve(path: str) -> tuple[Any, str]:
    """The owner of a function `module:names`, and its name there."""
    module, _, names = path.partition(":")
    *owners, name = names.split(".")
    owner: Any = importlib.import_module(module)
    for part in owners:
        owner = getattr(owner, part)
    return owner, name


def inject(path: str, call: int, action: str, *arguments: Any, every: bool = False) -> None:
    """Do `action` before (or after) the given call of a function, and of all later ones if `every`."""
    owner, name = resolve(path.removeprefix("after "))
    original, calls = getattr(owner, name), 0

    def injected(*given: Any, **keywords: Any) -> Any:
        nonlocal calls
        calls += 1
        due = calls == call or (every and calls > call)
        if due and not path.startswith("after "):
            ACTIONS[action](given[0] if given else None, *arguments)
        result = original(*given, **keywords)
        if due and path.startswith("after "):
            ACTIONS[action](given[0] if given else None, *arguments)
        return result

    ours = [module for name, module in sys.modules.items() if name.partition(".")[0] in ("dreamer", "envs")]
    for space in (owner, *ours):  # others may have imported a function by its name
        for found in [found for found, value in vars(space).items() if value is original]:
            setattr(space, found, injected)
    setattr(owner, name, injected)


@functools.cache
def server() -> subprocess.Popen[str]:
    """The process that has imported everything; it ends when this process closes its input."""
    command = [sys.executable, str(Path(__file__).resolve())]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)


def run_children(*orders: tuple[list[str], list[list[Any]]], folder: Path, cwd: Path = ROOT) -> list[Ended]:
    """Run `dreamer` for each pair of words and injections, one after the other; what they print is kept in `folder`."""
    outputs = [str(folder / f"child{i}") for i in range(len(orders))]
    return [run_child(*order, output=output, cwd=cwd) for order, output in zip(orders, outputs, strict=True)]


def run_child(words: list[str], injections: list[list[Any]], output: str, cwd: Path = ROOT) -> Ended:
    """Run `dreamer` once, with the present environment variables; what it prints goes to OUTPUT.out and OUTPUT.err."""
    process = server()
    assert process.stdin is not None and process.stdout is not None
    print(json.dumps([words, injections, output, str(cwd), dict(os.environ)]), file=process.stdin, flush=True)
    code = int(process.stdout.readline())
    return Ended(code, Path(output + ".out").read_text(), Path(output + ".err").read_text())


def run(*words: str | Path, cwd: Path = ROOT) -> Ended:
    """Run `dreamer` as a user does, without the seconds that a new interpreter takes to import PyTorch."""
    with tempfile.TemporaryDirectory() as folder:
        return run_child([str(word) for word in words], [], f"{folder}/child", cwd)


def warm_up() -> None:
    """Import what runs import one by one, so that forks of this process need not."""
    for name in ("train", "evaluate", "imagine"):
        importlib.import_module(f"dreamer.cli.{name}")
    for name in ("dreamer.cli.main", "dreamer.training.launch", "dreamer.tracking.plotting", "matplotlib.figure"):
        importlib.import_module(name)
    importlib.import_module("matplotlib.backends.backend_agg")
    importlib.import_module("torch").set_num_threads(1)


def main() -> None:
    """Read orders, print exit codes."""
    warm_up()
    import dreamer.cli.main

    for line in sys.stdin:
        words, injections, output, cwd, environment = json.loads(line)
        child = os.fork()
        if child == 0:
            code = 99
            try:
                os.environ.clear()
                os.environ.update(environment)
                os.chdir(cwd)
                os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
                for stream, suffix in ((1, ".out"), (2, ".err")):
                    os.dup2(os.open(output + suffix, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
                for path, call, action, *arguments in injections:
                    inject(path, abs(call), action, *arguments, every=call < 0)
                code = dreamer.cli.main.main(words)
                sys.stdout.flush()
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                os._exit(code)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
