"""Layers: initialization, normalization, block-diagonal maps, structs of tensors."""

import dataclasses
import math

import pytest
import torch

from dreamer.dynamics.cells import BlockGRU
from dreamer.nn.layers import MLP, BlockLinear, Linear, RMSNorm, init_weight_
from dreamer.nn.struct import Struct


def test_initialization_has_unit_gain_and_is_truncated_at_two_standard_deviations():
    """Pitfall 41: truncation in standard deviations of the draw, not at an absolute 2; fan-in, not the fan average."""
    torch.manual_seed(0)
    weight = init_weight_(torch.empty(1000, 1000), fan_in=100)
    assert weight.std().item() == pytest.approx(0.1, rel=3e-3)
    assert abs(weight.mean().item()) < 5e-4
    limit = 2.2737 * 0.1
    assert 0.99 * limit < weight.abs().max().item() <= limit


def test_linear_scales_with_its_inputs_and_starts_without_bias():
    """Pitfall 41: the standard deviation depends on the number of inputs alone."""
    torch.manual_seed(0)
    for outputs in (50, 2000):
        layer = Linear(400, outputs)
        assert layer.weight.std().item() == pytest.approx(1 / 20, rel=0.03)
        assert not layer.bias.any()
    assert Linear(400, 200, scale=0.01).weight.std().item() == pytest.approx(0.01 / 20, rel=0.03)
    assert not Linear(400, 200, scale=0.0).weight.any()


def test_block_kernels_use_the_fan_in_of_the_whole_input():
    """Pitfall 40: dividing the fan-in by the number of blocks would make these kernels sqrt(8) times larger."""
    torch.manual_seed(0)
    assert BlockLinear(512, 1536, 8).weight.std().item() == pytest.approx(1 / math.sqrt(512), rel=0.02)
    cell = BlockGRU(deter=512, hidden=64, stoch=12, action=6, blocks=8)
    expected = 1 / math.sqrt(512 + 8 * 3 * 64)
    assert cell.recurrent.weight.std().item() == pytest.approx(expected, rel=0.02)
    assert cell.shared.std().item() == pytest.approx(expected, rel=0.02)


def test_block_linear_maps_each_slice_by_its_own_kernel():
    layer = BlockLinear(6, 4, blocks=2)
    torch.nn.init.normal_(layer.bias)
    dense = torch.block_diag(*layer.weight.detach())
    x = torch.randn(5, 6)
    torch.testing.assert_close(layer(x), x @ dense + layer.bias)
    assert sum(p.numel() for p in layer.parameters()) == 6 * 4 // 2 + 4


@pytest.mark.parametrize("sizes", [(6, 5, 2), (5, 6, 2)])
def test_block_linear_refuses_sizes_that_do_not_divide(sizes):
    with pytest.raises(ValueError, match="multiples of 2 blocks"):
        BlockLinear(*sizes)


def test_norm_divides_by_the_root_mean_square_with_a_small_epsilon():
    """Pitfall 42: epsilon is 1e-4 inside the root; there is a scale and no shift, and the mean is not subtracted."""
    norm = RMSNorm(8)
    torch.testing.assert_close(norm(torch.full((2, 8), 1e-3)), torch.full((2, 8), 0.09950372))
    x = torch.randn(3, 8) + 5
    torch.testing.assert_close(norm(x), x / (x.square().mean(-1, keepdim=True) + 1e-4).sqrt())
    assert [name for name, _ in norm.named_parameters()] == ["scale"]
    torch.nn.init.constant_(norm.scale, 3.0)
    torch.testing.assert_close(norm(x), 3 * x / (x.square().mean(-1, keepdim=True) + 1e-4).sqrt())


def test_norm_has_a_finite_gradient_at_zero():
    x = torch.zeros(2, 4, requires_grad=True)
    (RMSNorm(4)(x) * torch.randn(2, 4)).sum().backward()
    assert x.grad.isfinite().all() and x.grad.any()


def test_norm_computes_in_float32_and_returns_the_type_it_was_given():
    x = torch.full((1, 1000), 0.1).bfloat16()
    y = RMSNorm(1000)(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), torch.ones(1, 1000), rtol=0.01, atol=0)


def test_mlp_is_linear_then_norm_then_silu():
    def plain(x, scale):
        normed = x / (x.square().mean(-1, keepdim=True) + 1e-4).sqrt() * scale
        return normed * normed.sigmoid()

    mlp = MLP(3, units=5, layers=2)
    x = torch.randn(4, 3)
    linear, norm = mlp[0], mlp[1]
    hidden = plain(x @ linear.weight.T + linear.bias, norm.scale)
    second, second_norm = mlp[2], mlp[3]
    second_hidden = plain(hidden @ second.weight.T + second.bias, second_norm.scale)
    torch.testing.assert_close(mlp(x), second_hidden)
    assert mlp.out_features == 5
    assert MLP(3, units=5, layers=0).out_features == 3


@dataclasses.dataclass(frozen=True)
class Pair(Struct):
    a: torch.Tensor
    b: torch.Tensor


def test_structs_are_handled_as_one_value():
    first, second = (Pair(torch.full((2, 3), value), torch.full((2, 1), value)) for value in (1.0, 2.0))
    stacked = Pair.stack([first, second], dim=1)
    assert stacked.a.shape == (2, 2, 3) and stacked.flatten().b.shape == (4, 1)
    torch.testing.assert_close(stacked[:, 1].a, second.a)
    chosen = first.where(torch.tensor([True, False]), second)
    assert chosen.a[:, 0].tolist() == [1.0, 2.0] and chosen.b[:, 0].tolist() == [1.0, 2.0]
    live = first.map(lambda x: x.requires_grad_())
    assert not live.detach().a.requires_grad and live.a.requires_grad


def test_selecting_a_struct_leaves_nothing_of_the_other():
    """Pitfall 8: multiplying by a mask would turn the not-a-number of a discarded state into one of the kept state."""
    good, bad = (Pair(torch.full((1, 2), value), torch.full((1, 1), value)) for value in (1.0, math.nan))
    assert good.where(torch.tensor([True]), bad).a.isfinite().all()
