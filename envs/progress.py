"""Stream positions of environments in other processes, so that they can be restored when a process is replaced."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from envs.interface import Arrival, Observation
from envs.worker import Call


@dataclass
class _Position:
    """Position of an environment in its stream."""

    episode: int
    """Number of the episode."""
    actions: list[Any]
    """Actions since the reset."""
    arrival: Arrival
    """Result of the last step or reset."""

    @property
    def ended(self) -> bool:
        """True if the episode is over."""
        return bool(self.arrival[2] or self.arrival[3])


class Progress:
    """Position and last failure of each environment of a vector, by place, from its calls and their answers.

    An environment that has failed has no position, and is called no more until it is restarted or restored.
    """

    def __init__(self, num_envs: int) -> None:
        self.indices: tuple[int, ...] = ()
        """Index of the environment at each place, empty until all are built."""
        self._positions: list[_Position | None] = [None] * num_envs
        self._failures = ["it was never reset"] * num_envs

    def note(self, place: int, call: Call, answer: Any) -> None:
        """Take the answer to a call into account."""
        name, arguments, _ = call
        position = self._positions[place]
        index = self.indices[place] if self.indices else None
        if name == "step" and position is not None:
            *arrival, info = answer
            position.actions.append(arguments[0])
            position.arrival = tuple(arrival)
            self._note_failure(place, info.get("failure", ""))
        elif name == "reset":
            obs, info = answer
            episode = position.episode + 1 if position else 0
            self._positions[place] = _Position(episode, [], (obs, 0.0, False, False))
            self._note_failure(place, info.get("failure", ""))
        elif name == "restore":
            episode, actions = arguments[0][index]
            self._positions[place] = _Position(episode, list(actions), answer)
        elif name == "restart" and index in arguments[0]:
            obs, failure = answer
            self._positions[place] = _Position(arguments[0][index], [], (obs, 0.0, False, False))
            self._note_failure(place, failure)

    def fail(self, place: int, failure: str) -> None:
        """Take into account that an environment has failed: there is no position to restore."""
        self._positions[place], self._failures[place] = None, failure

    def forget(self, place: int) -> None:
        """Drop the position of an environment, so that it is not restored."""
        self._positions[place] = None

    def next_call(self, place: int, action: Any) -> Call | None:
        """Call that steps an environment or starts its next episode; None for one that has failed."""
        position = self._positions[place]
        if position is None:
            return None
        return ("reset", (), {}) if position.ended else ("step", (action,), {})

    def restore_call(self, place: int) -> Call | None:
        """Call that restores the position of an environment in a new process; None if it has none."""
        position = self._positions[place]
        if position is None:
            return None
        return "restore", ({self.indices[place]: (position.episode, position.actions)},), {}

    def steps_of(self, place: int, call: Call) -> int:
        """Steps that an environment takes to answer a call; a reset counts as one."""
        name, arguments, _ = call
        return 1 + len(arguments[0][self.indices[place]][1]) if name == "restore" else 1

    def is_at(self, place: int, arrival: Arrival) -> bool:
        """True if an environment returned at its position what it now returns."""
        position = self._positions[place]
        if position is None or arrival[1:] != position.arrival[1:]:
            return False
        return all(np.array_equal(value, position.arrival[0][key]) for key, value in arrival[0].items())

    def failed_answer(self, place: int, name: str, zeros: Observation) -> Any:
        """Answer to a call on behalf of an environment that has failed."""
        failure = self._failures[place]
        answers: dict[str, Any] = {
            "step": (zeros, 0.0, False, False, {"failure": failure}),
            "reset": (zeros, {"failure": failure}),
            "restore": (zeros, 0.0, False, False),
            "restart": (zeros, failure),
        }
        return answers.get(name)

    def _note_failure(self, place: int, failure: str) -> None:
        if failure:
            self.fail(place, failure)
