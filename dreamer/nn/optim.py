"""The optimizer of Dreamer V3: per-tensor adaptive gradient clipping, then RMS scaling, then momentum (LaProp)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

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
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.9
    """Decay of the running mean of scaled gradients."""
    rms_decay: Annotated[float, Ge(0), Lt(1)] = 0.999
    """Decay of the running mean of squared gradients."""
    epsilon: Annotated[float, Gt(0)] = 1e-20
    """Added to the root of the squared gradients."""


class LaProp(torch.optim.Optimizer):
    """Adaptive gradient clipping followed by LaProp (arXiv 2002.04839).

    The running means of all parameters are two flat vectors, so a step takes few operations for any number of tensors.
    The update count is a tensor on the parameters' device, so a step never waits for the host. Every parameter must
    receive a gradient in every update.
    """

    def __init__(self, params: Iterable[nn.Parameter], config: OptimizerConfig):
        super().__init__(list(params), {})
        self.config = config
        self.params: list[Tensor] = [param for group in self.param_groups for param in group["params"]]
        self.sizes = [param.numel() for param in self.params]
        device = self.params[0].device
        self.repeats = torch.tensor(self.sizes, device=device)
        self.rms = torch.zeros(sum(self.sizes), device=device)
        self.momentum = torch.zeros_like(self.rms)
        self.updates = torch.zeros((), dtype=torch.float64 if device.type == "cpu" else torch.float32, device=device)

    @torch.no_grad()
    def step(self, closure: Any = None, loss: Tensor | None = None) -> dict[str, Tensor]:  # type: ignore[override]
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
        """All gradients in one vector, each tensor clipped to `clip` times its norm; and the norm before clipping."""
        grads = [param.grad for param in self.params if param.grad is not None]
        if len(grads) < len(self.params):
            missing = len(self.params) - len(grads)
            raise RuntimeError(f"{missing} of {len(self.params)} parameters received no gradient in this update")
        norms = torch.stack(torch._foreach_norm(grads))
        upper = torch.stack(torch._foreach_norm(self.params)).clamp_(min=self.config.clip_floor) * self.config.clip
        factors = 1 / (norms / upper).clamp_(min=1.0)
        flat = torch.cat([grad.flatten() for grad in grads])
        flat.mul_(factors.repeat_interleave(self.repeats, output_size=flat.numel()))
        return flat, torch.linalg.vector_norm(norms)

    def state_dict(self) -> dict[str, Any]:
        """The running means, flat in the order of the parameters, and the count of updates."""
        return {"rms": self.rms, "momentum": self.momentum, "updates": self.updates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned, onto the parameters' device."""
        for name, tensor in self.state_dict().items():
            tensor.copy_(state_dict[name])
