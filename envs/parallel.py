"""Environments in processes of their own; one that dies or hangs is replaced, and the others are not disturbed."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import traceback
from collections.abc import Callable, Iterable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.queues import Queue
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from gymnasium.vector.async_vector_env import AsyncState
from gymnasium.vector.utils import CloudpickleWrapper, write_to_shared_memory

from envs.errors import UserError

START_SECONDS = 120.0
"""Longest wait for a process that replaces another one: it imports and builds its environment first."""


class WorkerError(RuntimeError):
    """An environment in another process could not be made; all of them are closed."""


class ParallelEnvs(AsyncVectorEnv):
    """Gymnasium's AsyncVectorEnv with NEXT_STEP autoreset, in which workers may die or hang.

    `env_fns` make `envs.guarded.Guarded` environments, `context` is the multiprocessing start method, `timeout` the
    longest wait for an answer in seconds (0 waits for ever). A worker that gives none is replaced, and the answer is a
    failure as `Guarded` tells it. Raises UserError as an environment raised it, and WorkerError with the worker's
    traceback when an environment cannot be made.
    """

    def __init__(self, env_fns: Sequence[Callable[[], gymnasium.Env]], context: str, timeout: float = 0.0) -> None:
        worker: Any = _worker  # Gymnasium's annotation lists six of the eight arguments that it passes.
        try:
            super().__init__(env_fns, context=context, worker=worker, autoreset_mode=AutoresetMode.NEXT_STEP)
        except (EOFError, ConnectionError) as error:
            raise self._dead_worker() from error
        self._timeout = timeout
        self.parent_pipes = [_Line(self, place) for place in range(self.num_envs)]  # type: ignore[misc]

    def replace(self, place: int) -> Connection:
        """End a worker by force and start another one; returns the connection to it."""
        self.processes[place].kill()
        self.processes[place].join()
        own_end, pipe = multiprocessing.get_context(self.context).Pipe()
        # The new one has no part in the shared memory, which only the others' constructor knew: it sends observations.
        arguments = (place, CloudpickleWrapper(self.env_fns[place]), pipe, own_end, None, self.error_queue)
        process: Any = multiprocessing.get_context(self.context).Process(  # type: ignore[attr-defined]
            target=_worker, name=self.processes[place].name, args=(*arguments, self.autoreset_mode), daemon=True
        )
        process.start()
        pipe.close()
        self.processes[place] = process
        return own_end

    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:
        """Close the environments, by force when a call was interrupted: some answers may never come any more."""
        interrupted = self._state != AsyncState.DEFAULT
        self._state = AsyncState.DEFAULT
        super().close_extras(timeout, terminate or interrupted)

    def _raise_if_errors(self, successes: Iterable[bool]) -> None:
        # The base class would print every failure and rebuild an exception whose signature it does not know.
        if not all(successes):
            kind, message = self.error_queue.get()
            self.close(terminate=True)
            raise kind(message)

    def _dead_worker(self) -> WorkerError:
        wait([process.sentinel for process in self.processes], timeout=5)
        codes = {process.name: process.exitcode for process in self.processes if process.exitcode is not None}
        self.close(terminate=True)
        for name, code in codes.items():
            return WorkerError(f"the process of an environment, {name}, {_how_it_died(code)}")
        return WorkerError("the process of an environment closed its connection")


def _how_it_died(code: int | None) -> str:
    hints = {
        -signal.SIGKILL: "; it was killed, perhaps for want of memory",
        1: '; a script that starts environments must do so under `if __name__ == "__main__":`',
    }
    return f"died with exit code {code}{hints.get(code or 0, '')}"


class _Line:
    """The connection to a worker, which answers for it and has it replaced when it is dead or silent."""

    def __init__(self, vector: ParallelEnvs, place: int) -> None:
        self._vector, self._place = vector, place
        self._pipe: Connection = vector.parent_pipes[place]
        self._command, self._detail, self._new = "", "", False
        self._calls = 1

    @property
    def closed(self) -> bool:
        return self._pipe.closed

    def close(self) -> None:
        self._pipe.close()

    def poll(self, timeout: float | None = 0.0) -> bool:
        return self._pipe.poll(timeout)

    def send(self, message: tuple[str, Any]) -> None:
        self._command, data = message
        self._detail = data[0] if self._command == "_call" else ""
        plans = data[1][0].values() if self._detail == "restore" else ()
        self._calls = 1 + max((len(actions) for _, actions in plans), default=0)  # each has the time that a step has
        with contextlib.suppress(ConnectionError):  # it is dead, which `recv` will find out
            self._pipe.send(message)

    def recv(self) -> tuple[Any, bool]:
        limit = self._vector._timeout * self._calls
        limit = max(limit, START_SECONDS) if limit and self._new else limit
        process = self._vector.processes[self._place]
        try:
            if self._pipe.poll(limit or None):
                result, success = self._pipe.recv()
                self._new = False
                return (self._with_observation(result), success) if success else (result, success)
            failure = f"the process of the environment gave no answer within {limit:g} seconds and was ended"
        except (EOFError, ConnectionError):
            process.join(5)
            failure = f"the process of the environment {_how_it_died(process.exitcode)}"
        if self._command == "close":
            process.kill()
            return None, True
        self._pipe.close()
        self._pipe, self._new = self._vector.replace(self._place), True
        return self._answer(failure), True

    def _with_observation(self, result: Any) -> Any:
        """The result of a step or reset, its observation put among those of the others when it is not there yet."""
        if self._command in ("step", "reset") and result[0] is not None:
            for key, value in result[0].items():
                self._vector.observations[key][self._place] = value
            return (None, *result[1:])
        return result

    def _answer(self, failure: str) -> Any:
        info = {"failure": failure}
        space: Any = self._vector.single_observation_space
        blank = {key: np.zeros(vector.shape, vector.dtype) for key, vector in space.spaces.items()}
        answers: dict[str, Any] = {
            "step": (None, 0.0, False, False, info),
            "reset": (None, info),
            "restore": (blank, 0.0, False, False),
            "restart": (blank, failure),
        }
        return answers.get(self._detail or self._command)


class _Environment:
    """One environment as its worker process keeps it: it answers the commands of AsyncVectorEnv."""

    def __init__(self, index: int, make_env: Callable[[], gymnasium.Env], observations: Any) -> None:
        self._index, self._observations = index, observations
        self._env = make_env()
        self._autoreset = False

    def answer(self, command: str, data: Any) -> Any:
        if command == "step":
            return self._step(data)
        if command == "reset":
            self._autoreset = False
            return self._reset(**data)
        if command == "_call":
            name, arguments, keywords = data
            attribute = self._env.get_wrapper_attr(name)
            return attribute(*arguments, **keywords) if callable(attribute) else attribute
        if command == "_setattr":
            return self._env.set_wrapper_attr(*data)
        if command == "_check_spaces":
            _, observation_space, action_space = data
            return observation_space == self._env.observation_space, action_space == self._env.action_space
        if command == "close":
            return self._env.close()
        raise ValueError(f"environment workers do not know the command '{command}'")

    def _reset(self, **arguments: Any) -> tuple[Any, dict[str, Any]]:
        observation, info = self._env.reset(**arguments)
        return self._shared(observation), info

    def _step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self._autoreset:
            self._autoreset = False
            observation, info = self._reset()
            return observation, 0.0, False, False, info
        observation, reward, terminated, truncated, info = self._env.step(action)
        self._autoreset = terminated or truncated
        return self._shared(observation), float(reward), terminated, truncated, info

    def _shared(self, observation: Any) -> Any:
        """None once the observation lies in the shared memory; itself where there is none."""
        if self._observations is None:
            return observation
        write_to_shared_memory(self._env.observation_space, self._index, observation, self._observations)
        return None


def _worker(
    index: int,
    make_env: Callable[[], gymnasium.Env],
    pipe: Connection,
    parent_pipe: Connection,
    observations: Any,
    errors: Queue,
    autoreset_mode: AutoresetMode,
    semaphore: None = None,
) -> None:
    """The life of a worker, with the signature AsyncVectorEnv asks for: answer until told to close or left alone."""
    # Ctrl-C reaches every process of a terminal, but what becomes of the workers is for the parent to decide.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent_pipe.close()
    command = ""
    try:
        environment = _Environment(index, make_env, observations)
        while command != "close":
            try:
                command, data = pipe.recv()
            except (EOFError, ConnectionError):
                return
            pipe.send((environment.answer(command, data), True))
    except Exception as error:
        known = isinstance(error, UserError)
        message = str(error) if known else f"environment {index} failed with {error!r}\n{traceback.format_exc()}"
        errors.put((UserError if known else WorkerError, message))
        pipe.send((None, False))
