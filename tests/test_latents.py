"""Stochastic latents and the balanced divergence: one contract for all, then what is special to each."""

import math

import pytest
import torch

from dreamer.dynamics.latents import CategoricalLatent, GaussianLatent, balanced_kl

LATENTS = {
    "categorical": lambda: CategoricalLatent(groups=5, classes=3),
    "gaussian": lambda: GaussianLatent(dim=7),
}


@pytest.fixture(params=LATENTS)
def latent(request):
    torch.manual_seed(0)
    return LATENTS[request.param]()


def classes_axis(latent):
    """The axis of `probs` that runs over classes, whatever the layout."""
    return 1 + latent.probs(torch.zeros(1, latent.num_params)).shape[1:].index(latent.classes)


# The contract of every latent


@pytest.mark.parametrize("batch", [(), (1,), (4,), (2, 1), (2, 3)])
def test_shapes(latent, batch):
    """Pitfall 52: axes of length 1 are axes."""
    left, right = torch.randn(2, *batch, latent.num_params)
    assert latent.sample(left).shape == latent.mode(left).shape == (*batch, latent.dim)
    assert latent.kl(left, right).shape == latent.entropy(left).shape == batch


def test_divergence_is_zero_only_between_equals(latent):
    left, right = torch.randn(2, 50, latent.num_params)
    torch.testing.assert_close(latent.kl(left, left), torch.zeros(50), atol=1e-6, rtol=0)
    assert (latent.kl(left, right) > 0.01).all()


def test_divergence_and_entropy_are_float32_and_finite_for_extreme_parameters(latent):
    extreme = torch.randn(20, latent.num_params) * 1e3
    for params in (extreme, extreme.bfloat16()):
        for value in (latent.kl(params, -params), latent.entropy(params)):
            assert value.dtype == torch.float32 and value.isfinite().all()


def test_equal_rows_draw_different_samples(latent):
    """Pitfall 59: the noise of one row is not that of another, nor that of the next call."""
    params = torch.zeros(64, latent.num_params)
    first, second = latent.sample(params), latent.sample(params)
    assert len(first.unique(dim=0)) > 16
    assert not torch.equal(first, second)
    torch.manual_seed(3)
    again = latent.sample(params)
    torch.manual_seed(3)
    assert torch.equal(latent.sample(params), again)


def test_samples_have_the_mean_of_the_distribution(latent):
    params = torch.randn(latent.num_params)
    mean = latent.probs(params).flatten() if isinstance(latent, CategoricalLatent) else latent.mean_std(params)[0]
    samples = latent.sample(params.expand(50_000, -1))
    torch.testing.assert_close(samples.mean(0), mean, atol=0.025, rtol=0)


def test_samples_pass_gradients_to_every_parameter(latent):
    params = torch.randn(3, latent.num_params, requires_grad=True)
    (latent.sample(params) * torch.randn(3, latent.dim)).sum().backward()
    assert (params.grad != 0).all()


def test_mode_is_deterministic(latent):
    params = torch.randn(4, latent.num_params)
    assert torch.equal(latent.mode(params), latent.mode(params))


# Categorical


def test_categorical_samples_are_one_hot_in_every_group():
    latent = CategoricalLatent(groups=5, classes=3)
    params = torch.randn(40, latent.num_params)
    for z in (latent.sample(params), latent.mode(params)):
        groups = z.view(latent.probs(params).shape)
        assert set(z.unique().tolist()) == {0.0, 1.0}
        assert (groups.sum(classes_axis(latent)) == 1).all()


def test_categorical_mode_is_the_most_likely_class():
    latent = CategoricalLatent(groups=5, classes=3)
    params = torch.randn(40, latent.num_params)
    probs = latent.probs(params)
    chosen = latent.mode(params).view(probs.shape)
    axis = classes_axis(latent)
    torch.testing.assert_close((chosen * probs).sum(axis), probs.amax(axis))


def test_every_class_keeps_its_share_of_the_uniform_mix():
    latent = CategoricalLatent(groups=1, classes=4)
    params = torch.tensor([1e4, 0.0, 0.0, 0.0])
    torch.testing.assert_close(latent.probs(params).flatten(), torch.tensor([0.9925, 0.0025, 0.0025, 0.0025]))
    samples = latent.sample(params.expand(100_000, 4))
    torch.testing.assert_close(samples.mean(0), torch.tensor([0.9925, 0.0025, 0.0025, 0.0025]), atol=1e-3, rtol=0)


def test_straight_through_gradient_is_that_of_the_mixed_probabilities():
    """Pitfall 20: not of the unmixed ones, not of a Gumbel softmax; the drawn sample does not matter."""
    latent = CategoricalLatent(groups=2, classes=3)
    params, weights = torch.randn(latent.num_params, requires_grad=True), torch.randn(latent.dim)
    (expected,) = torch.autograd.grad((latent.probs(params).flatten() * weights).sum(), params)
    samples = set()
    for seed in range(5):
        torch.manual_seed(seed)
        sample = latent.sample(params)
        samples.add(tuple(sample.tolist()))
        (gradient,) = torch.autograd.grad((sample * weights).sum(), params)
        torch.testing.assert_close(gradient, expected)
    assert len(samples) > 1
    unmixed = CategoricalLatent(groups=2, classes=3, unimix=0.0)
    torch.testing.assert_close(
        torch.autograd.grad((unmixed.probs(params).flatten() * weights).sum(), params)[0] * 0.99, expected
    )


