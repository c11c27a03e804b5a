"""Faster updates: hand-optimised equivalents, compiled steps of the core, and a CUDA graph on a GPU.

`Agent.update` is the definition. During an update some methods are replaced on their module instances:

- by equivalents from `dreamer/fast`, if `equivalence.agreement` finds equal values and gradients on a tiny batch;
- the core's steps by the same steps compiled with torch.compile.

Acting and evaluation run the plain code. If a class or function of the agent is replaced while the process runs, as in
an interactive session, everything is checked and compiled again.
"""

from __future__ import annotations

import os
import shutil
import sysconfig
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils._triton import has_triton

from dreamer.agent import Agent
from dreamer.batch import Batch
from dreamer.behavior.actor_critic import Metrics
from dreamer.dynamics.rssm import RSSM
from dreamer.errors import UserError, first_line
from dreamer.fast import filter as fast_filter
from dreamer.fast import kernels, originals
from dreamer.nn.layers import NormSiLU
from dreamer.system import ranks
from dreamer.system.compile_cache import remove_half_written
from dreamer.system.randomness import random_states, set_random_states
from dreamer.system.redaction import warn
from dreamer.training.equivalence import AgentCode, Methods, agreement, replaced
from dreamer.training.graph import GraphedUpdate
from dreamer.world_model.heads import ScalarHead

Choice = Literal["auto", "on", "off"]
Update = Callable[[Batch], tuple[Metrics, Tensor]]
WORTHWHILE_UPDATES = 10_000
"""Least planned updates for which `auto` compiles. In shorter runs compilation takes longer than it saves."""


def accelerated(
    agent: Agent, choice: Choice, planned_updates: int, graph: Choice = "auto"
) -> AcceleratedUpdate | GraphedUpdate:
    """A callable that does what `agent.update` does, faster.

    One line says if `choice` (of compilation) or `graph` is on and not possible here.
    """
    compiled = wanted(choice, planned_updates)
    obstacle = obstacle_to_compilation(agent.device) if compiled else None
    if obstacle is not None and (choice == "on" or agent.device.type == "cuda"):
        warn(f"not compiling: {obstacle}")
    update = AcceleratedUpdate(agent, compiled and obstacle is None)
    if agent.device.type == "cuda" and (graph == "on" or (graph == "auto" and ranks.count() == 1)):
        return GraphedUpdate(agent, update)
    if graph == "on":
        warn(f"no CUDA graph: the device is {agent.device.type}")
    return update


def wanted(choice: Choice, planned_updates: int) -> bool:
    """True if a run of this many updates is to be compiled."""
    return choice == "on" or (choice == "auto" and planned_updates >= WORTHWHILE_UPDATES)


class AcceleratedUpdate:
    """`Agent.update` with some methods replaced by faster ones for the time of the call."""

    def __init__(self, agent: Agent, compiled: bool, backend: str = "inductor"):
        self.agent, self.compiled, self.backend = agent, compiled, backend
        self.methods: Methods = []
        self.plain: Methods = []
        """The methods without compiled steps."""
        self._compiles = False
        """True once an update has run all of its steps compiled."""
        self.code: AgentCode | None = None

    def __call__(self, batch: Batch) -> tuple[Metrics, Tensor]:
        """One update. If its steps cannot be compiled, it is repeated with plain ones, and so are all later updates."""
        self.prepare()
        if not self.compiled or self._compiles:
            with replaced(self.methods):
                return self.agent.update(batch)
        agent, last = self.agent, not self.agent.in_vision_stage
        buffers = {name: buffer.clone() for name, buffer in agent.named_buffers()}
        random = random_states(agent.device)
        try:
            with replaced(self.methods):
                results = agent.update(batch)
            self._compiles = last
            return results
        except UserError:
            raise
        except Exception as error:  # a compiler, or a cache that is damaged, can raise anything
            if ranks.count() > 1:  # the others are in the middle of the same update
                raise UserError(f"torch.compile fails: {first_line(error)}; use --compile off") from error
            warn(f"torch.compile fails, so the plain code runs: {first_line(error)}")
        self.compiled, self.methods = False, self.plain
        for name, buffer in agent.named_buffers():
            buffer.copy_(buffers[name])
        set_random_states(random, agent.device)
        return self(batch)

    def prepare(self) -> bool:
        """Choose the replacements before the first update and after an edit of the code; True if they are new."""
        if self.code is not None and not self.code.edited:
            return False
        self.code = AgentCode(self.agent)
        self.methods = self.plain = verified_equivalents(self.agent)
        if self.compiled:
            remove_half_written()
            self._compiles = False
            self.methods = with_compiled_steps(self.agent, self.methods, self.backend)
        return True


