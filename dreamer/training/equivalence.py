"""Comparison of replaced methods with the plain code, and detection of edits to the plain code."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn

from dreamer.agent import Agent
from dreamer.batch import Batch
from dreamer.system.randomness import own_randomness

Methods = list[tuple[nn.Module, str, Callable[..., Any]]]
"""Replacements of methods: module, name of the method, the callable in its place."""

TOLERANCE = 1e-3
"""Largest relative difference of a replaced method from the plain code."""
ROOMS = ("dreamer.nn", "dreamer.dynamics", "dreamer.world_model", "dreamer.behavior", "dreamer.agent", "dreamer.fast")
"""Packages that hold the code of an update."""


@contextmanager
def replaced(methods: Methods) -> Iterator[None]:
    """Put other callables in the place of methods of module instances."""
    for module, name, method in methods:
        vars(module)[name] = method
    try:
        yield
    finally:
        for module, name, _ in methods:
            del vars(module)[name]


def agreement(agent: Agent, methods: Methods, seed: int) -> bool:
    """True where the loss terms, stored states and gradients on a tiny batch are the same with other methods in place.

    Draws no random numbers from the caller's generators and leaves parameters and statistics as they were. Parameters
    that are all zero, as those of new heads, are not zero for the comparison, so that gradients pass through them.
    """
    zeros = [param for param in agent.parameters() if not param.any()]
    buffers = {name: buffer.clone() for name, buffer in agent.named_buffers()}

    def restore_buffers() -> None:
        for name, buffer in agent.named_buffers():
            buffer.copy_(buffers[name])

    with own_randomness(agent.device, seed), torch.no_grad():
        try:
            for param in zeros:
                param.normal_(0, 0.1)
            expected = _probe(agent, seed)
            restore_buffers()
            try:
                with replaced(methods):
                    found = _probe(agent, seed)
            except Exception:  # the plain code has another structure than the equivalent expects
                return False
        finally:
            for param in zeros:
                param.zero_()
            restore_buffers()
    return len(found) == len(expected) and all(map(_close, found, expected))


def tiny_batch(agent: Agent) -> Batch:
    """Two random sequences of three steps; in one of them an episode begins at the second step."""
    shape, device = (2, 3), agent.device
    no = torch.zeros(shape, dtype=torch.bool, device=device)
    is_first = no.clone()
    is_first[0, 1] = True

    def observation(size: tuple[int, ...]) -> Tensor:
        if len(size) == 3:
            return torch.randint(256, (*shape, *size), dtype=torch.uint8, device=device)
        return torch.randn(*shape, *size, device=device)

    return Batch(
        obs={key: observation(size) for key, size in agent.obs_shapes.items()},
        prev_action=torch.randn(*shape, agent.action.dim, device=device).masked_fill(is_first.unsqueeze(-1), 0.0),
        reward=torch.randn(shape, device=device),
        is_first=is_first,
        is_last=no,
        is_terminal=no,
        context=torch.randn(2, agent.world_model.core.packed_dim, device=device),
    )


@torch.enable_grad()
def _probe(agent: Agent, seed: int) -> list[Tensor]:
    """Losses, stored states and gradients on a tiny batch."""
    torch.manual_seed(seed)
    batch = tiny_batch(agent)
    total, metrics, packed = agent.loss(batch)
    parameters = [param for param in agent.parameters() if param.requires_grad]
    gradients = torch.autograd.grad(total, parameters, materialize_grads=True)  # zeros where there is no gradient
    losses = [value for name, value in metrics.items() if name.startswith("loss/")]
    return [*losses, packed, *gradients]


def _close(left: Tensor, right: Tensor) -> bool:
    scale = right.abs().max().clamp(min=1e-6)
    return left.shape == right.shape and bool((left - right).abs().max() <= TOLERANCE * scale)


class AgentCode:
    """The functions, classes and constants that an agent's update is made of, as they are when this is constructed.

    They are those of our packages, and of the modules that define the agent's classes, the user's own included.
    """

    def __init__(self, agent: Agent):
        _ = agent.optimizer  # torch replaces the class's `step` when the first instance is made
        self.modules = list(agent.modules())
        classes = {cls for module in self.modules for cls in type(module).__mro__}
        names = {
            cls.__module__
            for cls in classes
            if cls.__module__.split(".")[0] not in ("torch", "builtins", "typing", "abc")
        }
        names |= {name for name in sys.modules if name.startswith(ROOMS)}
        spaces = [vars(sys.modules[name]) for name in sorted(names) if name in sys.modules]
        inner = {value for space in spaces for value in space.values() if isinstance(value, type)}
        # torch.compile adds names of its own to modules, so only the names of this moment are compared there
        self.globals = [(space, list(space)) for space in spaces]
        self.classes = [cls for cls in classes | inner if cls.__module__ in names]
        self.known = self._read()

    @property
    def edited(self) -> bool:
        """True when one of them is not the same object any more, or a module instance has got a method of its own."""
        now = self._read()
        return any(len(a) != len(b) or not all(map(is_, a, b)) for a, b in zip(now, self.known, strict=True))

    def _read(self) -> list[list[Any]]:
        """The objects in every namespace now, and the number of attributes of every module instance."""
        spaces = [[space.get(name) for name in names] for space, names in self.globals]
        spaces += [list(vars(cls).values()) for cls in self.classes]
        return [*spaces, [len(vars(module)) for module in self.modules]]
