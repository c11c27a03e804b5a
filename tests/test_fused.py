"""What is written out for speed equals the plain composition that defines it, values and gradients."""

import pytest
import torch
import torch.nn.functional as F
from tiny import CONTINUOUS, DISCRETE, awaken, make_agent, make_batch

from dreamer.behavior.imagination import imagine, imagine_fast
from dreamer.dynamics.cells import BlockGRU
from dreamer.nn import fused
from dreamer.nn.distributions import symexp_bins, two_hot_loss, two_hot_mean
from dreamer.nn.layers import MLP, JointLinear, RMSNorm

BINS = symexp_bins()


@pytest.fixture(params=[2, 1024], ids=["chunks of two rows", "one chunk"])
def chunks(request, monkeypatch):
    """Five rows make two full chunks and a rest."""
    monkeypatch.setattr(fused, "CACHED_ROWS", request.param)


def leaf(*shape, scale=1.0):
    return (torch.randn(*shape) * scale).requires_grad_()


def assert_same(left, right, inputs):
    """Equal values, and equal gradients of a random weighting of them."""
    torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-6)
    weights = torch.randn_like(left)
    found, expected = (torch.autograd.grad((value * weights).sum(), inputs) for value in (left, right))
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [1, 7, 64])
def test_norm_silu(size):
    torch.manual_seed(0)
    x, norm = leaf(3, 5, size), RMSNorm(size)
    torch.nn.init.normal_(norm.scale)
    plain = F.silu(norm(x))
    assert_same(fused.norm_silu(x, norm.scale), plain, [x, norm.scale])
    with torch.no_grad():
        torch.testing.assert_close(fused.norm_silu(x, norm.scale), plain)


def test_norm_silu_computes_in_float32_and_returns_the_type_it_was_given():
    x = torch.full((1, 1000), 0.1).bfloat16().requires_grad_()
    y = fused.norm_silu(x, torch.ones(1000))
    y.sum().backward()
    assert y.dtype == x.grad.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), F.silu(torch.ones(1, 1000)), rtol=0.01, atol=0)


def test_a_linear_map_whose_value_is_known():
    torch.manual_seed(0)
    x, linear = torch.randn(4, 3, 6), torch.nn.Linear(6, 5)
    plain = linear(x)
    known = fused.known_linear(x, linear.weight, linear.bias, plain.detach().clone())
    assert_same(known, plain, [linear.weight, linear.bias])


def test_joint_first_layers_are_those_of_each_network():
    torch.manual_seed(0)
    mlps, x = [MLP(6, units, layers=2) for units in (3, 5)], torch.randn(4, 6)
    for mlp, first in zip(mlps, JointLinear(mlps)(x), strict=True):
        torch.testing.assert_close(first, mlp[0](x))
        torch.testing.assert_close(mlp(x, first), mlp(x))


@pytest.mark.usefixtures("chunks")
def test_value_of_a_two_hot_head():
    torch.manual_seed(0)
    hidden, weight, bias = torch.randn(5, 3, 8), torch.randn(255, 8) * 0.1, torch.randn(255) * 0.1
    bias[:100] = bias[155:] = -20.0
    expected = two_hot_mean(F.linear(hidden, weight, bias), BINS)
    torch.testing.assert_close(fused.two_hot_value(hidden, weight, bias, BINS), expected, rtol=1e-4, atol=1e-4)
    constant = torch.full((255,), 0.3)
    assert not fused.two_hot_value(hidden, torch.zeros_like(weight), constant, BINS).any(), "pitfall 22: exactly zero"


@pytest.mark.usefixtures("chunks")
def test_errors_of_a_two_hot_head():
    torch.manual_seed(0)
    hidden, weight, bias = leaf(5, 3, 8), leaf(255, 8), leaf(255)
    first, second = torch.randn(5, 3) * 10, torch.randn(5, 3)
    first[0] = torch.tensor([1e9, -1e9, 0.0])  # both ends, and a bin's own position
    logits = F.linear(hidden, weight, bias)
    plain = two_hot_loss(logits, first, BINS) + 0.7 * two_hot_loss(logits, second, BINS)
    errors = fused.two_hot_errors(hidden, weight, bias, BINS, [(first, 1.0), (second, 0.7)])
    assert_same(errors, plain, [hidden, weight, bias])


def test_equal_targets_add_up():
    """Both codes mark the same two bins, which must not overwrite each other."""
    hidden, weight, bias = leaf(4, 8), leaf(255, 8), leaf(255)
    target = torch.full((4,), 0.5)
    plain = 2 * two_hot_loss(F.linear(hidden, weight, bias), target, BINS)
    errors = fused.two_hot_errors(hidden, weight, bias, BINS, [(target, 1.0), (target, 1.0)])
    assert_same(errors, plain, [hidden, weight, bias])


@pytest.mark.parametrize("blocks", [1, 4])
def test_block_gru_without_gradients(blocks):
    torch.manual_seed(0)
    cell = BlockGRU(deter=16, hidden=6, stoch=10, action=3, blocks=blocks)
    awaken(cell)
    deter, stoch, action = torch.randn(5, 16), torch.randn(5, 10), cell.project_action(torch.randn(5, 3))
    expected = cell(deter, stoch, action)
    with torch.no_grad():
        torch.testing.assert_close(cell(deter, stoch, action), expected)


@pytest.mark.parametrize("latent", ["categorical", "gaussian"])
@pytest.mark.parametrize("action", [CONTINUOUS, DISCRETE], ids=["continuous", "discrete"])
def test_fast_imagination(latent, action):
    agent = make_agent({"dynamics.latent": latent, "behavior.return_ema_rate": 1.0}, action)
    awaken(agent)
    batch = make_batch(agent)
    world_model, actor_critic = agent.world_model, agent.actor_critic
    start, policy = world_model.observe(batch).detach().flatten(), actor_critic.policy(sample=True)
    with torch.no_grad():
        torch.manual_seed(1)
        plain = imagine(world_model, policy, start, 4)
    torch.manual_seed(1)
    fast = imagine_fast(world_model, policy, actor_critic.readers, start, 4)
    for name in ("features", "action", "reward", "discount"):
        torch.testing.assert_close(getattr(fast, name), getattr(plain, name), rtol=1e-4, atol=1e-4)
    assert fast.first.keys() == actor_critic.readers.keys()
    for name, mlp in actor_critic.readers.items():
        torch.testing.assert_close(fast.first[name], mlp[0](plain.features), rtol=1e-4, atol=1e-5)

    losses = [actor_critic.losses(trajectory)[0] for trajectory in (plain, fast)]
    for name in ("actor", "critic"):
        trained = list(getattr(actor_critic, name).parameters())
        mine, theirs = (torch.autograd.grad(terms[name].mean(), trained) for terms in losses[::-1])
        for left, right in zip(mine, theirs, strict=True):
            torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-5)
