"""A Dreamer-style reinforcement-learning agent: it learns a world model and acts by what it learns in imagination.

config = dreamer.compose("quick", task="gym:Pendulum-v1")
result = dreamer.train(config, run_dir="runs/pendulum")
agent = dreamer.load(result.path)
action, state = agent.act(obs, is_first, state)
rollouts = agent.imagine(state, horizon=15)
dreamer.evaluate(result.path, episodes=20).returns.mean()
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dreamer.agent import Agent
    from dreamer.config import Config, compose
    from dreamer.errors import UserError
    from dreamer.experiments.report.table import read_metrics, read_runs
    from dreamer.training.launch import resume, train
    from dreamer.training.load import load
    from dreamer.training.loop import Result
    from dreamer.training.trained import evaluate, imagine

__all__ = [
    "Agent",
    "Config",
    "Result",
    "UserError",
    "compose",
    "evaluate",
    "imagine",
    "load",
    "read_metrics",
    "read_runs",
    "resume",
    "train",
]

_HOMES = {
    "Agent": "dreamer.agent",
    "Config": "dreamer.config",
    "Result": "dreamer.training.loop",
    "UserError": "dreamer.errors",
    "compose": "dreamer.config",
    "evaluate": "dreamer.training.trained",
    "imagine": "dreamer.training.trained",
    "load": "dreamer.training.load",
    "read_metrics": "dreamer.experiments.report.table",
    "read_runs": "dreamer.experiments.report.table",
    "resume": "dreamer.training.launch",
    "train": "dreamer.training.launch",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use: torch takes seconds to import, and `dreamer --help` does not need it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    """The public API."""
    return __all__
