"""The optimizer of Dreamer V3: per-tensor adaptive gradient clipping, then RMS scaling, then momentum (LaProp)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Interval
from torch import Tensor, nn

from dreamer.system import ranks
from envs.ranges import CountOrNone, Positive, Probability, Schedule

FINAL_FRACTION = 0.05  # of the learning rate, after its decay


class Decay:
    """Linear decay of a setting with the updates of a run, from 1 to no less than `floor`.

    `length` is 0 for none, at most 1 for a fraction of the planned updates, and otherwise a number of updates, as older
    versions had it. A fraction has no effect before `plan` is called.
    """

    def __init__(self, length: int | float, floor: float):
        self.length, self.floor = length, floor
        self.start, self.value = 0.0, 1.0
        """Update from which the decay follows the present plan, and the factor there."""
        self.end = float(length) if length > 1 else 0.0
        """Update at which the factor would reach 0; 0 without decay."""

    def __call__(self, updates: Tensor) -> Tensor:
        """The factor after this number of updates."""
        if not self.end:
            return torch.full_like(updates, self.value)
        passed = (updates - self.start) / max(self.end - self.start, 1.0)
        return (self.value * (1 - passed)).clamp(min=self.floor)

    def plan(self, planned: int, at: float) -> None:
        """Adopt a number of planned updates; if the end of the decay moves, it continues from its value at `at`."""
        end = float(self.length if self.length > 1 else self.length * planned)
        if end != self.end:
            self.value, self.start = float(self(torch.tensor(at, dtype=torch.float64))), at
            self.end = end

    def describe(self, at: float) -> str:
        """The course of the decay from update `at` on; empty without one."""
        now = float(self(torch.tensor(at, dtype=torch.float64)))
        if not self.end:
            return ""
        if now <= self.floor:
            return f"stays at {self.floor:.0%} of its initial value, where its decay has ended"
        low = self.end - self.floor / self.value * (self.end - self.start)
        return f"falls from {now:.0%} of its initial value to {self.floor:.0%} at update {low:,.0f}"


@dataclass(frozen=True)
class OptimizerConfig:
    """Optimizer of all trained parameters (algorithm: adaptive gradient clipping + LaProp)."""

    on_resume: ClassVar = {"decay": "schedule"}

    learning_rate: Annotated[float, Interval(gt=0, le=1000)] = 4e-5
    """Learning rate after warm-up."""
    warmup: CountOrNone = 1000
    """Updates over which the learning rate rises linearly from 0; the first update changes nothing."""
    decay: Schedule = 0
    """Fraction of the planned updates over which the learning rate falls linearly to a twentieth; 0 keeps it constant
    (V3). A value above 1 is a number of updates."""
    clip: Positive = 0.3
    """Largest gradient norm of a tensor, as a fraction of that tensor's own norm."""
    clip_floor: Positive = 1e-3
    """Tensors with a smaller norm are clipped as if they had this norm."""
    clip_groups: Literal["tensors", "v3"] = "tensors"
    """Gradients clipped together: tensors, or v3 (the tensors of V3's code: outputs of decoder and actor apart, both
    kernels of the block GRU's first layer as one)."""
    momentum: Probability = 0.9
    """Decay of the running mean of scaled gradients."""
    rms_decay: Probability = 0.999
    """Decay of the running mean of squared gradients."""
    epsilon: Annotated[float, Interval(ge=1e-38, le=1)] = 1e-20
    """Added to the root of the squared gradients."""