def test_categorical_divergence_and_entropy_match_the_definition():
    """Pitfall 18: of the mixed probabilities, summed over groups."""
    latent = CategoricalLatent(groups=5, classes=3)
    left, right = torch.randn(2, 6, latent.num_params)
    axis = classes_axis(latent)
    p, q = (torch.distributions.Categorical(probs=latent.probs(params).movedim(axis, -1)) for params in (left, right))
    torch.testing.assert_close(latent.kl(left, right), torch.distributions.kl_divergence(p, q).sum(-1))
    torch.testing.assert_close(latent.entropy(left), p.entropy().sum(-1))


# Gaussian


def test_gaussian_divergence_entropy_and_std_match_the_definition():
    latent = GaussianLatent(dim=7)
    left, right = torch.randn(2, 6, latent.num_params)
    p, q = (torch.distributions.Normal(*latent.mean_std(params)) for params in (left, right))
    torch.testing.assert_close(latent.kl(left, right), torch.distributions.kl_divergence(p, q).sum(-1))
    torch.testing.assert_close(latent.entropy(left), p.entropy().sum(-1))
    std = latent.mean_std(torch.zeros(latent.num_params))[1]
    torch.testing.assert_close(std, torch.full((7,), math.log(2) + 0.1))
    assert latent.mean_std(torch.full((latent.num_params,), -100.0))[1].min().item() == pytest.approx(0.1)


# Balanced divergence


def parameters_with_divergence(latent, nats):
    """Posterior parameters of a Gaussian latent at given divergences from the standard prior, and that prior."""
    prior = torch.zeros(len(nats), latent.num_params)
    std = latent.mean_std(prior)[1]
    posterior = prior.clone()
    posterior[:, 0] = std[:, 0] * torch.sqrt(2 * torch.tensor(nats))
    return posterior, prior


def test_free_nats_apply_to_each_row_before_the_mean():
    """Pitfall 17: the mean of max(KL, 1), not the max of the mean KL; below the limit there is no gradient at all."""
    latent = GaussianLatent(dim=2)
    posterior, prior = (params.requires_grad_() for params in parameters_with_divergence(latent, [0.2, 3.0]))
    terms, metrics = balanced_kl(latent, posterior, prior, free_nats=1.0)
    assert terms["dyn"].tolist() == pytest.approx([1.0, 3.0], rel=1e-5)
    assert terms["rep"].tolist() == pytest.approx([1.0, 3.0], rel=1e-5)
    assert terms["dyn"].mean().item() == pytest.approx(2.0, rel=1e-5)
    assert metrics["model/kl_dyn"].item() == pytest.approx(1.6, rel=1e-5)
    (terms["dyn"] + terms["rep"]).mean().backward()
    for params in (posterior, prior):
        assert not params.grad[0].any() and params.grad[1].any()


def test_free_nats_apply_to_the_sum_over_groups():
    """Pitfall 17: 32 groups of 0.05 nats are 1.6 nats, above the limit although every group is below it."""
    latent = CategoricalLatent(groups=32, classes=2, unimix=0.0)
    low, high = 0.0, 2.0
    for _ in range(60):
        middle = (low + high) / 2
        p = torch.tensor([middle, 0.0], dtype=torch.float64).softmax(-1)
        nats = (p * (p * 2).log()).sum().item()
        low, high = (middle, high) if nats < 0.05 else (low, middle)
    shape = latent.probs(torch.zeros(64)).shape
    posterior = torch.zeros(shape)
    posterior.select(shape.index(2), 0).fill_(low)
    posterior = posterior.flatten().requires_grad_()
    terms, _ = balanced_kl(latent, posterior, torch.zeros(64), free_nats=1.0)
    assert terms["rep"].item() == pytest.approx(1.6, rel=1e-3)
    terms["rep"].backward()
    assert (posterior.grad != 0).all()


@pytest.mark.parametrize("name", LATENTS)
def test_each_term_trains_one_side(name):
    """Pitfall 19: `dyn` moves the prior toward the posterior, `rep` the posterior toward the prior."""
    latent = LATENTS[name]()
    for term, trained in (("dyn", "prior"), ("rep", "posterior")):
        params = {side: torch.randn(4, latent.num_params, requires_grad=True) for side in ("posterior", "prior")}
        terms, _ = balanced_kl(latent, params["posterior"], params["prior"], free_nats=0.0)
        terms[term].sum().backward()
        for side, value in params.items():
            assert (value.grad is not None and bool(value.grad.any())) == (side == trained)
