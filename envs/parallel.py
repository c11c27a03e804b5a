"""A vector of environments in several processes; where one dies or hangs, the others are restored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from envs.errors import UserError
from envs.interface import BuildEnv, Observation, StepResult
from envs.progress import Progress
from envs.worker import Call, ProcessLost, Worker, WorkerError


class ParallelEnvs(VectorEnv):
    """Environments distributed over `processes` processes, stepped in turn in each, with NEXT_STEP autoreset.

    `builders` build `envs.guarded.Guarded` environments, `context` is the multiprocessing start method, `timeout` the
    longest wait for a step in seconds (0 waits forever). Where a process dies or does not answer in that time, the
    environment whose turn it was has failed, which is reported as by `Guarded`. The process is replaced, and its other
    environments repeat their open episodes; one that then returns something else than before has failed, too.
    Raises UserError as an environment raised it, and WorkerError with the traceback where one cannot be built.
    """

    def __init__(self, builders: Sequence[BuildEnv], context: str, processes: int, timeout: float = 0.0) -> None:
        self.num_envs = len(builders)
        self._progress = Progress(self.num_envs)
        self._busy, self._timeout = False, 0.0  # building has no time limit
        shares = [range(first, self.num_envs, processes) for first in range(processes)]
        self._workers = [Worker({place: builders[place] for place in places}, context) for places in shares]
        self.single_observation_space, self.single_action_space = self._common_spaces()
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.metadata = {**self.get_attr("metadata")[0], "autoreset_mode": AutoresetMode.NEXT_STEP}
        self.render_mode = self.get_attr("render_mode")[0]
        self._progress.indices, self._timeout = self.get_attr("index"), timeout

    @property
    def processes(self) -> list[Any]:
        """The processes that hold the environments."""
        return [worker.process for worker in self._workers]

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Observation, dict[str, Any]]:
        """Start the next episode of every environment; they seed themselves, so `seed` and `options` must be None."""
        if seed is not None or options is not None:
            raise ValueError("prepared environments seed themselves and take no options")
        observations, infos = zip(*self.call("reset"), strict=True)
        return self._stacked(observations), self._merged(infos)

    def step(self, actions: Any) -> tuple[Observation, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Step every environment, or start its next episode where one has ended; results are copies."""
        calls = [self._progress.next_call(place, action) for place, action in enumerate(np.array(actions))]
        results = [self._step_result(place, answer) for place, answer in enumerate(self._ask(calls))]
        observations, rewards, terminated, truncated, infos = zip(*results, strict=True)
        flags = np.array(terminated, bool), np.array(truncated, bool)
        return self._stacked(observations), np.array(rewards, np.float64), *flags, self._merged(infos)

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Result of a method, or value of an attribute, of every environment."""
        return tuple(self._ask([(name, args, kwargs)] * self.num_envs))

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Attribute of every environment."""
        return self.call(name)

    def close_extras(self, **kwargs: Any) -> None:
        """Close the environments; after an interrupted call kill their processes, which may never answer."""
        for worker in self._workers:
            if not self._busy:
                worker.send(None)
        for worker in self._workers:
            worker.end(0.0 if self._busy else self._timeout or None)

    # Calls

    def _ask(self, calls: Sequence[Call | None]) -> list[Any]:
        """Answer of every environment to its call, None where there is no call."""
        if self._busy:
            raise RuntimeError("an earlier call was interrupted and answers are missing; close the environments")
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

    def _receive(self, worker: Worker, calls: Mapping[int, Call]) -> dict[int, Any]:
        """Answers to the calls that a worker was sent; failures where the worker is lost."""
        answers: dict[int, Any] = {}
        for place, call in calls.items():
            if place in answers:
                continue
            try:
                answers[place] = worker.receive(place, self._limit(place, call))
                self._progress.note(place, call, answers[place])
            except ProcessLost as lost:
                if not self._progress.indices:
                    raise WorkerError(str(lost)) from None
                failed = {place: str(lost), **self._replace(worker, without=place)}
                for other, failure in failed.items():
                    self._progress.fail(other, failure)
                    answers[other] = self._progress.failed_answer(other, calls[other][0], self._zeros())
                worker.send({other: call for other, call in calls.items() if other not in answers})
        return answers

    def _replace(self, worker: Worker, without: int) -> dict[int, str]:
        """Replace a process and restore its environments except one; returns failures by place."""
        self._progress.forget(without)
        worker.replace()
        failed = {}
        for place in worker.places:
            call = self._progress.restore_call(place)
            if call is None:
                continue
            worker.send({place: call})
            try:
                if not self._progress.is_at(place, worker.receive(place, self._limit(place, call))):
                    failed[place] = "it did not repeat its episode when its process was replaced"
            except ProcessLost as lost:
                return {**failed, place: str(lost), **self._replace(worker, without=place)}
        return failed

    def _limit(self, place: int, call: Call) -> float:
        """Seconds that an answer may take: the timeout for each of its steps; 0 is no limit."""
        return self._timeout * self._progress.steps_of(place, call)

    def _step_result(self, place: int, answer: Any) -> StepResult:
        """Result of a step, from the answer to the next call of an environment."""
        if answer is None:
            answer = self._progress.failed_answer(place, "step", self._zeros())
        obs, *rest = answer
        return answer if len(rest) == 4 else (obs, 0.0, False, False, rest[0])

    # Answers as arrays

    def _common_spaces(self) -> tuple[Any, Any]:
        found = list(zip(self.get_attr("observation_space"), self.get_attr("action_space"), strict=True))
        if any(spaces != found[0] for spaces in found):
            self.close()
            raise UserError("the environments of a run must have the same spaces")
        return found[0]

    def _zeros(self) -> Observation:
        spaces: Any = self.single_observation_space
        return {key: np.zeros(space.shape, space.dtype) for key, space in spaces.spaces.items()}

    def _stacked(self, observations: Sequence[Observation]) -> Observation:
        spaces: Any = self.single_observation_space
        return {key: np.array([obs[key] for obs in observations], space.dtype) for key, space in spaces.spaces.items()}

    def _merged(self, infos: Iterable[dict[str, Any]]) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for place, info in enumerate(infos):
            merged = self._add_info(merged, info, place)
        return merged
