"""The implementation of danijar/dreamerv3 and this one compute the same on one small batch: losses, returns, gradients.

`data/parity/README.md` describes the files; docs/parity.md has the measured deviations.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import unchecked
from torch import Tensor

from dreamer.agent import Agent, AgentConfig
from dreamer.batch import ActionSpec, Batch
from dreamer.behavior.returns import lambda_return
from dreamer.config import override
from dreamer.dynamics import latents
from dreamer.nn.distributions import BoundedNormal, OneHot
from dreamer.training.accelerate import AcceleratedUpdate
from dreamer.training.equivalence import Methods, replaced

DATA = Path(__file__).parent / "data" / "parity"
SIZES: dict[str, Any] = {
    **{f"dynamics.rssm.{name}": size for name, size in {"deter": 32, "stoch": 4, "classes": 3, "blocks": 4}.items()},
    "dynamics.rssm.hidden": 8,
    **{f"world_model.{part}.units": 8 for part in ("encoder", "decoder", "reward", "cont")},
    **{f"behavior.{part}.units": 8 for part in ("actor", "critic")},
}
WAYS = ("eager", "fast", pytest.param("compiled", marks=[pytest.mark.compiled, pytest.mark.slow]))
GROUPS = ("loss", "encoder", "filter", "imagined", "normalizer", "grad")
TOLERANCE = 1e-5
"""Largest deviation, relative to the largest entry of an array."""
CRITIC = {
    ("continuous", "grad/actor_critic.critic"): 3e-5,
    ("discrete", "grad/actor_critic.critic"): 2e-3,
    ("discrete", "loss/critic"): 6e-5,
    ("discrete", "loss/replay_critic"): 4e-4,
    ("discrete", "normalizer/high_after"): 6e-5,
}
"""Larger tolerances, by the beginning of the name. The random critics value states at up to 7e6, as the difference of
probabilities times 4.9e8, so the last bits of a sum, which depend on the processor, are amplified.
"""
RENAMED = {"continue": "cont"}
"""Present names of terms and parameters whose names in the files are others, behind the group."""


def uniform(rows: int, columns: int, salt: float) -> Tensor:
    """The table that stands for random numbers on both sides, in float64."""
    r, c = torch.arange(rows, dtype=torch.float64)[:, None], torch.arange(columns, dtype=torch.float64)
    return 0.01 + 0.98 * ((torch.sin(12.9898 * r + 78.233 * c + salt) * 43758.5453) % 1.0)


def normal(rows: int, columns: int) -> Tensor:
    """Normal numbers of the same table (Box-Muller)."""
    first, second = uniform(rows, columns, 1.1), uniform(rows, columns, 2.2)
    return (torch.sqrt(-2 * torch.log(first)) * torch.cos(2 * torch.pi * second)).float()


LATENT, NORMAL, CHOICE = uniform(64, 8, 0.37).float(), normal(64, 8), uniform(64, 1, 0.37).float()


def sample_latent(probs: Tensor) -> Tensor:
    """One-hot class `u >= cumsum(p)` of probabilities `[batch, classes, groups]`."""
    passed = (LATENT[: probs.shape[0], None, : probs.shape[-1]] >= probs[:, :-1].cumsum(-2)).to(probs.dtype)
    ones, zeros = torch.ones_like(passed[:, :1]), torch.zeros_like(passed[:, :1])
    return torch.cat([ones, passed], -2) - torch.cat([passed, zeros], -2)


def sample_normal(policy: BoundedNormal) -> Tensor:
    """Mean + std * table, rows `[start]`."""
    return policy.mean + policy.std * NORMAL[: policy.mean.shape[0], : policy.mean.shape[-1]]


def sample_choice(policy: OneHot) -> Tensor:
    """One-hot action by the table's first column, rows `[start]`."""
    probs = policy.log_probs.exp()
    index = (CHOICE[: probs.shape[0]] >= probs[:, :-1].cumsum(-1)).sum(-1)
    return torch.nn.functional.one_hot(index, probs.shape[-1]).float()


@dataclass
class Case:
    """Results of danijar's code (arrays by the names of the file), and of this one (by the same names)."""

    kind: str
    theirs: dict[str, np.ndarray]
    ours: dict[str, Tensor]

    def deviation(self, key: str) -> float:
        """Largest difference of two tensors, relative to the largest entry of theirs."""
        theirs = torch.from_numpy(np.asarray(self.theirs[key]))
        assert self.ours[key].shape == theirs.shape, key
        return float((self.ours[key].detach().float() - theirs.float()).abs().max() / theirs.float().abs().max())


