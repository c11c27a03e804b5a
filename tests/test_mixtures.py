"""Mixtures of Gaussians: their density against scipy, their samples against their density, and safety at the edges."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from dreamer.dynamics.mixtures import GaussianMixture

KINDS = [True, False]


def mixture_of(weights, means, stds, joint, min_std=0.01):
    """The mixture and the parameters that give it these weights `[K, 1 or dim]`, means and stds `[K, dim]`."""
    weights, means, stds = (torch.tensor(value, dtype=torch.float32) for value in (weights, means, stds))
    mixture = GaussianMixture(means.shape[1], len(means), joint, min_std)
    raw = torch.log(torch.expm1(stds - min_std))
    return mixture, torch.cat([weights.log().flatten(), means.flatten(), raw.flatten()])


TWO = {"weights": [[0.3], [0.7]], "means": [[-1.0, 2.0], [1.0, 0.5]], "stds": [[0.5, 0.2], [0.1, 1.0]]}


def test_joint_density_is_a_sum_over_whole_vectors():
    """Pitfall 51: the weights enter as logarithms."""
    mixture, params = mixture_of(**TWO, joint=True)
    value = np.array([[-0.8, 1.9], [1.1, 0.0], [0.0, 0.0]])
    density = sum(
        w[0] * stats.norm.pdf(value, m, s).prod(-1)
        for w, m, s in zip(TWO["weights"], TWO["means"], TWO["stds"], strict=True)
    )
    found = mixture.log_prob(params.expand(3, -1), torch.tensor(value).float())
    np.testing.assert_allclose(found, np.log(density), rtol=1e-4)


def test_density_per_dimension_is_a_product_of_sums():
    weights = [[0.3, 0.9], [0.7, 0.1]]
    mixture, params = mixture_of(weights, TWO["means"], TWO["stds"], joint=False)
    value = np.array([[-0.8, 1.9], [1.1, 0.0], [0.0, 0.0]])
    density = sum(
        np.array(w) * stats.norm.pdf(value, m, s) for w, m, s in zip(weights, TWO["means"], TWO["stds"], strict=True)
    ).prod(-1)
    found = mixture.log_prob(params.expand(3, -1), torch.tensor(value).float())
    np.testing.assert_allclose(found, np.log(density), rtol=1e-4)


@pytest.mark.parametrize("joint", KINDS)
def test_one_component_is_a_gaussian(joint):
    """Pitfall 51."""
    mixture, params = mixture_of([[1.0]] if joint else [[1.0, 1.0]], [[0.5, -2.0]], [[0.3, 2.0]], joint)
    expected = stats.norm.logpdf([0.0, 1.0], [0.5, -2.0], [0.3, 2.0]).sum()
    assert mixture.log_prob(params, torch.tensor([0.0, 1.0])).item() == pytest.approx(expected, rel=1e-4)


def test_samples_follow_the_density_and_joint_numbers_stay_together():
    mixture, params = mixture_of([[0.3], [0.7]], [[-5.0, 5.0], [5.0, -5.0]], [[0.5, 0.2], [0.1, 1.0]], joint=True)
    torch.manual_seed(0)
    samples = mixture.sample(params.expand(20_000, -1))
    first = samples[:, 0] < 0
    assert first.float().mean().item() == pytest.approx(0.3, abs=0.015)
    assert ((samples[:, 1] > 0) == first).all()
    assert samples[first].std(0).tolist() == pytest.approx([0.5, 0.2], rel=0.05)
    assert samples[~first].mean(0).tolist() == pytest.approx([5.0, -5.0], abs=0.05)


def test_numbers_of_a_mixture_per_dimension_are_independent():
    mixture, params = mixture_of([[0.5, 0.5], [0.5, 0.5]], [[-5.0, 5.0], [5.0, -5.0]], [[0.1, 0.1]] * 2, joint=False)
    torch.manual_seed(0)
    signs = mixture.sample(params.expand(20_000, -1)).sign()
    assert abs((signs[:, 0] * signs[:, 1]).mean().item()) < 0.03


@pytest.mark.parametrize("joint", KINDS)
def test_temperature_flattens_weights_and_widens_noise(joint):
    """Weights pi^(1/tau), renormalized; noise times sqrt(tau)."""
    mixture, params = mixture_of([[0.1], [0.9]], [[-50.0], [50.0]], [[1.0], [1.0]], joint)
    torch.manual_seed(0)
    for tau in (0.25, 1.0, 4.0):
        samples = mixture.sample(params.expand(20_000, -1), tau)
        low = samples < 0
        expected = 0.1 ** (1 / tau) / (0.1 ** (1 / tau) + 0.9 ** (1 / tau))
        assert low.float().mean().item() == pytest.approx(expected, abs=0.015)
        assert samples[~low].std().item() == pytest.approx(math.sqrt(tau), rel=0.05)


@pytest.mark.parametrize("joint", KINDS)
def test_gradients_are_finite_far_away_and_where_nothing_varies(joint):
    """A value 1e6 away, and a number that is the same in every row."""
    torch.manual_seed(0)
    mixture = GaussianMixture(3, 5, joint, 0.01)
    values = torch.randn(64, 3)
    values[:, 0] = 2.0
    values[:8] += 1e6
    layer = nn.Linear(4, mixture.num_params)
    inputs = torch.randn(64, 4, requires_grad=True)
    loss = -mixture.log_prob(layer(inputs), values)
    assert loss.dtype == torch.float32
    loss.mean().backward()
    for grad in (inputs.grad, layer.weight.grad, layer.bias.grad):
        assert grad.isfinite().all() and grad.any()


def test_a_constant_number_is_learned_down_to_the_floor():
    """Without the floor its density would grow for ever."""
    torch.manual_seed(0)
    mixture = GaussianMixture(1, 2, True, 0.05)
    params = nn.Parameter(torch.randn(mixture.num_params))
    optimizer = torch.optim.Adam([params], 0.05)
    for _ in range(1500):
        loss = -mixture.log_prob(params, torch.tensor([1.5]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    best = -stats.norm.logpdf(0, 0, 0.05)
    assert best - 1e-3 <= loss.item() <= best + 0.3


def test_half_precision_parameters_are_computed_in_float32():
    mixture = GaussianMixture(2, 3, True, 0.01)
    params, value = torch.randn(mixture.num_params).bfloat16(), torch.randn(2).bfloat16()
    assert mixture.log_prob(params, value).dtype == torch.float32


def test_entropy_of_the_weights():
    mixture, params = mixture_of([[0.5], [0.5]], [[0.0], [0.0]], [[1.0], [1.0]], joint=True)
    assert mixture.weight_entropy(params).item() == pytest.approx(math.log(2), rel=1e-5)
    mixture, params = mixture_of([[1.0], [1e-9]], [[0.0], [0.0]], [[1.0], [1.0]], joint=True)
    assert mixture.weight_entropy(params).item() == pytest.approx(0.0, abs=1e-6)
