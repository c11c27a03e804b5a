"""Scalar transforms, two-hot scalars, and the distributions of actions."""

import math

import numpy as np
import pytest
import torch

from dreamer.nn.distributions import (
    BoundedNormal,
    OneHot,
    one_hot_argmax,
    sample_scores,
    symexp,
    symexp_bins,
    symlog,
    two_hot,
    two_hot_loss,
    two_hot_mean,
)

BINS = symexp_bins()


# Scalars


def test_symlog_and_symexp_are_inverse():
    x = torch.tensor([-1e6, -3.0, -1e-3, 0.0, 1e-3, 1.0, 1e6])
    torch.testing.assert_close(symexp(symlog(x)), x, rtol=1e-5, atol=1e-9)
    assert symlog(torch.tensor([math.e - 1, 1 - math.e])).tolist() == pytest.approx([1.0, -1.0])
    assert symlog(torch.zeros(1)).item() == 0


def test_bins_are_antisymmetric_and_increasing():
    """Pitfall 22: an asymmetric pair would make the first prediction differ from 0."""
    assert torch.equal(BINS + BINS.flip(0), torch.zeros(255))
    assert (BINS.diff() > 0).all()
    with pytest.raises(ValueError, match="odd"):
        symexp_bins(254)


@pytest.mark.parametrize("constant", [0.0, 3.7, -1e4])
def test_uniform_logits_decode_to_exactly_zero(constant):
    """Pitfall 22: the end bins are near 5e8, so a plain float32 sum leaves an error of order 1."""
    for shape in [(255,), (1, 255), (7, 16, 255)]:
        assert not two_hot_mean(torch.full(shape, constant), BINS).any()
    with torch.autocast("cpu", torch.bfloat16):
        assert not two_hot_mean(torch.full((3, 255), constant, dtype=torch.bfloat16), BINS).any()


def test_expectation_of_a_code_is_its_target():
    """Pitfall 21: exact in value space, over all magnitudes."""
    generator = torch.Generator().manual_seed(0)
    exponent = torch.rand(2000, generator=generator) * 22 - 4
    target = torch.sign(torch.randn(2000, generator=generator)) * torch.exp(exponent)
    target = target[target.abs() < 4.8e8]
    lower, upper, weight = two_hot(target, BINS)
    assert (upper == lower + 1).all() and (weight >= 0).all() and (weight <= 1).all()
    low, high = BINS[lower].double(), BINS[upper].double()
    mean = low + weight.double() * (high - low)
    error = (mean - target).abs() / target.abs().clamp(min=1e-3)
    assert error.max() < 1e-5 and error.median() < 1e-7


