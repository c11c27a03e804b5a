"""`dreamer debug-batch`: repeats an update that was skipped, and reports its first values that were not finite."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dreamer.agent import Agent
from dreamer.batch import Batch
from dreamer.errors import first_line
from dreamer.experiments.report.wording import listing
from dreamer.runs.folder import open_run
from dreamer.runs.saved import SavedSpec, read_large, understood, unpacked
from dreamer.training.load import agent_with_weights

SHOWN = 8
"""Number of names that a line shows."""


def debug_batch(file: Path) -> list[str]:
    """Return lines about the values that were not finite in the update of RUN/faults/batch_<update>.pt.

    Raises `UserError` for a file that no run of this configuration has kept.
    """
    config = open_run(file.absolute().parent.parent).config.share
    with understood(file, "{} is not a batch that this run has kept"):
        state = unpacked(read_large(file))
        batch = _batch(state["batch"], (config.loop.batch_size, config.loop.batch_length))
        shapes = {key: tuple(value.shape[2:]) for key, value in batch.obs.items()}
        spec: SavedSpec = {"obs_shapes": shapes, "action": [batch.prev_action.shape[-1], state["discrete"]]}
        agent = agent_with_weights(config.agent, {"spec": spec, "agent": {"modules": state["modules"]}})
        torch.set_rng_state(state["rng"])
        findings = [*_inputs(batch), *_parameters(agent), *_update(agent, batch)]
        device = state["device"]
    note = "note        random numbers of a GPU are not reproduced here; the weights are those after the next update"
    head = f"batch       {batch.reward.shape[0]} sequences of {batch.reward.shape[1]} rows"
    return [
        head,
        *[note] * (device != "cpu"),
        *(findings or ["all values are finite here: the fault was not reproduced"]),
    ]


def _batch(columns: Mapping[str, Any], rows: tuple[int, int]) -> Batch:
    """The batch of `rows` sequences and steps; raises `ValueError` for another one."""
    batch = Batch(**columns)
    flags = dict.fromkeys(("is_first", "is_last", "is_terminal"), torch.bool)
    for name, value in ({**columns, **columns["obs"]} | {"obs": batch.reward}).items():
        size = rows[:1] if name == "context" else rows
        kinds = [flags[name]] if name in flags else [torch.float32, *([torch.uint8] if value.ndim == 5 else [])]
        if value.shape[: len(size)] != size or value.dtype not in kinds:
            raise ValueError(f"{name} has type {value.dtype} and shape {tuple(value.shape)}, for {rows} rows")
    return batch


def _inputs(batch: Batch) -> Iterator[str]:
    columns = {**{f"obs {key}": value for key, value in batch.obs.items()}, "reward": batch.reward}
    columns |= {"prev_action": batch.prev_action, "context": batch.context}
    for name, value in columns.items():
        if not value.isfinite().all():
            places = (~value.isfinite()).nonzero()[:, : 1 if name == "context" else 2]
            rows = ", ".join(str(tuple(row)) for row in places.unique(dim=0)[:SHOWN].tolist())
            axes = "(sequence)" if name == "context" else "(sequence, row)"
            yield f"input       {name} is not finite at {axes} {rows}"


def _parameters(agent: nn.Module) -> Iterator[str]:
    broken = [name for name, value in agent.named_parameters() if not value.isfinite().all()]
    if broken:
        yield f"parameters  not finite: {listing(broken, SHOWN)}"


def _update(agent: Agent, batch: Batch) -> Iterator[str]:
    """Lines about the first values of the forward and the backward pass that are not finite."""
    first: list[str] = []

    def check_output_of(name: str) -> Any:
        def check(module: nn.Module, inputs: Any, output: Any) -> None:
            if not first and not all(value.isfinite().all() for value in _tensors(output)):
                first.append(name)

        return check

    hooks = [module.register_forward_hook(check_output_of(name)) for name, module in agent.named_modules() if name]
    try:
        total, metrics, _ = agent.loss(batch)
    except ValueError as error:  # distributions reject parameters that are not finite
        yield f"forward     fails: {first_line(error)}"
        return
    finally:
        for hook in hooks:
            hook.remove()
        if first:
            yield f"forward     the first output that is not finite is the output of {first[0]}"
    losses = {name.removeprefix("loss/"): value for name, value in metrics.items() if name.startswith("loss/")}
    broken = [name for name, value in losses.items() if not value.isfinite().all()]
    if broken:
        yield f"losses      not finite: {', '.join(broken)}"
    total.backward()
    gradients = [n for n, p in agent.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
    if gradients:
        yield f"gradients   not finite: {listing(gradients, SHOWN)}"


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor) and output.is_floating_point():
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, list | tuple):
        for value in output:
            yield from _tensors(value)
