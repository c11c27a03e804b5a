"""The golden numbers of the published algorithm, each computed by our functions."""

import pytest
import torch

from dreamer.behavior.returns import ReturnNormalizer, lambda_return, replay_return
from dreamer.dynamics.cells import BlockGRU
from dreamer.dynamics.latents import CategoricalLatent
from dreamer.nn.distributions import BoundedNormal, symexp_bins, two_hot
from dreamer.nn.optim import LaProp, OptimizerConfig
from dreamer.world_model.world_model import WorldModelConfig

DISCOUNT = 332 / 333


def code(target):
    """The two-hot code of a number as a dense vector over the bins."""
    lower, upper, weight = two_hot(torch.tensor([target]), symexp_bins())
    dense = torch.zeros(255, dtype=torch.float64)
    dense[lower] += 1 - weight.double()
    dense[upper] += weight.double()
    return dense


def test_bins():
    """Pitfall 21: the positions are exponentially spaced."""
    bins = symexp_bins().double()
    assert len(bins) == 255
    assert bins[0].item() == pytest.approx(-485165194.4097903, rel=1e-7)
    assert bins[1].item() == pytest.approx(-414473535.0559823, rel=1e-7)
    assert bins[127] == 0
    expected = [-0.170557715, 0.0, 0.170557715, 0.370205365, 0.6039044613]
    assert bins[126:131].tolist() == pytest.approx(expected, abs=1e-8, rel=1e-7)


@pytest.mark.parametrize(
    ("target", "low", "weight_low"),
    [
        (0.0, 127, 1.0),
        (0.1, 127, 0.4136882),
        (0.5, 129, 0.4446079),
        (1.0, 131, 0.6173291),
        (-1.0, 122, 0.3826709),
        (10.0, 142, 0.7869630),
        (1e9, 253, 0.0),
    ],
)
def test_two_hot_codes(target, low, weight_low):
    """Pitfall 21: interpolation is linear in value space, not in symlog space."""
    expected = torch.zeros(255, dtype=torch.float64)
    expected[low], expected[low + 1] = weight_low, 1 - weight_low
    torch.testing.assert_close(code(target), expected, atol=3e-7, rtol=0)


def test_lambda_return_and_weights():
    """Pitfalls 3 and 32: indices of reward, continuation and value, and the weights of imagined states."""
    reward, discount, value = (
        torch.tensor([row], dtype=torch.float64) for row in ([9, 1, 2, 3], [0.9, 0.8, 0.7, 0.6], [10, 20, 30, 40])
    )
    returns = lambda_return(reward, discount, value, 0.95)
    torch.testing.assert_close(
        returns, torch.tensor([[17.7638, 21.005, 27.0]], dtype=torch.float64), rtol=1e-12, atol=0
    )


def test_replay_return():
    """Pitfalls 6 and 7: a time limit bootstraps from its own row, a terminal row ends the return."""
    flags = torch.tensor([[0, 0, 1, 0, 1], [0, 0, 0, 0, 1]], dtype=torch.bool)
    reward, bootstrap = torch.tensor([[0, 1, 2, 3, 4], [10, 11, 12, 13, 14]], dtype=torch.float64)
    returns = replay_return(reward[None], flags[:1], flags[1:], bootstrap[None], DISCOUNT, 0.95)
    expected = [14.774276979682384, 13.963963963963963, 7.436636636636637, 4.0]
    assert returns[0].tolist() == pytest.approx(expected, rel=1e-7)


def test_laprop_updates():
    """Pitfall 39: the updates are LaProp's and not Adam's."""
    param = torch.nn.Parameter(torch.zeros(1))
    optimizer = LaProp([param], OptimizerConfig(learning_rate=1.0, warmup=0, clip=1e9))
    updates = []
    for gradient in (1.0, -2.0, 0.5):
        before = param.item()
        param.grad = torch.full_like(param, gradient)
        optimizer.step()
        updates.append(before - param.item())
    assert updates == pytest.approx([1, -0.1919585659, 0.0183551217], abs=2e-7)
    assert updates[1] != pytest.approx(-0.3661035270, abs=0.1)


@pytest.mark.parametrize(("weight", "gradient", "clipped"), [([3, 4], [6, 8], [0.9, 1.2]), ([0, 0], [1, 0], [3e-4, 0])])
def test_adaptive_gradient_clipping(weight, gradient, clipped):
    """Pitfall 38: gradients are clipped against the norm of their own tensor, with a floor for tensors near zero.

    An epsilon far above the gradient makes the first update equal the clipped gradient.
    """
    large = 1e8
    param = torch.nn.Parameter(torch.tensor(weight, dtype=torch.float32))
    optimizer = LaProp([param], OptimizerConfig(learning_rate=large, epsilon=large, warmup=0))
    param.grad = torch.tensor(gradient, dtype=torch.float32)
    optimizer.step()
    assert (torch.tensor(weight) - param).tolist() == pytest.approx(clipped, rel=1e-6, abs=1e-10)


@pytest.mark.parametrize(("unimix", "expected"), [(0.01, 0.5730656067), (0.0, 0.5852379920)])
def test_categorical_kl(unimix, expected):
    """Pitfall 18: the divergence is between the mixed probabilities."""
    latent = CategoricalLatent(groups=1, classes=4, unimix=unimix)
    kl = latent.kl(torch.tensor([2.0, 0.0, -1.0, 0.0]), torch.zeros(4))
    assert kl.item() == pytest.approx(expected, abs=1e-6)


def test_return_normalizer():
    """Pitfall 30: both percentiles start at 0 and are not debiased; the scale never falls below 1."""
    normalizer = ReturnNormalizer()
    seen = []
    for _ in range(3):
        normalizer.update(torch.arange(101.0))
        seen.append([normalizer.low.item(), normalizer.high.item(), normalizer.scale.item()])
    expected = [[0.05, 0.95, 1.0], [0.0995, 1.8905, 1.791], [0.148505, 2.821595, 2.67309]]
    torch.testing.assert_close(torch.tensor(seen), torch.tensor(expected), rtol=1e-6, atol=1e-6)


def test_bounded_normal_at_zero():
    """Pitfall 24: standard deviation and entropy of a policy whose outputs are zero."""
    distribution = BoundedNormal.from_params(torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64))
    assert distribution.std.item() == pytest.approx(0.8927173702, abs=1e-7)
    assert distribution.entropy().item() == pytest.approx(1.3054532902, abs=1e-6)
    bounds = BoundedNormal.from_params(torch.zeros(2, 1), torch.tensor([[-50.0], [50.0]])).entropy()
    assert bounds.tolist() == pytest.approx([-0.8836465, 1.4189385], abs=1e-6)


def test_update_gate_at_initialization():
    """Pitfall 43: with outputs of zero the block GRU keeps 1 - sigmoid(-1) of its state."""
    cell = BlockGRU(deter=4, hidden=2, stoch=3, action=2, blocks=2)
    torch.nn.init.zeros_(cell.gates.weight)
    deter = torch.randn(5, 4)
    torch.testing.assert_close(cell(deter, torch.randn(5, 3), torch.randn(5, 2)), deter * (1 - 0.2689414214))


def test_discount():
    assert WorldModelConfig().discount == pytest.approx(0.996996997, abs=1e-9)
