"""A process that holds several environments of a vector and answers calls to them."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import traceback
from collections.abc import Mapping
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any

import gymnasium
from gymnasium.vector.utils import CloudpickleWrapper

from envs.errors import UserError
from envs.interface import BuildEnv
from envs.process import leave_signals_to_parent, open_streams, shielded
from envs.safe_path import VARIABLE, restore_path, safe_path

START_SECONDS = 120.0
"""Longest wait for the first answer of an environment in a new process, which has to build it."""
LOOKS = 20
"""Looks for an answer within its time limit. A suspension of this process counts as the time between two of them."""
SPARE = 10
"""File descriptors that a new process and its server need; with fewer, the server prints a traceback."""
UNGUARDED = os.EX_USAGE
"""Exit status of a process that has imported a script without a main guard."""
Call = tuple[str, tuple[Any, ...], dict[str, Any]]
"""Name of an environment's method or attribute, and the arguments of a method."""


class WorkerError(RuntimeError):
    """An environment in another process could not be built or called; all environments are closed."""


class ProcessLost(Exception):
    """A process died or does not answer; the message says which."""


class Worker:
    """A process with the environments of some places of a vector; it answers for them in turn."""

    def __init__(self, builders: Mapping[int, BuildEnv], context: str) -> None:
        self.places = list(builders)
        self._builders = {place: CloudpickleWrapper(build) for place, build in builders.items()}
        self._context: Any = multiprocessing.get_context(context)
        self._start()

    def replace(self) -> None:
        """Kill the process and start another, which builds each environment when it is first called."""
        self.end(0.0)
        self._start()

    def end(self, seconds: float | None) -> None:
        """Wait for the process to end (None: forever), then kill it."""
        self.process.join(seconds)
        self.process.kill()
        self.process.join()
        self._pipe.close()

    def send(self, calls: Mapping[int, Call] | None) -> None:
        """Send calls to some places, or None to ask the process to end."""
        with contextlib.suppress(ConnectionError):  # the process is dead, which `receive` will report
            self._pipe.send(calls)

    def receive(self, place: int, limit: float) -> Any:
        """Answer of the next place in turn, within `limit` seconds (0 waits forever).

        Raises ProcessLost where there is none, and the error that the environment raised.
        """
        if limit and place not in self._built:
            limit = max(limit, START_SECONDS)
        try:
            if not self._has_answered(limit):
                raise ProcessLost(
                    f"the process of the environment gave no answer within {limit:g} seconds and was terminated"
                )
            answer, error = self._pipe.recv()
        except (EOFError, ConnectionError):
            self.process.join(5)
            if self.process.exitcode == UNGUARDED:
                raise UserError(
                    'a script that starts environments in processes must do so under `if __name__ == "__main__":`, '
                    "since each process imports the script"
                ) from None
            raise ProcessLost(_cause_of_death(self.process.exitcode)) from None
        if error is not None:
            kind, message = error
            raise kind(message)
        self._built.add(place)
        return answer

    def _has_answered(self, limit: float) -> bool:
        """True once there is an answer; the time in which this process or the other one is suspended does not count."""
        if not limit:
            return self._pipe.poll(None)
        looks = LOOKS
        while looks:
            if self._pipe.poll(limit / LOOKS):
                return True
            looks -= not _is_suspended(self.process.pid)
        return False

    def _start(self) -> None:
        end_unguarded_import()
        name = f"environments {', '.join(map(str, self.places))}"
        try:
            for descriptor in [os.open(os.devnull, os.O_RDONLY) for _ in range(SPARE)]:
                os.close(descriptor)
            self._pipe, theirs = self._context.Pipe()
            args = (self._builders, theirs, os.environ.get(VARIABLE))
            self.process = self._context.Process(target=_work, name=name, args=args, daemon=True)
            with safe_path():
                with shielded():
                    resource_tracker.ensure_running()  # ends the shield of some signals
                with shielded():
                    self.process.start()
        except (EOFError, OSError) as error:  # a process that cannot start lets the other end see only its end
            reason = getattr(error, "strerror", None) or "it ended at once"
            raise UserError(f"cannot start a process for environments: {reason}; `ulimit -a` shows limits") from error
        theirs.close()
        self._built: set[int] = set()


def end_unguarded_import() -> None:
    """End this process if it is another one's child that is importing a script without a main guard."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        os._exit(UNGUARDED)


def _is_suspended(process: int | None) -> bool:
    """True for a process that a signal or a debugger has stopped (known on Linux)."""
    try:
        with open(f"/proc/{process}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in b"Tt"
    except OSError:
        return False


def _cause_of_death(code: int | None) -> str:
    hint = "; it was killed, perhaps for lack of memory" if code == -signal.SIGKILL else ""
    return f"the process of the environment died with exit code {code}{hint}"


def _work(builders: Mapping[int, BuildEnv], pipe: Connection[Any, Any], path_variable: str | None) -> None:
    """Main function of the process: answer calls in turn until asked to end, or until the parent is gone."""
    restore_path(path_variable)
    os.setsid()
    leave_signals_to_parent()
    open_streams()
    built: dict[int, gymnasium.Env] = {}
    with contextlib.suppress(EOFError, ConnectionError):
        while (calls := pipe.recv()) is not None:
            for place, call in calls.items():
                _send(pipe, place, _answer(place, call, builders, built))
    for env in built.values():
        with contextlib.suppress(Exception):
            env.close()


def _answer(
    place: int, call: Call, builders: Mapping[int, BuildEnv], built: dict[int, gymnasium.Env]
) -> tuple[Any, tuple[type[Exception], str] | None]:
    """Answer of an environment and None, or None and the error: a class that the parent knows, and a message."""
    name, arguments, keywords = call
    try:
        if place not in built:
            built[place] = builders[place]()
        attribute = built[place].get_wrapper_attr(name)
        return (attribute(*arguments, **keywords) if callable(attribute) else attribute), None
    except UserError as error:
        return None, (UserError, str(error))
    except Exception as error:
        return None, (WorkerError, f"environment {place} failed with {error!r}\n{traceback.format_exc()}")


def _send(pipe: Connection[Any, Any], place: int, answer: tuple[Any, Any]) -> None:
    try:
        pipe.send(answer)
    except ConnectionError:
        raise
    except Exception as error:  # nothing was sent: an answer is pickled first
        pipe.send((None, (WorkerError, f"environment {place} returned what cannot be pickled: {error!r}")))
