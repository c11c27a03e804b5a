"""The optimizer of Dreamer V3: per-tensor adaptive gradient clipping, then RMS scaling, then momentum (LaProp)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn

FINAL_FRACTION = 0.05  # of the learning rate, after its decay


@dataclass(frozen=True)
class OptimizerConfig:
    """Optimizer of all trained parameters (algorithm: adaptive gradient clipping + LaProp)."""

    learning_rate: Annotated[float, Gt(0)] = 4e-5
    """Learning rate after warm-up."""
    warmup: Annotated[int, Ge(0)] = 1000
    """Updates over which the learning rate rises linearly from 0; the first update changes nothing."""
    decay: Annotated[int, Ge(0)] = 0
    """Updates over which the learning rate falls linearly to a twentieth; 0 keeps it constant (V3)."""
    clip: Annotated[float, Gt(0)] = 0.3
    """Largest gradient norm of a tensor, as a fraction of that tensor's own norm."""
    clip_floor: Annotated[float, Gt(0)] = 1e-3
    """Tensors with a smaller norm are clipped as if they had this norm."""
    clip_groups: Literal["tensors", "v3"] = "tensors"
    """Gradients clipped together: tensors, or v3 (the tensors of V3's code: outputs of decoder and actor apart, both
    kernels of the block GRU's first layer as one)."""
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.9
    """Decay of the running mean of scaled gradients."""
    rms_decay: Annotated[float, Ge(0), Lt(1)] = 0.999
    """Decay of the running mean of squared gradients."""
    epsilon: Annotated[float, Gt(0)] = 1e-20
    """Added to the root of the squared gradients."""


class LaProp:
    """Adaptive gradient clipping followed by LaProp (arXiv 2002.04839).

    The running means of all parameters are two flat vectors, so a step takes few operations for any number of tensors.
    The update count is a tensor on the parameters' device, so a step never waits for the host. Every parameter must
    receive a gradient in every update. `root` is the module with the parameters; `clip_groups` v3 needs it. This is
    no `torch.optim.Optimizer`, whose constructor imports the compiler, which takes seconds.
    """

    def __init__(self, params: Iterable[nn.Parameter], config: OptimizerConfig, root: nn.Module | None = None):
        self.config = config
        self.params = list(params)
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
        is 1 instead of 0.
        """
        c = self.config
        grads, grad_norm = self._clipped_gradient()
        finite = grad_norm.isfinite() if loss is None else grad_norm.isfinite() & loss.isfinite()
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
        if c.decay:
            rate *= (1 - self.updates / c.decay).clamp(min=FINAL_FRACTION)
        return rate

    def _clipped_gradient(self) -> tuple[Tensor, Tensor]:
        """All gradients in one vector, each group clipped to `clip` times its norm; and the norm before clipping."""
        grads = [param.grad for param in self.params if param.grad is not None]
        if len(grads) < len(self.params):
            missing = len(self.params) - len(grads)
            raise RuntimeError(f"{missing} of {len(self.params)} parameters received no gradient in this update")
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
