"""Odd environments, one a line: what each is like, and what becomes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit

U8, F32, F64, I64 = np.uint8, np.float32, np.float64, np.int64
UNIT = spaces.Box(-1.0, 1.0, (1,), F32)
BYTES = spaces.Box(0, 255, (2,), U8)


class Odd(gymnasium.Env):
    """Always returns the same, apart from what a test asks for at the second step."""

    def __init__(self, space=UNIT, obs=None, action=UNIT, reward=1.0, ends=(False, False), step=None, reset=None):
        self.observation_space, self.action_space = space, action
        self._obs = np.zeros(1, F32) if obs is None else obs
        self._reward, self._ends, self._step, self._reset, self._count = reward, ends, step, reset, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._count = 0
        return (self._obs, {}) if self._reset is None else self._reset(self)

    def step(self, action):
        self._count += 1
        if self._step is not None and self._count == 2:
            return self._step(self)
        return self._obs, self._reward, *self._ends, {}


@dataclass(frozen=True)
class Case:
    """An odd environment, and its outcome: shapes by key, or words of the error or of the failure."""

    build: Callable[[], Any]
    """Constructor."""
    shapes: dict[str, tuple[int, ...]] | None = None
    """Shapes of the agent's observations, where it works."""
    first: Any = None
    """Values of the only observation, where they matter."""
    refused: str = ""
    """Words of the UserError, where it cannot be prepared."""
    fails: str = ""
    """Words of the failure of the first episode."""
    truncated: int = 0
    """Step at which an episode is truncated, where that matters."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings of the environment."""


def one(*shape: int) -> dict[str, tuple[int, ...]]:
    return {"observation": shape}


def odd(*args: Any, **kwargs: Any) -> Callable[[], Any]:
    return lambda: Odd(*args, **kwargs)


def fails(words: str, *args: Any, **kwargs: Any) -> Case:
    return Case(odd(*args, **kwargs), fails=words)


def refused(words: str, *args: Any, settings: dict[str, Any] | None = None, **kwargs: Any) -> Case:
    return Case(odd(*args, **kwargs), refused=words, settings=settings or {})


def works(shapes: dict[str, tuple[int, ...]], *args: Any, first: Any = None, **kwargs: Any) -> Case:
    settings = kwargs.pop("settings", {})
    return Case(odd(*args, **kwargs), shapes, first, settings=settings)


def raising(error: BaseException) -> Callable[..., Any]:
    def function(*_: Any) -> Any:
        raise error

    return function


def image(*shape: int, dtype: Any = U8, high: float = 255) -> tuple[spaces.Box, np.ndarray]:
    return spaces.Box(0, high, shape, dtype), np.full(shape, high, dtype)


def mission(**entries: spaces.Space[Any]) -> tuple[spaces.Dict, dict[str, Any]]:
    """A space with a text, as MiniGrid's, and an observation in it."""
    space = spaces.Dict({"mission": spaces.Text(30), **entries})
    return space, {key: "get the key" if key == "mission" else inner.sample() for key, inner in space.items()}


class Drawn(Odd):
    """Draws what it is told to."""

    render_mode = "rgb_array"
    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, frame, **kwargs):
        super().__init__(**kwargs)
        self._frame = frame

    def draw(self, height, width):
        return self._frame


class Own(Odd):
    """Has a limit of its own."""

    def __init__(self, limit):
        super().__init__()
        self.max_steps = limit


class NoSpaces(gymnasium.Env):
    """Has no spaces."""


class ListSpace(Odd):
    """Has a list for an action space."""

    def __init__(self):
        super().__init__(action=[0, 1])


SMALL = {"image_size": (16, 16)}
AS_IMAGE, AS_VECTOR = {"images": ("observation",)}, {"vectors": ("observation",)}
PIXELS = {"obs": "pixels", **SMALL}
BLACK = np.zeros((16, 16, 3), U8)
NESTED = spaces.Dict({"b": spaces.Dict({"c": spaces.Discrete(2), "a": UNIT}), "a": spaces.Box(0.0, 1.0, (), F32)})

