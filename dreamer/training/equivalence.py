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
from dreamer.system import ranks
from dreamer.system.randomness import own_randomness

Methods = list[tuple[nn.Module, str, Callable[..., Any]]]
"""Replacements of methods: module instance, name of the method, callable that replaces it."""

TOLERANCE = 1e-3
"""Largest accepted difference from the plain code, relative to the largest entry of each tensor."""
PACKAGES = tuple(f"dreamer.{room}" for room in ("nn", "dynamics", "world_model", "behavior", "agent", "fast"))
"""Packages with the code of an update."""


@contextmanager
def replaced(methods: Methods) -> Iterator[None]:
    """Context in which methods of module instances are replaced by other callables."""
    for module, name, method in methods:
        vars(module)[name] = method
    try:
        yield
    finally:
        for module, name, _ in methods:
            del vars(module)[name]


def agreement(agent: Agent, methods: Methods, seed: int) -> bool:
    """True if the replacements leave losses, stored states and gradients on a tiny batch equal within `TOLERANCE`.

    The comparison is in float32. Random states, parameters and statistics are the same afterwards. Parameters that are
    all zero, such as output layers of new heads, get random values for the comparison, so that gradients pass through
    them.
    """
    zeros = [param for param in agent.parameters() if not param.any()]
    buffers = {name: buffer.clone() for name, buffer in agent.named_buffers()}

    def restore_buffers() -> None:
        for name, buffer in agent.named_buffers():
            buffer.copy_(buffers[name])

    with own_randomness(agent.device, seed), torch.no_grad(), ranks.alone():
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


def tiny_batch(agent: Agent, shape: tuple[int, int] = (2, 3)) -> Batch:
    """Random sequences `[batch time]`, by default two of three steps; in one an episode begins at the second step."""
    device = agent.device
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
        context=torch.randn(shape[0], agent.world_model.core.packed_dim, device=device),
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
    """Record of the functions, classes and constants that an agent's update uses, to detect later edits.

    It covers `PACKAGES` and the modules that define classes of the agent, also those of the user.
    """

    def __init__(self, agent: Agent):
        _ = agent.optimizer  # an attribute of the agent from its first use on
        self.modules = list(agent.modules())
        classes = {cls for module in self.modules for cls in type(module).__mro__}
        names = {
            cls.__module__
            for cls in classes
            if cls.__module__.split(".")[0] not in ("torch", "builtins", "typing", "abc")
        }
        names |= {name for name in sys.modules if name.startswith(PACKAGES)}
        spaces = [vars(sys.modules[name]) for name in sorted(names) if name in sys.modules]
        inner = {value for space in spaces for value in space.values() if isinstance(value, type)}
        # torch.compile adds names to modules later, so only the names that exist now are compared
        self.globals = [(space, list(space)) for space in spaces]
        self.classes = [cls for cls in classes | inner if cls.__module__ in names]
        self.known = self._read()

    @property
    def edited(self) -> bool:
        """True if a recorded object was replaced, or the number of attributes of a module instance has changed."""
        now = self._read()
        return any(len(a) != len(b) or not all(map(is_, a, b)) for a, b in zip(now, self.known, strict=True))

    def _read(self) -> list[list[Any]]:
        """The objects in every namespace now, and the number of attributes of every module instance."""
        spaces = [[space.get(name) for name in names] for space, names in self.globals]
        spaces += [list(vars(cls).values()) for cls in self.classes]
        return [*spaces, [len(vars(module)) for module in self.modules]]
