"""Adaptive gradient clipping, LaProp, warm-up, and the optimizer's state."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from dreamer.nn.optim import LaProp, OptimizerConfig

SHAPES = [(3, 4), (5,), (2, 3, 2), (1,)]


def make(config, seed=0):
    torch.manual_seed(seed)
    params = [nn.Parameter(torch.randn(shape)) for shape in SHAPES]
    return params, LaProp(params, config)


def step(params, optimizer, grads):
    for param, grad in zip(params, grads, strict=True):
        param.grad = grad.clone()
    return optimizer.step()


def random_grads(seed):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) * 10 ** (seed % 5 - 2) for shape in SHAPES]


def test_several_updates_match_the_definition():
    """Pitfalls 38 and 39: clip each tensor, divide by the root mean square, then average, each debiased."""
    config = OptimizerConfig(learning_rate=1e-2, warmup=3)
    params, optimizer = make(config)
    weights = [param.detach().double().numpy().copy() for param in params]
    rms, momentum = ([np.zeros(shape) for shape in SHAPES] for _ in range(2))
    for n in range(6):
        grads = random_grads(n)
        step(params, optimizer, grads)
        for i, grad in enumerate(grads):
            upper = 0.3 * max(1e-3, np.linalg.norm(weights[i]))
            clipped = grad.double().numpy() / max(1.0, np.linalg.norm(grad) / upper)
            rms[i] = 0.999 * rms[i] + 0.001 * clipped**2
            scaled = clipped / (np.sqrt(rms[i] / (1 - 0.999 ** (n + 1))) + 1e-20)
            momentum[i] = 0.9 * momentum[i] + 0.1 * scaled
            weights[i] = weights[i] - 1e-2 * min(1.0, n / 3) * momentum[i] / (1 - 0.9 ** (n + 1))
    for param, weight in zip(params, weights, strict=True):
        np.testing.assert_allclose(param.detach(), weight, rtol=1e-4, atol=1e-5)


def first_update(params, grads):
    """What the first update subtracts; an epsilon far above the gradients makes it the clipped gradient itself."""
    large = 1e8
    optimizer = LaProp(params, OptimizerConfig(learning_rate=large, epsilon=large, warmup=0))
    before = [param.detach().clone() for param in params]
    step(params, optimizer, grads)
    return [old - param.detach() for old, param in zip(before, params, strict=True)]


def test_clipping_is_per_tensor():
    """Pitfall 38: neither per output unit nor by a global norm."""
    small, large = nn.Parameter(torch.tensor([[3.0, 0.0], [0.0, 4.0]])), nn.Parameter(torch.full((2,), 100.0))
    grad = torch.tensor([[6.0, 8.0], [0.0, 0.0]])
    for other in (1e-3, 1e6):
        update, _ = first_update([nn.Parameter(small.detach().clone()), large], [grad, torch.full((2,), other)])
        torch.testing.assert_close(update, grad * (0.3 * 5 / 10), rtol=1e-5, atol=1e-6)


def test_gradients_below_the_limit_are_untouched():
    (update,) = first_update([nn.Parameter(torch.tensor([3.0, 4.0]))], [torch.tensor([0.1, -0.2])])
    torch.testing.assert_close(update, torch.tensor([0.1, -0.2]), rtol=1e-5, atol=1e-6)


def test_tensors_at_zero_move_but_do_not_explode():
    """Pitfall 38: without the floor, biases would stay at zero for ever."""
    (update,) = first_update([nn.Parameter(torch.zeros(4))], [torch.tensor([0.0, 0.6, -0.8, 0.0])])
    torch.testing.assert_close(update, torch.tensor([0.0, 1.8e-4, -2.4e-4, 0.0]), rtol=1e-5, atol=1e-10)


@pytest.mark.parametrize("size", [1, 200_000])
@pytest.mark.parametrize("gradient", [3e-18, 3e-20])
def test_denormal_numbers_are_alive(size, gradient):
    """Squares of small gradients are denormal. Flushed to zero, epsilon alone would divide: 300 and 4 times the step.

    Many entries are divided among the threads of the process.
    """
    params = [nn.Parameter(torch.zeros(size))]
    optimizer = LaProp(params, OptimizerConfig(learning_rate=1.0, warmup=0, clip=1e30))
    expected = -gradient / (gradient + optimizer.config.epsilon)
    step(params, optimizer, [torch.full((size,), gradient)])
    torch.testing.assert_close(params[0].detach(), torch.full((size,), expected), rtol=0.02, atol=0)


def test_a_zero_gradient_changes_nothing():
    params, optimizer = make(OptimizerConfig(warmup=0))
    before = [param.detach().clone() for param in params]
    step(params, optimizer, [torch.zeros(shape) for shape in SHAPES])
    for param, old in zip(params, before, strict=True):
        assert torch.equal(param, old)


def test_learning_rate_rises_linearly_from_zero():
    params, optimizer = make(OptimizerConfig(learning_rate=4e-5, warmup=4))
    before = [param.detach().clone() for param in params]
    rates = [step(params, optimizer, random_grads(0))["learning_rate"].item()]
    for param, old in zip(params, before, strict=True):
        assert torch.equal(param, old)
    rates += [step(params, optimizer, random_grads(n))["learning_rate"].item() for n in range(1, 7)]
    assert rates == pytest.approx([0, 1e-5, 2e-5, 3e-5, 4e-5, 4e-5, 4e-5], rel=1e-6)
    params, optimizer = make(OptimizerConfig(learning_rate=4e-5, warmup=0))
    assert step(params, optimizer, random_grads(0))["learning_rate"].item() == pytest.approx(4e-5)


def test_reported_norms():
    params, optimizer = make(OptimizerConfig(learning_rate=0.1, warmup=0))
    grads = random_grads(3)
    metrics = step(params, optimizer, grads)
    everything = torch.cat([grad.flatten() for grad in grads])
    assert metrics["grad_norm"].item() == pytest.approx(everything.norm().item(), rel=1e-5)
    assert metrics["update_norm"].item() == pytest.approx(0.1 * len(everything) ** 0.5, rel=1e-4)


def test_parameters_without_a_gradient_are_reported():
    """Pitfall 60: a part that silently never trains."""
    params, optimizer = make(OptimizerConfig())
    params[0].grad = torch.ones(SHAPES[0])
    with pytest.raises(RuntimeError, match="3 of 4 parameters received no gradient"):
        optimizer.step()


def test_saved_state_continues_exactly():
    params, optimizer = make(OptimizerConfig(learning_rate=1e-2, warmup=3))
    for n in range(2):
        step(params, optimizer, random_grads(n))
    saved = copy.deepcopy(optimizer.state_dict())
    others, restored = make(optimizer.config, seed=1)
    restored.load_state_dict(saved)
    with torch.no_grad():
        for other, param in zip(others, params, strict=True):
            other.copy_(param)
    for n in range(2, 5):
        step(params, optimizer, random_grads(n))
        step(others, restored, random_grads(n))
    for other, param in zip(others, params, strict=True):
        assert torch.equal(other, param)


def test_loaded_state_is_independent_of_what_was_loaded():
    params, optimizer = make(OptimizerConfig(warmup=0))
    step(params, optimizer, random_grads(0))
    saved = copy.deepcopy(optimizer.state_dict())
    others, restored = make(optimizer.config)
    restored.load_state_dict(saved)
    reference = copy.deepcopy(saved)
    step(others, restored, random_grads(1))
    torch.testing.assert_close(saved, reference, rtol=0, atol=0)


def test_saved_state_loads_safely_and_lands_on_the_parameters_device(tmp_path):
    """A checkpoint from one device continues on another: nothing of the state stays behind where it was saved."""
    params, optimizer = make(OptimizerConfig())
    step(params, optimizer, random_grads(0))
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    elsewhere = [nn.Parameter(torch.empty(shape, device="meta")) for shape in SHAPES]
    restored = LaProp(elsewhere, optimizer.config)
    restored.load_state_dict(saved)
    assert {tensor.device.type for tensor in tensors(restored.state_dict())} == {"meta"}


def tensors(tree):
    """All tensors in nested dicts and lists."""
    if isinstance(tree, torch.Tensor):
        return [tree]
    children = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list | tuple) else []
    return [tensor for child in children for tensor in tensors(child)]


def test_the_learning_rate_falls_to_a_twentieth_and_stays():
    params, optimizer = make(OptimizerConfig(learning_rate=1e-2, warmup=2, decay=8))
    rates = [step(params, optimizer, random_grads(n))["learning_rate"].item() for n in range(11)]
    warmup = [0.0, 0.5, *[1.0] * 9]
    decay = [1 - n / 8 for n in range(8)] + [0.05] * 3
    np.testing.assert_allclose(rates, [1e-2 * w * d for w, d in zip(warmup, decay, strict=True)], rtol=1e-6)


@pytest.mark.parametrize("spoil", [float("nan"), float("inf"), 1e38])
@pytest.mark.parametrize("where", ["gradient", "loss"])
@pytest.mark.parametrize("first", [True, False])
def test_what_is_not_finite_changes_nothing(spoil, where, first):
    """1e38 is finite, but its square is not, so neither is the norm."""
    params, optimizer = make(OptimizerConfig(learning_rate=1e-2, warmup=3))
    twins, other = make(OptimizerConfig(learning_rate=1e-2, warmup=3))
    for n in range(0 if first else 4):
        step(params, optimizer, random_grads(n))
        step(twins, other, random_grads(n))
    grads, loss = random_grads(7), torch.tensor(1.0)
    if where == "gradient":
        grads[2][1, 0, 1] = spoil
    else:
        loss = torch.tensor(spoil) * 10
    for param, grad in zip(params, grads, strict=True):
        param.grad = grad
    assert optimizer.step(loss=loss)["skipped"] == 1
    for n in (8, 9):
        assert (
            step(params, optimizer, random_grads(n))["skipped"] == step(twins, other, random_grads(n))["skipped"] == 0
        )
    for mine, theirs in zip(
        (*params, *optimizer.state_dict().values()), (*twins, *other.state_dict().values()), strict=True
    ):
        assert torch.equal(mine, theirs)
