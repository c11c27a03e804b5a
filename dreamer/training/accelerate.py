"""The agent's update, run as its device runs it fastest: compiled steps of the loops on a CPU, one CUDA graph on a GPU.

Neither changes what is computed. `Agent.update` remains the definition, and what tests and notebooks call.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from dreamer.agent import Agent, Metrics
from dreamer.batch import Batch
from dreamer.dynamics.rssm import RSSM
from dreamer.dynamics.scan import Steps
from dreamer.system.redaction import tell

CompileChoice = Literal["auto", "on", "off"]
Update = Callable[[Batch], tuple[Metrics, Tensor]]

WORTHWHILE_UPDATES = 10_000
"""Planned updates from which `auto` compiles: below, what is won is less than the time that compiling takes."""
WARM_UP = 3
"""Updates on a side stream before a CUDA graph is captured, as PyTorch asks for."""


def accelerated(agent: Agent, choice: CompileChoice, planned_updates: int) -> Update:
    """The fastest way to call `agent.update` on its device; says in one line when a wanted way is not to be had."""
    if choice == "on" or (choice == "auto" and planned_updates >= WORTHWHILE_UPDATES):
        if _can_compile(agent.device):
            compile_steps(agent)
        elif choice == "on":
            tell("not compiling: torch.compile finds no C++ compiler here (CXX, g++ or clang++)")
    return GraphedUpdate(agent) if agent.device.type == "cuda" else agent.update


def compile_steps(agent: Agent) -> None:
    """Compile what the loops over time repeat: the imagined step, and the filter's step there and back.

    Unrolled loops take minutes to compile, their steps seconds. Random numbers stay those of the plain code.
    """
    torch._inductor.config.fallback_random = True
    core = agent.world_model.core
    core.imagine_step = torch.compile(core.imagine_step, dynamic=False)  # type: ignore[method-assign]
    if isinstance(core, RSSM):
        core.filter_steps = Steps.compiled()


def _can_compile(device: torch.device) -> bool:
    if device.type != "cpu":
        return device.type == "cuda"
    return shutil.which(os.environ.get("CXX", "g++")) is not None or shutil.which("clang++") is not None


class GraphedUpdate:
    """`Agent.update` captured once as a CUDA graph and replayed: thousands of kernels for one launch.

    All batches must have one shape. Updates before the capture run as they are; they are as good as any.
    """

    def __init__(self, agent: Agent):
        self.agent = agent
        self.stream = torch.cuda.Stream(agent.device)
        self.done = 0
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, batch: Batch) -> tuple[Metrics, Tensor]:
        """One update; the results are the caller's to keep."""
        if self.agent.in_vision_stage:  # perhaps again, after a return to an earlier checkpoint
            return self._plain(batch)
        if self.graph is None:
            if self.done < WARM_UP:
                return self._plain(batch)
            self._capture(batch)
        assert self.graph is not None
        self.batch.copy_(batch)
        self.graph.replay()
        metrics, packed = self.outputs
        return {name: value.clone() for name, value in metrics.items()}, packed.clone()

    def _plain(self, batch: Batch) -> tuple[Metrics, Tensor]:
        self.done += not self.agent.in_vision_stage
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            results = self.agent.update(batch)
        torch.cuda.current_stream().wait_stream(self.stream)
        return results

    def _capture(self, batch: Batch) -> None:
        self.batch = batch.clone()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.outputs = self.agent.update(self.batch)