class LaProp:
    """Adaptive gradient clipping followed by LaProp (arXiv 2002.04839).

    The running means of all parameters are two flat vectors, so a step takes few operations for any number of tensors.
    The update count is a tensor on the parameters' device, so a step never waits for the host. Every parameter must
    receive a gradient in every update. Gradients are averaged over all ranks (`dreamer.system.ranks`). `root` is the
    module with the parameters; `clip_groups` v3 needs it. This is no `torch.optim.Optimizer`, whose constructor imports
    the compiler, which takes seconds.
    """

    def __init__(self, params: Iterable[nn.Parameter], config: OptimizerConfig, root: nn.Module | None = None):
        self.config, self.decay = config, Decay(config.decay, FINAL_FRACTION)
        self.params: list[Tensor] = list(params)
        self.sizes = [param.numel() for param in self.params]
        device = self.params[0].device
        self.rows, leaders = clip_pieces(self.params, root if config.clip_groups == "v3" else None)
        self.repeats = torch.tensor([piece.numel() for piece in self._pieces(self.params)], device=device)
        self.leaders = None if leaders == list(range(len(leaders))) else torch.tensor(leaders, device=device)
        self.rms = torch.zeros(sum(self.sizes), device=device)
        self.momentum = torch.zeros_like(self.rms)
        self.updates = torch.zeros((), dtype=torch.float64 if device.type == "cpu" else torch.float32, device=device)

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for param in self.params:
            param.grad = None

    @torch.no_grad()
    def step(self, loss: Tensor | None = None) -> dict[str, Tensor]:
        """Update all parameters; return the scalars `grad_norm` (before clipping), `update_norm`, `learning_rate`.

        A gradient or `loss` that is not finite changes nothing, parameters and running means included, and `skipped`
        is 1 instead of 0; that of one rank counts for all.
        """
        c = self.config
        loss = self.momentum.new_zeros(()) if loss is None else loss
        averaged, loss = self._gradients(loss)
        grads, grad_norm = self._clipped(averaged)
        finite = grad_norm.isfinite() & loss.isfinite()
        grads.masked_fill_(~finite, 0.0)
        learning_rate = self._learning_rate()
        updates = self.updates + 1
        self.rms.lerp_(grads.square(), (1 - c.rms_decay) * finite)
        scale = (self.rms / (1 - c.rms_decay**updates)).sqrt_().add_(c.epsilon)
        self.momentum.lerp_(grads.div_(scale), (1 - c.momentum) * finite)
        delta = self.momentum * (learning_rate * finite / (1 - c.momentum**updates)).float()
        self.updates += finite
        pieces = [piece.view_as(param) for piece, param in zip(delta.split(self.sizes), self.params, strict=True)]
        torch._foreach_sub_(self.params, pieces)
        return {
            "grad_norm": grad_norm,
            "update_norm": torch.linalg.vector_norm(delta),
            "learning_rate": learning_rate,
            "skipped": (~finite).float(),
        }

    def _learning_rate(self) -> Tensor:
        """Learning rate of this update, after warm-up and decay."""
        c = self.config
        rate = torch.full_like(self.updates, c.learning_rate)
        if c.warmup:
            rate *= (self.updates / c.warmup).clamp(max=1.0)
        return rate * self.decay(self.updates)

    def _gradients(self, loss: Tensor) -> tuple[Sequence[Tensor], Tensor]:
        """The gradient of every parameter and the loss, averaged over all ranks in one vector."""
        grads = [param.grad for param in self.params if param.grad is not None]
        if len(grads) < len(self.params):
            missing = len(self.params) - len(grads)
            raise RuntimeError(f"{missing} of {len(self.params)} parameters received no gradient in this update")
        if ranks.count() == 1:
            return grads, loss
        flat = ranks.average(torch.cat([grad.flatten() for grad in grads] + [loss.to(self.rms.dtype).reshape(1)]))
        pieces = flat[:-1].split(self.sizes)
        return [piece.view_as(param) for piece, param in zip(pieces, self.params, strict=True)], flat[-1]

    def _clipped(self, grads: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """All gradients in one vector, each group clipped to `clip` times its norm; and the norm before clipping."""
        norms, sizes = (torch.stack(torch._foreach_norm(self._pieces(tensors))) for tensors in (grads, self.params))
        upper = self._of_groups(sizes).clamp(min=self.config.clip_floor) * self.config.clip
        factors = 1 / (self._of_groups(norms) / upper).clamp_(min=1.0)
        flat = torch.cat([grad.flatten() for grad in grads])
        flat.mul_(factors.repeat_interleave(self.repeats, output_size=flat.numel()))
        return flat, torch.linalg.vector_norm(norms)

    def _pieces(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Tensors of the parameters' shapes, cut into the pieces of `clip_pieces`."""
        cuts = zip(tensors, self.rows, strict=True)
        return [piece for tensor, rows in cuts for piece in (tensor.split(rows) if rows else (tensor,))]

    def _of_groups(self, norms: Tensor) -> Tensor:
        """Norm of the group of every piece, from the norms of the pieces."""
        if self.leaders is None:
            return norms
        return torch.zeros_like(norms).index_add_(0, self.leaders, norms.square()).sqrt_()[self.leaders]

    def state_dict(self) -> dict[str, Any]:
        """The running means, flat in the order of the parameters, and the count of updates."""
        return {"rms": self.rms, "momentum": self.momentum, "updates": self.updates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned, onto the parameters' device."""
        for name, tensor in self.state_dict().items():
            tensor.copy_(state_dict[name])


def clip_pieces(params: Sequence[Tensor], root: nn.Module | None) -> tuple[list[list[int]], list[int]]:
    """Clipping groups: the rows of each parameter's pieces (empty where it is one), and the leader of every piece.

    Pieces with the same leader, the number of their first piece, are one group. Layers with `heads` are cut, and the
    parameters that `clip_together` of a module names are joined; without `root` every parameter is a group.
    """
    heads: dict[int, list[int]] = {}
    joined: dict[int, int] = {}
    for module in root.modules() if root is not None else ():
        heads |= {id(param): list(getattr(module, "heads", ())) for param in module.parameters(recurse=False)}
        joined |= {id(module.get_parameter(name)): id(module) for name in getattr(module, "clip_together", ())}
    rows = [heads.get(id(param), []) for param in params]
    first: dict[tuple[int, int], int] = {}
    leaders: list[int] = []
    for param, cut in zip(params, rows, strict=True):
        for part in range(max(len(cut), 1)):
            leaders.append(first.setdefault((joined.get(id(param), id(param)), part), len(leaders)))
    return rows, leaders