def entries(arrays: dict[str, np.ndarray], group: str) -> dict[str, Tensor]:
    """The arrays of one group as tensors, by their names in it."""
    found = {key.removeprefix(f"{group}/"): value for key, value in arrays.items() if key.startswith(f"{group}/")}
    return {key: torch.from_numpy(np.asarray(value)) for key, value in found.items()}


def build(kind: str, theirs: dict[str, np.ndarray], optimizer: dict[str, Any] | None = None) -> tuple[Agent, Batch]:
    """The agent with the weights of the file, and its batch."""
    obs = entries(theirs, "batch/obs")
    batch = Batch(obs=obs, **{k: v for k, v in entries(theirs, "batch").items() if not k.startswith("obs/")})
    action = ActionSpec(batch.prev_action.shape[-1], discrete=kind == "discrete")
    settings = SIZES | {f"optimizer.{name}": value for name, value in (optimizer or {}).items()}
    agent = Agent(override(AgentConfig(), settings), {key: value.shape[2:] for key, value in obs.items()}, action)
    ends = entries(theirs, "normalizer")
    ends = {f"actor_critic.normalizer.{end}": ends[f"{end}_before"] for end in ("low", "high")}
    agent.load_state_dict(entries(theirs, "param") | ends)
    return agent, batch


@pytest.fixture(scope="module", params=["continuous", "discrete"])
def theirs(request):
    """The name of a file and its arrays."""
    with np.load(DATA / f"danijar_v3_{request.param}.npz") as arrays:
        keys = {key: key.partition("/") for key in arrays.files}
        named = {f"{group}/{RENAMED.get(name, name)}": arrays[key] for key, (group, _, name) in keys.items()}
    return request.param, named


@pytest.fixture(scope="module", params=WAYS)
def case(request, theirs):
    """One loss and its gradients in every way that updates are run, the table in the place of random numbers."""
    kind, arrays = theirs
    agent, batch = build(kind, arrays)
    model, behavior = agent.world_model, agent.actor_critic
    with pytest.MonkeyPatch.context() as patch, unchecked():
        patch.setattr(latents, "_sample_one_hot", sample_latent)
        patch.setattr(BoundedNormal, "sample", sample_normal)
        patch.setattr(OneHot, "sample", sample_choice)
        methods = [] if request.param == "eager" else methods_of(agent, compiled=request.param == "compiled")
        kept: list[Any] = []
        imagine = agent.imagine_trajectory
        patch.setitem(vars(agent), "imagine_trajectory", lambda start: kept.append(imagine(start)) or kept[0])
        with replaced(methods):
            terms, _, packed = agent.loss_terms(batch)
            [trajectory] = kept
            total = sum(weight * terms[name].mean() for name, weight in (model.scales | behavior.scales).items())
            total.backward()
            embed = model.embed(batch.obs)
            states = model.observe(batch, embed)
            policy = behavior.actor(trajectory.features)
            critics = {"value": behavior.critic, "slow_value": behavior.slow_critic}
            values = {name: critic(trajectory.features).mean() for name, critic in critics.items()}
    lambda_ = agent.config.behavior.lambda_
    groups = {
        "loss": {name: term.view(batch.reward.shape[0], -1) for name, term in terms.items()} | {"total": total},
        "encoder": {"embed": embed},
        "filter": {
            "deter": packed[..., : states.deter.shape[-1]],
            "stoch": packed[..., states.deter.shape[-1] :],
            "posterior_logits": states.params,
            "prior_logits": model.core.prior(states.deter),
        },
        "imagined": {
            "reward": trajectory.reward,
            "discount": trajectory.discount,
            **values,
            "lambda_return": lambda_return(trajectory.reward, trajectory.discount, values["value"], lambda_),
            "action": trajectory.action.argmax(-1) if agent.action.discrete else trajectory.action,
            "log_prob": policy[:, :-1].log_prob(trajectory.action),
            "entropy": policy.entropy(),
        },
        "normalizer": {"low_after": behavior.normalizer.low, "high_after": behavior.normalizer.high},
        "grad": {name: param.grad for name, param in agent.named_parameters() if param.grad is not None},
    }
    ours = {f"{group}/{name}": value for group, values in groups.items() for name, value in values.items()}
    # their policy also acts in the last state, where no transition follows
    cut = {f"imagined/{name}": arrays[f"imagined/{name}"][:, :-1] for name in ("action", "log_prob")}
    return Case(kind, arrays | cut, ours)