def with_compiled_steps(agent: Agent, methods: Methods, backend: str) -> Methods:
    """The methods, and the repeated steps of imagination and filter compiled with torch.compile.

    Only steps are compiled: that takes seconds, an unrolled loop over time minutes. Random numbers are those of the
    plain steps. Changes two settings of the process: the random numbers of compiled code, and the cache of
    torch.compile, which is emptied.
    """
    torch._inductor.config.fallback_random = True
    torch.compiler.reset()  # the cache does not notice an edit of a method that a step calls
    core = agent.world_model.core
    filters = [method for _, name, method in methods if name == "observe"]
    names = ["imagine_step"] if filters else ["imagine_step", "observe_step"]
    compiled: Methods = [(core, name, _compile(getattr(core, name), backend)) for name in names]
    if filters:
        steps = fast_filter.Steps(*(_compile(step, backend) for step in fast_filter.PLAIN_STEPS))
        compiled.append((core, "observe", partial(filters[0], steps=steps)))
    return [method for method in methods if method[1] != "observe"] + compiled


def _compile(step: Callable[..., Any], backend: str) -> Callable[..., Any]:
    return torch.compile(step, dynamic=False, backend=backend)


class Equivalent(NamedTuple):
    """Hand-optimised methods, and the functions of the plain code that they equal."""

    methods: Methods
    originals: list[Callable[..., Any]]


def equivalents(agent: Agent) -> dict[str, Equivalent]:
    """Hand-optimised equivalents of the agent's methods, by the name of the method."""
    core, modules = agent.world_model.core, list(agent.modules())
    norms = [module for module in modules if isinstance(module, NormSiLU)]
    heads = [module for module in modules if isinstance(module, ScalarHead)]
    found = {
        "NormSiLU.forward": Equivalent(
            [(module, "forward", partial(kernels.norm_silu, module)) for module in norms],
            [function for module in norms for function in originals.of_norm(module)],
        ),
        "ScalarHead.forward": Equivalent(
            [(module, "forward", partial(kernels.two_hot_head, module)) for module in heads],
            [function for module in heads for function in originals.of_head(module)],
        ),
    }
    if isinstance(core, RSSM) and fast_filter.applies(core):
        methods: Methods = [(core, "observe", partial(fast_filter.observe, core))]
        found[f"{type(core).__name__}.observe"] = Equivalent(methods, originals.of_filter(core))
    return found


def verified_equivalents(agent: Agent) -> Methods:
    """The equivalents whose plain code is the original one, and which agree with it on a tiny batch.

    One line names each equivalent that is left out, because an equation was edited or overridden in a subclass.
    """
    chosen: Methods = []
    for name, equivalent in equivalents(agent).items():
        edited = originals.edited(equivalent.originals)
        if edited:
            warn(f"{name}: {edited[0]} is not the original code, so the plain code runs without its fast equivalent")
        elif any(agreement(agent, equivalent.methods, seed) for seed in range(2)):  # rounding can flip a sample
            chosen += equivalent.methods
        else:
            warn(f"{name}: the fast equivalent computes something else, so the plain code runs")
    return chosen


def obstacle_to_compilation(device: torch.device) -> str | None:
    """The reason why torch.compile cannot work on this device; None if it can."""
    if device.type == "cpu":
        found = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")
        return None if found else "torch.compile finds no C++ compiler here (CXX, g++ or clang++)"
    if device.type != "cuda":
        return f"not supported on {device.type}"
    if not has_triton():
        return "Triton is not installed here, or does not support this GPU"
    if not (shutil.which(os.environ.get("CC", "gcc")) or shutil.which("clang")):
        return "Triton finds no C compiler here (CC, gcc or clang)"
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return "Triton needs the headers of Python, such as the package python3-dev"
    return None