def test_codes_decode_to_their_targets():
    targets = torch.tensor([-1e5, -1.0, -0.3, 0.0, 0.5, 2.0, 1e3])
    torch.testing.assert_close(two_hot_mean(dense(targets).log(), BINS), targets, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("target", [1e9, -1e9, 3e38, -3e38, math.inf, -math.inf, *BINS[[0, 1, 126, 127, 254]].tolist()])
def test_saturated_and_exact_targets_keep_their_mass(target):
    """Pitfall 23: no lost mass and no not-a-number at the ends and at the bins themselves."""
    code = dense(torch.tensor([target]))
    assert code.sum().item() == pytest.approx(1.0) and code.max().item() == pytest.approx(1.0)
    nearest = (BINS - torch.tensor(target).clamp(BINS[0], BINS[-1])).abs().argmin()
    assert code[0].argmax() == nearest
    logits = torch.zeros(1, 255, requires_grad=True)
    loss = two_hot_loss(logits, torch.tensor([target]), BINS)
    assert loss.item() == pytest.approx(math.log(255), rel=1e-6)
    loss.sum().backward()
    assert logits.grad.isfinite().all()


def test_loss_is_the_cross_entropy_to_the_code():
    torch.manual_seed(0)
    logits = torch.randn(4, 6, 255, requires_grad=True)
    target = torch.randn(4, 6, requires_grad=True)
    loss = two_hot_loss(logits, target, BINS)
    code = dense(target.detach())
    torch.testing.assert_close(loss, -(code * logits.log_softmax(-1)).sum(-1))
    loss.sum().backward()
    torch.testing.assert_close(logits.grad, logits.detach().softmax(-1) - code, atol=1e-6, rtol=1e-4)
    assert target.grad is None


def dense(target):
    """Two-hot codes of numbers as vectors over the bins."""
    lower, upper, weight = two_hot(target, BINS)
    code = torch.zeros(*target.shape, 255)
    code.scatter_add_(-1, lower.unsqueeze(-1), 1 - weight.unsqueeze(-1))
    return code.scatter_add_(-1, upper.unsqueeze(-1), weight.unsqueeze(-1))


# Continuous actions


def policy(mean=0.3, raw_std=-1.0, dims=1):
    return BoundedNormal.from_params(torch.full((dims,), mean), torch.full((dims,), raw_std))


def test_density_integrates_to_one():
    """Pitfall 34: a squashed sample with the density of the unsquashed one would not."""
    grid = torch.linspace(-8, 8, 20001).unsqueeze(-1)
    density = policy().log_prob(grid).exp()
    assert torch.trapezoid(density, grid[:, 0]).item() == pytest.approx(1.0, abs=1e-5)


def test_entropy_is_the_mean_surprise_of_samples():
    """Pitfall 34: entropy belongs to the distribution that is sampled, and sums over dimensions."""
    torch.manual_seed(0)
    distribution = BoundedNormal.from_params(torch.tensor([[0.3, -2.0]]), torch.tensor([[-1.0, 3.0]]))
    repeated = distribution[torch.zeros(200_000, dtype=torch.int64)]
    surprise = -repeated.log_prob(repeated.sample())
    assert surprise.mean().item() == pytest.approx(distribution.entropy().item(), abs=0.01)


def test_log_prob_matches_the_normal_distribution():
    distribution = policy(dims=3)
    action = torch.randn(5, 3)
    expected = torch.distributions.Normal(distribution.mean, distribution.std).log_prob(action).sum(-1)
    torch.testing.assert_close(distribution.log_prob(action), expected)


def test_samples_are_not_squashed_and_parameters_are_bounded():
    """Pitfall 35: sampled actions may exceed 1; only the environment and the model bound them."""
    torch.manual_seed(0)
    extreme = BoundedNormal.from_params(torch.tensor([-50.0, 50.0]), torch.tensor([-50.0, 50.0]))
    assert extreme.mean.tolist() == [-1.0, 1.0] and extreme.mode().tolist() == [-1.0, 1.0]
    assert extreme.std.tolist() == pytest.approx([0.1, 1.0])
    samples = BoundedNormal.from_params(torch.full((1000, 1), 50.0), torch.full((1000, 1), 50.0)).sample()
    assert samples.mean().item() == pytest.approx(1.0, abs=0.15) and samples.max() > 2
    custom = BoundedNormal.from_params(torch.zeros(1), torch.tensor([-50.0]), min_std=0.3, max_std=0.7)
    assert custom.std.item() == pytest.approx(0.3)


def test_continuous_samples_pass_gradients_to_the_parameters():
    """Pitfall 26: back-propagation through actions needs the reparameterized sample."""
    raw = torch.zeros(2, 3, requires_grad=True)
    BoundedNormal.from_params(raw[0], raw[1]).sample().sum().backward()
    assert (raw.grad != 0).all()


# Discrete actions


def test_one_hot_samples_follow_the_probabilities():
    torch.manual_seed(0)
    logits = torch.tensor([2.0, 0.0, -1.0, 1.0])
    distribution = OneHot.from_logits(logits.expand(100_000, 4))
    samples = distribution.sample()
    assert torch.equal(samples.sum(-1), torch.ones(100_000)) and set(samples.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(samples.mean(0), logits.softmax(-1), atol=0.006, rtol=0)


def test_rare_classes_keep_their_probability():
    torch.manual_seed(0)
    probs = torch.tensor([1e-3, 1 - 1e-3]).expand(300_000, 2)
    assert one_hot_argmax(sample_scores(probs))[:, 0].mean().item() == pytest.approx(1e-3, rel=0.25)


def test_one_hot_log_prob_entropy_and_mode():
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 0.0, 0.0]])
    distribution = OneHot.from_logits(logits)
    reference = torch.distributions.Categorical(logits=logits)
    torch.testing.assert_close(distribution.entropy(), reference.entropy())
    for index in range(3):
        action = torch.eye(3)[index].expand(2, 3)
        torch.testing.assert_close(distribution.log_prob(action), reference.log_prob(torch.tensor([index, index])))
    assert distribution.mode()[0].tolist() == [1.0, 0.0, 0.0]


def test_uniform_mix_bounds_the_probabilities_from_below():
    distribution = OneHot.from_logits(torch.tensor([100.0, 0.0, 0.0, 0.0]), unimix=0.01)
    expected = [0.99 + 0.0025, 0.0025, 0.0025, 0.0025]
    np.testing.assert_allclose(distribution.log_probs.exp(), expected, rtol=1e-5)


def test_discrete_samples_carry_no_gradient():
    """Pitfall 27: a path-wise gradient through a sampled class does not exist."""
    logits = torch.randn(5, 3, requires_grad=True)
    assert not OneHot.from_logits(logits).sample().requires_grad
