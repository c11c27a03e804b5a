"""Small agents and batches for the tests of the learner."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, get_args

import jaxtyping
import torch
from torch import Tensor, nn

from dreamer.agent import Agent, AgentConfig
from dreamer.batch import ActionSpec, Batch, Shapes, images
from dreamer.config import override
from dreamer.dynamics import CoreName
from dreamer.dynamics.latents import CategoricalLatent, GaussianLatent
from dreamer.dynamics.mixtures import GaussianMixture
from dreamer.nn.distributions import one_hot_argmax

CORES = get_args(CoreName)
OBS: Shapes = {"position": (2,), "velocity": (1,)}
CONTINUOUS = ActionSpec(2, discrete=False)
DISCRETE = ActionSpec(3, discrete=True)
WALKER = {"height": (1,), "orientations": (14,), "velocity": (9,)}
PIXELS: Shapes = {"image": (16, 16, 3)}
WALKER_ACTION = ActionSpec(6, discrete=False)

TINY_RSSM = {"deter": 16, "hidden": 8, "stoch": 4, "classes": 3, "blocks": 2}
TINY: dict[str, Any] = {
    **{f"dynamics.rssm.{name}": value for name, value in TINY_RSSM.items()},
    "world_model.image.depth": 2,
    **{f"world_model.{part}.units": 8 for part in ("encoder", "decoder", "reward", "cont")},
    **{f"behavior.{part}.units": 8 for part in ("actor", "critic")},
    "imagination_horizon": 3,
}
DYNAMICS_GRADIENT = {"dynamics.latent": "gaussian", "behavior.actor_gradient": "dynamics"}


def make_agent(
    changes: Mapping[str, Any] | None = None,
    action: ActionSpec = CONTINUOUS,
    obs: Shapes | None = None,
    seed: int = 0,
    config: AgentConfig | None = None,
) -> Agent:
    """A tiny agent with freshly drawn weights; `changes` are settings by dotted path."""
    torch.manual_seed(seed)
    return Agent(override(config or AgentConfig(), TINY | dict(changes or {})), obs or OBS, action)


def make_batch(agent: Agent, batch: int = 3, time: int = 5, seed: int = 0, **fields: Tensor) -> Batch:
    """Random rows: one long episode, except that sequence 0 ends by a time limit and sequence 1 terminates at row 1."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    is_first, is_last, is_terminal = torch.zeros(3, batch, time, dtype=torch.bool)
    if time > 2:
        is_last[:2, 1] = True
        is_first[:2, 2] = True
        is_terminal[1:2, 1] = True
    action = normal(batch, time, agent.action.dim)
    if agent.action.discrete:
        action = nn.functional.one_hot(action.argmax(-1), agent.action.dim).float()
    rows = {
        "prev_action": action.masked_fill(is_first.unsqueeze(-1), 0.0),
        "reward": normal(batch, time).masked_fill(is_first, 0.0),
        "is_first": is_first,
        "is_last": is_last,
        "is_terminal": is_terminal,
        "context": normal(batch, agent.world_model.core.packed_dim),
    }
    obs = {key: normal(batch, time, *shape) for key, shape in agent.obs_shapes.items()}
    for key in images(agent.obs_shapes):
        obs[key] = (256 * torch.special.ndtr(obs[key])).to(torch.uint8)
    return Batch(obs=obs, **(rows | fields))


def awaken(module: nn.Module) -> None:
    """Replace tensors that start at zero, such as the output layers of heads, so that gradients pass through them."""
    with torch.no_grad():
        for param in module.parameters():
            if not param.any():
                param.normal_(0, 0.3)


def likeliest_mean(mixture: GaussianMixture, params: Tensor, temperature: float = 1.0) -> Tensor:
    """The mean of the component with the largest weight."""
    log_weights, mean, _ = mixture.split(params)
    return (mean * one_hot_argmax(log_weights.transpose(-1, -2)).transpose(-1, -2)).sum(-2)


@contextlib.contextmanager
def mode_latents() -> Iterator[None]:
    """Latents take their most likely value instead of a sample, so that states can be compared."""
    classes = (CategoricalLatent, GaussianLatent, GaussianMixture)
    samples = [latent.sample for latent in classes]
    for latent in classes:
        latent.sample = getattr(latent, "mode", likeliest_mean)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for latent, sample in zip(classes, samples, strict=True):
            latent.sample = sample  # type: ignore[method-assign]


@contextlib.contextmanager
def unchecked() -> Iterator[None]:
    """Suspend the type-checking import hook, for training loops: they would take three times as long."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def keep_in(graphs: list[Any]) -> Callable[..., Any]:
    """A backend of torch.compile that keeps every graph it is given and runs it as it is."""

    def backend(graph: Any, example_inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    return backend
