"""Environments in processes, several to each; where one dies or hangs, the others go back to where they were."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import CloudpickleWrapper, batch_space

from envs.errors import UserError
from envs.guarded import Restored
from envs.safe_path import VARIABLE, restore_path, safe_path
from envs.wrappers import Step

START_SECONDS = 120.0
"""Longest wait for the first answer of an environment whose process replaces another one: it is built for it."""

MakeEnv = Callable[[], gymnasium.Env]
Call = tuple[str, tuple[Any, ...], dict[str, Any]]
"""Name of an environment's method or attribute, and the arguments of a method."""


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class WorkerError(RuntimeError):
    """An environment in another process could not be made or called; all of them are closed."""


class _Lost(Exception):
    """A process is dead or silent; says how."""


@dataclass
class _Moment:
    """Where an environment is."""

    episode: int
    """Number of its episode."""
    actions: list[Any]
    """Actions taken since its reset."""
    shown: Restored
    """What it answered last."""

    @property
    def ended(self) -> bool:
        """Whether its episode is over."""
        return bool(self.shown[2] or self.shown[3])


class ParallelEnvs(VectorEnv):
    """Environments dealt over `processes` processes, stepped one after another in each, with NEXT_STEP autoreset.

    `env_fns` make `envs.guarded.Guarded` environments, `context` is the multiprocessing start method, `timeout` the
    longest wait for a step in seconds (0 waits for ever). Where a process dies or gives no answer in that time, the
    environment whose turn it was has failed, which is told as `Guarded` tells it. A new process takes the place of the
    old one, and the other environments in it repeat their open episodes; one that does not come back to what it showed
    last has failed, too.
    Raises UserError as an environment raised it, and WorkerError with the traceback when one cannot be made.
    """

    def __init__(self, env_fns: Sequence[MakeEnv], context: str, processes: int, timeout: float = 0.0) -> None:
        self.num_envs = len(env_fns)
        self._moments: list[_Moment | None] = [None] * self.num_envs
        self._failures = ["it was never reset"] * self.num_envs
        self._busy, self._timeout = False, 0.0  # building may take its time
        self._indices: tuple[int, ...] = ()
        dealt = [range(first, self.num_envs, processes) for first in range(processes)]
        self._workers = [_Worker({place: env_fns[place] for place in places}, context) for places in dealt]
        self.single_observation_space, self.single_action_space = self._common_spaces()
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.metadata = {**self.get_attr("metadata")[0], "autoreset_mode": AutoresetMode.NEXT_STEP}
        self.render_mode = self.get_attr("render_mode")[0]
        self._indices, self._timeout = self.get_attr("index"), timeout

    @property
    def processes(self) -> list[Any]:
        """The processes that hold the environments."""
        return [worker.process for worker in self._workers]

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Start the next episode of every environment; they seed themselves, so `seed` and `options` must be None."""
        if seed is not None or options is not None:
            raise ValueError("prepared environments seed themselves and take no options")
        observations, infos = zip(*self.call("reset"), strict=True)
        return self._stacked(observations), self._merged(infos)

    def step(self, actions: Any) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Step every environment, or begin its next episode where one has ended; answers are the caller's to keep."""
        calls = [self._next(place, action) for place, action in enumerate(np.array(actions))]
        rows = [self._row(place, answer) for place, answer in enumerate(self._ask(calls))]
        observations, rewards, terminated, truncated, infos = zip(*rows, strict=True)
        flags = np.array(terminated, bool), np.array(truncated, bool)
        return self._stacked(observations), np.array(rewards, np.float64), *flags, self._merged(infos)

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """What a method (or an attribute) of every environment gives."""
        return tuple(self._ask([(name, args, kwargs)] * self.num_envs))

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """An attribute of every environment."""
        return self.call(name)

    def close_extras(self, **kwargs: Any) -> None:
        """Close the environments, by force when a call was interrupted: some answers may never come any more."""
        for worker in self._workers:
            if not self._busy:
                worker.send(None)
        for worker in self._workers:
            worker.end(0.0 if self._busy else self._timeout or None)

    # Calls

    def _ask(self, calls: Sequence[Call | None]) -> list[Any]:
        """What every environment answers to its call, None where there is no call."""
        if self._busy:
            raise RuntimeError("an earlier call was interrupted, so that answers are missing; close the environments")
        self._busy = True
        answers: dict[int, Any] = {}
        asked = {place: call for place, call in enumerate(calls) if call is not None}
        shares = [{place: asked[place] for place in worker.places if place in asked} for worker in self._workers]
        try:
            for worker, share in zip(self._workers, shares, strict=True):
                worker.send(share)
            for worker, share in zip(self._workers, shares, strict=True):
                answers |= self._receive(worker, share)
        except (UserError, WorkerError):
            self.close()
            raise
        self._busy = False
        return [answers.get(place) for place in range(self.num_envs)]

    def _receive(self, worker: _Worker, calls: Mapping[int, Call]) -> dict[int, Any]:
        """Answers to the calls that a worker was sent; where it is lost, failures."""
        answers: dict[int, Any] = {}
        for place, call in calls.items():
            if place in answers:
                continue
            try:
                answers[place] = worker.receive(place, self._limit(place, call))
                self._note(place, call, answers[place])
            except _Lost as lost:
                if not self._indices:
                    raise WorkerError(str(lost)) from None
                failed = {place: str(lost), **self._bring_back(worker, without=place)}
                for other, failure in failed.items():
                    self._fail(other, failure)
                    answers[other] = self._failed(other, calls[other][0])
                worker.send({other: call for other, call in calls.items() if other not in answers})
        return answers

    def _bring_back(self, worker: _Worker, without: int) -> dict[int, str]:
        """Replace a process and put its environments back to their moments, except one; says which failed, and how."""
        self._moments[without] = None
        worker.replace()
        failed = {}
        for place in worker.places:
            moment = self._moments[place]
            if moment is None:
                continue
            plan: Call = ("restore", ({self._indices[place]: (moment.episode, moment.actions)},), {})
            worker.send({place: plan})
            try:
                if not _same(worker.receive(place, self._limit(place, plan)), moment.shown):
                    failed[place] = "it did not come back to where it was when its process was replaced"
            except _Lost as lost:
                return {**failed, place: str(lost), **self._bring_back(worker, without=place)}
        return failed

    def _limit(self, place: int, call: Call) -> float:
        """Seconds that an answer may take: those of a step for each step that it takes; 0 is no limit."""
        name, arguments, _ = call
        steps = 1 + len(arguments[0][self._indices[place]][1]) if name == "restore" else 1
        return self._timeout * steps

    # Moments

    def _note(self, place: int, call: Call, answer: Any) -> None:
        """Keep where an environment is after its answer to a call."""
        name, arguments, _ = call
        moment = self._moments[place]
        index = self._indices[place] if self._indices else None
        if name == "step" and moment is not None:
            *shown, info = answer
            moment.actions.append(arguments[0])
            moment.shown = tuple(shown)
            self._fail(place, info.get("failure", ""))
        elif name == "reset":
            obs, info = answer
            self._moments[place] = _Moment(moment.episode + 1 if moment else 0, [], (obs, 0.0, False, False))
            self._fail(place, info.get("failure", ""))
        elif name == "restore":
            episode, actions = arguments[0][index]
            self._moments[place] = _Moment(episode, list(actions), answer)
        elif name == "restart" and index in arguments[0]:
            obs, failure = answer
            self._moments[place] = _Moment(arguments[0][index], [], (obs, 0.0, False, False))
            self._fail(place, failure)

    def _fail(self, place: int, failure: str) -> None:
        """Keep that an environment has failed, if there is a failure: it has no moment to go back to."""
        if failure:
            self._moments[place], self._failures[place] = None, failure

    def _next(self, place: int, action: Any) -> Call | None:
        """The call that follows an action; none to an environment that has failed."""
        moment = self._moments[place]
        if moment is None:
            return None
        return ("reset", (), {}) if moment.ended else ("step", (action,), {})

    def _row(self, place: int, answer: Any) -> Step:
        """What `step` gives of an environment, from its answer to `_next`."""
        if answer is None:
            answer = self._failed(place, "step")
        return answer if len(answer) == 5 else (answer[0], 0.0, False, False, answer[1])

    def _failed(self, place: int, name: str) -> Any:
        """The answer of an environment that has failed to a call of this name."""
        failure = self._failures[place]
        spaces: Any = self.single_observation_space
        blank = {key: np.zeros(space.shape, space.dtype) for key, space in spaces.spaces.items()}
        answers: dict[str, Any] = {
            "step": (blank, 0.0, False, False, {"failure": failure}),
            "reset": (blank, {"failure": failure}),
            "restore": (blank, 0.0, False, False),
            "restart": (blank, failure),
        }
        return answers.get(name)

    # Answers as arrays

    def _common_spaces(self) -> tuple[Any, Any]:
        found = list(zip(self.get_attr("observation_space"), self.get_attr("action_space"), strict=True))
        if any(spaces != found[0] for spaces in found):
            self.close()
            raise UserError("the environments of a run must have the same spaces")
        return found[0]

    def _stacked(self, observations: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        spaces: Any = self.single_observation_space
        return {key: np.array([obs[key] for obs in observations], space.dtype) for key, space in spaces.spaces.items()}

    def _merged(self, infos: Iterable[dict[str, Any]]) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for place, info in enumerate(infos):
            merged = self._add_info(merged, info, place)
        return merged


def _same(answer: Restored, other: Restored) -> bool:
    return answer[1:] == other[1:] and all(np.array_equal(value, other[0][key]) for key, value in answer[0].items())


class _Worker:
    """A process that holds the environments of some places of a vector, and answers for them in turn."""

    def __init__(self, makers: Mapping[int, MakeEnv], context: str) -> None:
        self.places = list(makers)
        self._makers = {place: CloudpickleWrapper(make_env) for place, make_env in makers.items()}
        self._context: Any = multiprocessing.get_context(context)
        self._start()

    def replace(self) -> None:
        """End the process by force and start another one, which builds an environment when it is first called."""
        self.end(0.0)
        self._start()

    def end(self, seconds: float | None) -> None:
        """Wait for the end of the process (None: for ever), then end it by force."""
        self.process.join(seconds)
        self.process.kill()
        self.process.join()
        self._pipe.close()

    def send(self, calls: Mapping[int, Call] | None) -> None:
        """Send calls to some places, or None to ask the process to end."""
        with contextlib.suppress(ConnectionError):  # it is dead, which `receive` will find out
            self._pipe.send(calls)

    def receive(self, place: int, limit: float) -> Any:
        """The answer of the next place in turn; `limit` in seconds, 0 waits for ever.

        Raises _Lost when there is none, and what the environment raised.
        """
        if limit and place not in self._built:
            limit = max(limit, START_SECONDS)
        try:
            if not self._pipe.poll(limit or None):
                raise _Lost(f"the process of the environment gave no answer within {limit:g} seconds and was ended")
            answer, error = self._pipe.recv()
        except (EOFError, ConnectionError):
            self.process.join(5)
            raise _Lost(_how_it_died(self.process.exitcode)) from None
        if error is not None:
            kind, message = error
            raise kind(message)
        self._built.add(place)
        return answer

    def _start(self) -> None:
        self._pipe, theirs = self._context.Pipe()
        name = f"environments {', '.join(map(str, self.places))}"
        args = (self._makers, theirs, os.environ.get(VARIABLE))
        self.process = self._context.Process(target=_work, name=name, args=args, daemon=True)
        with safe_path():
            self.process.start()
        theirs.close()
        self._built: set[int] = set()


def _how_it_died(code: int | None) -> str:
    hints = {
        -signal.SIGKILL: "; it was killed, perhaps for want of memory",
        1: '; a script that starts environments must do so under `if __name__ == "__main__":`',
    }
    return f"the process of the environment died with exit code {code}{hints.get(code or 0, '')}"


def _work(makers: Mapping[int, MakeEnv], pipe: Connection, path_variable: str | None) -> None:
    """The life of a process: answer the calls to its environments in turn, until told to end or left alone."""
    restore_path(path_variable)
    # A signal to all processes of a terminal or a job reaches the parent alone, which decides what becomes of these.
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    built: dict[int, gymnasium.Env] = {}
    with contextlib.suppress(EOFError, ConnectionError):
        while (calls := pipe.recv()) is not None:
            for place, call in calls.items():
                _send(pipe, place, _answer(place, call, makers, built))
    for env in built.values():
        with contextlib.suppress(Exception):
            env.close()


def _answer(place: int, call: Call, makers: Mapping[int, MakeEnv], built: dict[int, gymnasium.Env]) -> tuple[Any, Any]:
    """What an environment answers, and what it raised: a class that the parent knows, and a message."""
    name, arguments, keywords = call
    try:
        if place not in built:
            built[place] = makers[place]()
        attribute = built[place].get_wrapper_attr(name)
        return (attribute(*arguments, **keywords) if callable(attribute) else attribute), None
    except UserError as error:
        return None, (UserError, str(error))
    except Exception as error:
        return None, (WorkerError, f"environment {place} failed with {error!r}\n{traceback.format_exc()}")


def _send(pipe: Connection, place: int, answer: tuple[Any, Any]) -> None:
    try:
        pipe.send(answer)
    except ConnectionError:
        raise
    except Exception as error:  # nothing was sent: an answer is pickled first
        pipe.send((None, (WorkerError, f"environment {place} answered what cannot be sent: {error!r}")))
