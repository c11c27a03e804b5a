"""An update that is captured once as a CUDA graph and then replayed: one launch instead of thousands."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dreamer.agent import Agent
from dreamer.batch import Batch
from dreamer.behavior.actor_critic import Metrics
from dreamer.errors import first_line
from dreamer.system.redaction import warn

if TYPE_CHECKING:
    from dreamer.training.accelerate import AcceleratedUpdate

WARM_UP = 3
"""Updates on a side stream before a CUDA graph is captured, as PyTorch requires."""


class GraphedUpdate:
    """An accelerated update that is captured as a CUDA graph after `WARM_UP` updates.

    All batches must have the same shape. Updates of the vision stage run without a graph. If the last update of the
    warm-up waits for the GPU, or if the capture fails, one line says so and all updates run without a graph.
    """

    def __init__(self, agent: Agent, update: AcceleratedUpdate):
        self.agent, self.update = agent, update
        self.stream = torch.cuda.Stream(agent.device)
        self.done, self.possible = 0, True
        self.graph: torch.cuda.CUDAGraph | None = None

    @property
    def compiled(self) -> bool:
        """True while steps are compiled."""
        return self.update.compiled

    def __call__(self, batch: Batch) -> tuple[Metrics, Tensor]:
        """One update; the caller owns the results."""
        if self.agent.in_vision_stage:  # also after a rollback to a checkpoint of that stage
            return self._without_graph(batch)
        if self.update.prepare():
            self.graph, self.done, self.possible = None, 0, True
        if self.graph is None and self.done < WARM_UP:
            return self._warm_up(batch)
        if self.graph is None and self.possible:
            self._capture(batch)
        if self.graph is None:
            return self._without_graph(batch)
        self.batch.copy_(batch)
        self.graph.replay()
        metrics, packed = self.outputs
        return {name: value.clone() for name, value in metrics.items()}, packed.clone()

    def _without_graph(self, batch: Batch) -> tuple[Metrics, Tensor]:
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            results = self.update(batch)
        torch.cuda.current_stream().wait_stream(self.stream)
        return results

    def _warm_up(self, batch: Batch) -> tuple[Metrics, Tensor]:
        self.done += 1
        if self.done < WARM_UP:
            return self._without_graph(batch)
        with synchronizations() as found:
            results = self._without_graph(batch)
        if found:
            self._give_up(f"the update waits for the GPU ({found[0]})")
        return results

    def _capture(self, batch: Batch) -> None:
        self.batch = batch.clone()
        graph, random_state = torch.cuda.CUDAGraph(), torch.cuda.get_rng_state(self.agent.device)
        try:
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self.outputs = self.update(self.batch)
        except RuntimeError as error:  # nothing has run: a capture only records
            torch.cuda.synchronize(self.agent.device)
            torch.cuda.set_rng_state(random_state, self.agent.device)
            self._give_up(first_line(error))
        else:
            self.graph = graph

    def _give_up(self, reason: str) -> None:
        self.possible = False
        warn(f"no CUDA graph, so updates are slower: {reason}")


@contextmanager
def synchronizations() -> Iterator[list[str]]:
    """Context that collects, in the list, where the host waits for the GPU."""
    found: list[str] = []
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield found
    finally:
        torch.cuda.set_sync_debug_mode(before)
    found += [f"{one.filename}:{one.lineno}" for one in caught if "synchroniz" in str(one.message)]