CASES: dict[str, Case] = {
    # Observations that fit their space after a cast
    "float64 in float32": works(one(1), obs=np.zeros(1, F64), first=[0]),
    "a list": works(one(1), obs=[0.5], first=[0.5]),
    "a scalar": works(one(1), obs=0.5, first=[0.5]),
    "an axis more": works(one(1), obs=np.zeros((1, 1), F32), first=[0]),
    "integers in floats": works(one(1), obs=np.array([1]), first=[1]),
    "a boolean in floats": works(one(1), obs=[True], first=[1]),
    "int64 200 in uint8": works(one(2), BYTES, np.array([200, 7]), first=[200, 7]),
    "float 3.0 in uint8": works(one(2), BYTES, np.array([3.0, 0.0]), first=[3, 0]),
    "int64 in an image": works(one(16, 16, 1), *(image(20, 20)[0], np.full((20, 20), 9)), settings=SMALL),
    "a float choice": works(one(1, 3), spaces.Discrete(3), 2.0, first=[[0, 0, 1]]),
    "a choice as an array": works(one(1, 3), spaces.Discrete(3), np.array([1]), first=[[0, 1, 0]]),
    "beyond its bounds": works(one(1), obs=np.array([1.5], F32), first=[1.5]),
    "float16": works(one(1), spaces.Box(0, 1, (1,), np.float16), np.ones(1, np.float16), first=[1]),
    "big integers": works(one(1), spaces.Box(0, 2**40, (1,), I64), [2**30], first=[2**30]),
    # Observations that do not
    "float 0.9 in uint8": fails("has a value of dtype float32 that does not fit", BYTES, np.array([0.9, 0], F32)),
    "int64 300 in uint8": fails("observation has a value of dtype int64", BYTES, np.array([300, 0])),
    "-1 in uint8": fails("dtype int64", BYTES, np.array([-1, 0])),
    "NaN in uint8": fails("dtype float64", BYTES, np.array([np.nan, 0])),
    "float frames in an image": fails("dtype float64 that does not fit", image(16, 16)[0], np.full((16, 16), 0.5)),
    "a named float": fails("observation 'a/b' has a value of dtype float64 that does not fit its space Box(0, 255, (2",
                           spaces.Dict({"a": spaces.Dict({"b": BYTES})}), {"a": {"b": [0.5, 1]}}),
    "text": fails("dtype <U3", obs="abc"),
    "a function": fails("dtype object", obs=raising),
    "complex numbers": fails("dtype complex128", obs=[1j]),
    "a ragged list": fails("no array of its space", spaces.Box(0, 1, (2, 2), F32), [[1, 2], [3]]),
    "another length": fails("has shape (2,), but its space has (1,)", obs=np.zeros(2, F32)),
    "transposed": fails("has shape (3, 2), but its space has (2, 3)", spaces.Box(0, 1, (2, 3), F32), np.zeros((3, 2))),
    "an image of another size": fails("has shape (8, 8, 3), but", image(16, 16, 3)[0], np.zeros((8, 8, 3), U8)),
    "a dict for a Box": fails("dtype object", obs={"observation": 1}),
    "a Box for a dict": fails("the observation has no 'a'", spaces.Dict({"a": UNIT}), np.zeros(1, F32)),
    "a key missing": fails("the observation has no 'b'", spaces.Dict({"a": UNIT, "b": UNIT}), {"a": [0]}),
    "NaN": fails("has a value that is not finite", obs=[np.nan]),
    "infinite": fails("has a value that is not finite", obs=[np.inf]),
    "1e300": fails("not finite as float32", spaces.Box(-np.inf, np.inf, (1,), F64), [1e300]),
    "a choice too high": fails("a value outside of its space Discrete(3): 3", spaces.Discrete(3), 3),
    "a choice too low": fails("Discrete(3): -1", spaces.Discrete(3), -1),
    "a choice below its start": fails("Discrete(3, start=1): 0", spaces.Discrete(3, start=1), 0),
    "half a choice": fails("dtype float64", spaces.Discrete(3), 0.5),
    "a count too high": fails("(2,), int64): 9", spaces.Box(0, 3, (2,), I64), [0, 9]),
    # Kinds by bounds, and what overrules them
    "few values": works(one(2, 4), spaces.Box(0, 3, (2,), I64), [0, 3], first=[[1, 0, 0, 0], [0, 0, 0, 1]]),
    "few values apart from each other": works(
        one(2, 3), spaces.Box(np.array([5, -1]), np.array([6, 1]), dtype=I64), [6, -1], first=[[0, 1, 0], [1, 0, 0]]),
    "many values": works(one(1), spaces.Box(0, 1000, (1,), I64), [500], first=[500]),
    "booleans": works(one(2, 2), spaces.Box(0, 1, (2,), np.bool_), [True, False], first=[[0, 1], [1, 0]]),
    "a board": works(one(8 * 8 * 12, 2), *image(8, 8, 12, high=1)),
    "a grid of bytes of few values": works(one(3 * 3 * 3, 11), *image(3, 3, 3, high=10)),
    "a grid as a vector": works(one(27), *image(3, 3, 3, high=10), settings=AS_VECTOR),
    "bytes as a vector": works(one(48), *image(4, 4, 3), settings=AS_VECTOR),
    "a choice as a vector": works(one(3), spaces.Discrete(3), 1, first=[0, 1, 0], settings=AS_VECTOR),
    "by dtype": works(one(3), spaces.Discrete(3), 1, first=[0, 1, 0], settings={"encoding": "dtype"}),
    "a board by dtype": works(one(16, 16, 3), *image(3, 3, 3, high=1), settings={"encoding": "dtype", **SMALL}),
    "grey": works(one(16, 16, 1), *image(20, 30), settings=SMALL),
    "channels first": works(one(16, 16, 3), *image(3, 20, 30), settings=SMALL),
    "a stack of grey frames": works(one(16, 16, 4), *image(4, 20, 20), settings=SMALL),
    "a stack of frames": works(one(16, 16, 6), *image(2, 20, 20, 3), settings=SMALL),
    "a stack of frames, channels first": works(one(16, 16, 6), *image(2, 3, 20, 20), settings=SMALL),
    "float frames": works(one(20 * 20 * 3), *image(20, 20, 3, dtype=F32, high=1.0)),
    "float frames as an image": works(one(16, 16, 3), *image(20, 20, 3, dtype=F32, high=1.0),
                                      first=np.full((16, 16, 3), 255), settings={**AS_IMAGE, **SMALL}),
    "a board as an image": works(one(16, 16, 1), *image(8, 8, high=1), first=np.full((16, 16, 1), 255),
                                 settings={**AS_IMAGE, **SMALL}),
    "frames of NaN as an image": Case(odd(image(20, 20, dtype=F32, high=1.0)[0], np.full((20, 20), np.nan)),
                                      fails="the observation has a value outside of its", settings=AS_IMAGE),
    "float frames up to 255 in [0, 1]": Case(odd(image(20, 20, dtype=F32, high=1.0)[0], np.full((20, 20), 255.0)),
                                             fails="the observation has a value outside of its", settings=AS_IMAGE),
    "no image": refused("which is no image", settings=AS_IMAGE),
    "an image without bounds": refused("which is no image", spaces.Box(-np.inf, np.inf, (9, 9), F32),
                                       settings=AS_IMAGE),
    "a name that is none": refused("images: no observation 'observatoin'; did you mean observation?",
                                   settings={"images": ("observatoin",)}),
    "both kinds": refused("name it once", settings={**AS_IMAGE, **AS_VECTOR}),
    # Structure
    "nested": works({"a": (1,), "b/a": (1,), "b/c": (1, 2)}, NESTED, {"b": {"c": 1, "a": [0]}, "a": 0.0}),
    "one value": works(one(1, 1), spaces.Discrete(1), 0, first=[[1]]),
    "a mission": refused("'mission' has the space Text", *mission(a=UNIT)),
    "a mission is hidden": works({"a": (1,)}, *mission(a=UNIT), settings={"hide": ("mission",)}),
    "a mission alone": refused("has no values", *mission(), settings={"hide": ("mission",)}),
    "frames of a mission": Case(lambda: Drawn(BLACK, space=spaces.Tuple([spaces.Text(3)]), obs=("a",)),
                                {"image": (16, 16, 3)}, settings=PIXELS),
    "frames and a hidden mission": Case(
        lambda: Drawn(BLACK, space=mission()[0], obs=mission()[1]),
        {"image": (16, 16, 3)}, settings={**PIXELS, "hide": ("mission",)}),
    "float frames drawn": Case(lambda: Drawn(np.full((16, 16, 3), 0.5)), fails="the frame of draw() has a value of d",
                               settings=PIXELS),
    "small frames drawn": Case(lambda: Drawn(np.zeros((8, 8, 3), U8)), fails="the frame of draw() has shape (8, 8, 3)",
                               settings=PIXELS),
    "a tuple": refused("Tuple(Discrete(2)", spaces.Tuple([spaces.Discrete(2)]), (0,)),
    "nothing": refused("has no values", spaces.Dict({}), {}),
    "no spaces": Case(NoSpaces, refused="observation_space must be a space"),
    "actions in a list": Case(ListSpace, refused="action_space must be a space of gymnasium.spaces, got [0, 1]"),
    "no environment": Case(lambda: "CartPole-v1", refused="must be a gymnasium.Env"),
    "many choices of actions": refused("MultiDiscrete([2 2]) is not supported", action=spaces.MultiDiscrete([2, 2])),
    # Rewards and ends
    "a reward of shape (1,)": fails("the reward must be a number, got ndarray of shape (1,)", reward=np.ones(1)),
    "a reward as a list": fails("the reward must be a number, got list of shape (1,)", reward=[1.0]),
    "no reward": fails("the reward must be a number, got NoneType", reward=None),
    "text for a reward": fails("the reward must be a number, got str", reward="1.0"),
    "a complex reward": fails("the reward must be a number", reward=1j),
    "a reward without end": fails("the reward must be a number", reward=10**400),
    "a NaN reward": fails("the reward is nan", reward=float("nan")),
    "a reward infinite as float32": fails("the reward is 1e+39, which is not finite as float32", reward=1e39),
    "a reward whose sum is": Case(odd(reward=3e38), fails="not finite as float32", settings={"repeat": 2}),
    "a numpy reward": works(one(1), reward=F64(1.0)),
    "an array without axes": works(one(1), reward=np.array(1)),
    "ends as arrays": fails("terminated must be True or False", ends=(np.array([True]), False)),
    "ends as None": fails("truncated must be True or False", ends=(False, None)),
    "ends as numpy": works(one(1), ends=(np.bool_(True), np.int64(0))),
    # Results
    "the old step": fails("step() must return (observation, reward, terminated, truncated, info), got a tuple of 4",
                          step=lambda env: (env._obs, 1.0, False, {})),
    "no step": fails("got NoneType", step=lambda env: None),
    "the old reset": fails("reset() must return (observation, info), got ndarray", reset=lambda env: env._obs),
    "an info of None": works(one(1), reset=lambda env: (env._obs, None)),
    "an info that cannot be sent": works(one(1), reset=lambda env: (env._obs, {"f": lambda: 0})),
    "a reset that raises": fails("RuntimeError: no port", reset=raising(RuntimeError("no port"))),
    "a step that raises": fails("KeyError", step=raising(KeyError("x"))),
    "a step that exits": fails("SystemExit: 3", step=raising(SystemExit(3))),
    "an error of many lines": fails("ValueError: first", step=raising(ValueError("first\nsecond"))),
    # Time limits
    "a longer time limit": Case(lambda: TimeLimit(Odd(), 3), one(1), truncated=4, settings={"time_limit": 4}),
    "a shorter time limit": Case(lambda: TimeLimit(Odd(), 9), one(1), truncated=4, settings={"time_limit": 4}),
    "a longer time limit, as before": Case(
        lambda: TimeLimit(Odd(), 3), one(1), truncated=3, settings={"time_limit": 4, "extend_limit": False}),
    "a limit in its code": Case(lambda: Own(3), refused="longer than the environment's own max_steps 3; raise",
                                settings={"time_limit": 4}),
    "a negative time limit": refused("time_limit", settings={"time_limit": -1}),
}  # fmt: skip
