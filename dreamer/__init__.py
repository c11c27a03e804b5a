"""A Dreamer-style reinforcement-learning agent: learn a world model, act on what it imagines.

config = dreamer.compose("quick", task="gym:Pendulum-v1")
result = dreamer.train(config, run_dir="runs/pendulum")
agent = dreamer.load(result.path)
action, state = agent.act(obs, is_first, state)
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dreamer.agent import Agent
    from dreamer.config import Config, compose
    from dreamer.errors import UserError
    from dreamer.launch import load, resume, train
    from dreamer.train import Result

__all__ = ["Agent", "Config", "Result", "UserError", "compose", "load", "resume", "train"]

_HOMES = {
    "Agent": "agent",
    "Config": "config",
    "Result": "train",
    "UserError": "errors",
    "compose": "config",
    "load": "launch",
    "resume": "launch",
    "train": "launch",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: torch takes seconds, and `dreamer --help` needs none of it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value = getattr(import_module(f"dreamer.{_HOMES[name]}"), name)
    return value


class _Package(ModuleType):
    """Keeps `dreamer.train` the function: importing the submodule of the same name would replace it."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _HOMES or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
