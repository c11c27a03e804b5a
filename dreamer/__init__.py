"""A Dreamer-style reinforcement-learning agent: learn a world model, act on what it imagines.

config = dreamer.compose("quick", task="gym:Pendulum-v1")
result = dreamer.train(config, run_dir="runs/pendulum")
agent = dreamer.load(result.path)
action, state = agent.act(obs, is_first, state)
"""

from dreamer.agent import Agent
from dreamer.config import Config, compose
from dreamer.errors import UserError
from dreamer.launch import load, resume, train
from dreamer.train import Result

__all__ = ["Agent", "Config", "Result", "UserError", "compose", "load", "resume", "train"]
