"""Environments in processes of their own, whose failures reach the caller as one exception."""

from __future__ import annotations

import signal
import traceback
from collections.abc import Callable, Iterable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.queues import Queue
from typing import Any

import gymnasium
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from gymnasium.vector.async_vector_env import AsyncState
from gymnasium.vector.utils import write_to_shared_memory

from envs.errors import UserError


class WorkerError(RuntimeError):
    """An environment in another process raised an exception, or its process died; all of them are closed."""


class ParallelEnvs(AsyncVectorEnv):
    """Gymnasium's AsyncVectorEnv with NEXT_STEP autoreset, which closes and explains itself when a worker fails.

    `context` is the multiprocessing start method. Raises UserError as an environment raised it, and WorkerError with
    the worker's traceback for everything else.
    """

    def __init__(self, env_fns: Sequence[Callable[[], gymnasium.Env]], context: str) -> None:
        worker: Any = _worker  # Gymnasium's annotation lists six of the eight arguments that it passes.
        try:
            super().__init__(env_fns, context=context, worker=worker, autoreset_mode=AutoresetMode.NEXT_STEP)
        except (EOFError, ConnectionError) as error:
            raise self._dead_worker() from error

    def reset_async(self, seed: Any = None, options: dict[str, Any] | None = None) -> None:
        self._explained(super().reset_async, seed, options)

    def reset_wait(self, timeout: float | None = None) -> Any:
        return self._explained(super().reset_wait, timeout)

    def step_async(self, actions: Any) -> None:
        self._explained(super().step_async, actions)

    def step_wait(self, timeout: float | None = None) -> Any:
        return self._explained(super().step_wait, timeout)

    def call_wait(self, timeout: float | None = None) -> Any:
        return self._explained(super().call_wait, timeout)

    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:
        """Close the environments, by force when a call was interrupted: some answers may never come any more."""
        interrupted = self._state != AsyncState.DEFAULT
        self._state = AsyncState.DEFAULT
        super().close_extras(timeout, terminate or interrupted)

    def _explained(self, method: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return method(*arguments)
        except (EOFError, ConnectionError) as error:
            raise self._dead_worker() from error

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
        hints = {
            -signal.SIGKILL: "it was killed, perhaps for want of memory",
            1: 'a script that starts environments must do so under `if __name__ == "__main__":`',
        }
        for name, code in codes.items():
            return WorkerError(
                f"the process of an environment, {name}, died with exit code {code}; {hints.get(code, '')}"
            )
        return WorkerError("the process of an environment closed its connection")


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

    def _reset(self, **arguments: Any) -> tuple[None, dict[str, Any]]:
        observation, info = self._env.reset(**arguments)
        write_to_shared_memory(self._env.observation_space, self._index, observation, self._observations)
        return None, info

    def _step(self, action: Any) -> tuple[None, float, bool, bool, dict[str, Any]]:
        if self._autoreset:
            self._autoreset = False
            _, info = self._reset()
            return None, 0.0, False, False, info
        observation, reward, terminated, truncated, info = self._env.step(action)
        write_to_shared_memory(self._env.observation_space, self._index, observation, self._observations)
        self._autoreset = terminated or truncated
        return None, float(reward), terminated, truncated, info


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