def methods_of(agent: Agent, compiled: bool) -> Methods:
    """Methods that training replaces; every equivalent is in use."""
    update = AcceleratedUpdate(agent, compiled)
    update.prepare()
    names = {name for _, name, _ in update.methods}
    assert names == {"forward", "observe"} | ({"imagine_step"} if compiled else set())
    return update.methods


def test_the_table_is_that_of_the_files(theirs):
    _, arrays = theirs
    np.testing.assert_allclose(uniform(64, 8, 0.37), arrays["noise/uniform_64x8"], rtol=0, atol=1e-7)
    np.testing.assert_allclose(NORMAL, arrays["noise/normal_64x8"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("group", GROUPS)
def test_every_array_is_the_same(case, group):
    keys = [key for key in case.theirs if key.startswith(f"{group}/") and not key.endswith("_before")]
    assert set(keys) == {key for key in case.ours if key.startswith(f"{group}/")}
    larger = {start: limit for (kind, start), limit in CRITIC.items() if kind == case.kind}
    limits = {key: next((larger[start] for start in larger if key.startswith(start)), TOLERANCE) for key in keys}
    beyond = {key: case.deviation(key) for key in keys if not case.deviation(key) <= limits[key]}
    assert not beyond


@pytest.mark.usefixtures("case")
def test_denormal_numbers_are_alive_afterwards():
    """A shared library that is loaded, such as compiled code, can switch them off; the optimizer's 1e-20 needs them."""
    assert torch.full((200_000,), 1e-20).square().all()


DECODER, ACTOR = "world_model.objective.decoder.vector.output", "actor_critic.actor.output"
CELL = "world_model.core.cell"


def v3_tensors(named: dict[str, Tensor], discrete: bool) -> dict[str, list[Tensor]]:
    """The tensors of danijar's code, each as the pieces of ours that it consists of."""
    tensors = {name: [value] for name, value in named.items()}
    for end in ("weight", "bias"):
        both = tensors.pop(f"{DECODER}.{end}")[0]
        tensors |= {f"position.{end}": [both[:3]], f"velocity.{end}": [both[3:]]}
        if not discrete:
            both = tensors.pop(f"{ACTOR}.{end}")[0]
            tensors |= {f"mean.{end}": [both[:2]], f"stddev.{end}": [both[2:]]}
    tensors["dynhid0.kernel"] = [*tensors.pop(f"{CELL}.recurrent.weight"), *tensors.pop(f"{CELL}.shared")]
    return tensors


@pytest.mark.parametrize("groups", ["v3", "tensors"])
def test_gradients_are_clipped_by_the_tensors_of_v3(theirs, groups):
    """Pitfall 38. An epsilon far above the gradients makes the first update the clipped gradient itself."""
    kind, arrays = theirs
    agent, _ = build(kind, arrays, {"clip_groups": groups, "learning_rate": 1e12, "epsilon": 1e12, "warmup": 0})
    named = {name: param for name, param in agent.named_parameters() if param.requires_grad}
    before = {name: param.detach().clone() for name, param in named.items()}
    grads = {name: 100 * grad for name, grad in entries(arrays, "grad").items()}
    for name, param in named.items():
        param.grad = grads[name].clone()
    metrics = agent.optimizer.step()
    assert metrics["grad_norm"] == pytest.approx(
        torch.cat([g.flatten() for g in grads.values()]).norm().item(), rel=1e-5
    )
    update = {name: before[name] - param.detach() for name, param in named.items()}
    differ = []
    weights, sizes, updates = (v3_tensors(tensors, kind == "discrete") for tensors in (before, grads, update))
    assert len(weights) == len(named) + (1 if kind == "discrete" else 3)
    for name in weights:
        weight, grad, found = (torch.cat([piece.flatten() for piece in x[name]]) for x in (weights, sizes, updates))
        expected = grad / max(1.0, (grad.norm() / (0.3 * max(1e-3, weight.norm()))).item())
        if not torch.allclose(found, expected, rtol=1e-4, atol=1e-6 * weight.norm().item()):
            differ.append(name)
    joined = [name for name in weights if name not in named]
    assert differ == ([] if groups == "v3" else joined)
