"""Types that wrappers, vectors and processes of this package exchange."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np

Observation = dict[str, np.ndarray]
"""Observation of a prepared environment: float32 vectors, one-hot vectors and uint8 images by key."""
ResetResult = tuple[Observation, dict[str, Any]]
"""Result of `reset`: observation and info."""
StepResult = tuple[Observation, float, bool, bool, dict[str, Any]]
"""Result of `step`: observation, reward, terminated, truncated and info."""
Arrival = tuple[Observation, float, bool, bool]
"""Result of a step or reset without its info: observation, reward, terminated, truncated."""
StreamPosition = tuple[int, Sequence[Any] | np.ndarray]
"""Position in the stream of an environment: the episode, and the actions since its reset."""
BuildEnv = Callable[..., gymnasium.Env]
"""Constructor of one environment. One with an argument `num_envs` returns a `gymnasium.vector.VectorEnv`."""
MakeEnv = Callable[[int], gymnasium.Env]
"""Constructor of the environment with a given index."""
