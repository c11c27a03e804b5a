"""Lambda-returns against their definitions, and the scale of returns."""

import numpy as np
import pytest
import torch

from dreamer.behavior.returns import ReturnNormalizer, lambda_return, replay_return

DISCOUNT = 332 / 333


def imagined(starts=4, horizon=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    reward, value = torch.randn(2, starts, horizon + 1, generator=generator, dtype=torch.float64)
    return reward, torch.rand(starts, horizon + 1, generator=generator, dtype=torch.float64), value


def n_step(reward, discount, value, i, n):
    """r_{i+1} + c_{i+1} r_{i+2} + ... + c_{i+1} ... c_{i+n} v_{i+n}, summed term by term."""
    total, factor = 0.0, 1.0
    for k in range(1, n + 1):
        total += factor * reward[i + k]
        factor *= discount[i + k]
    return total + factor * value[i + n]


@pytest.mark.parametrize("lambda_", [0.0, 0.5, 0.95, 1.0])
def test_lambda_return_is_the_weighted_sum_of_n_step_returns(lambda_):
    """Pitfall 3: against the O(horizon^2) definition."""
    data = imagined()
    returns = lambda_return(*data, lambda_)
    horizon = data[0].shape[1] - 1
    assert returns.shape == (4, horizon)
    for b in range(4):
        row = [x[b].tolist() for x in data]
        for i in range(horizon):
            longest = horizon - i
            weights = [(1 - lambda_) * lambda_ ** (n - 1) for n in range(1, longest)] + [lambda_ ** (longest - 1)]
            expected = sum(w * n_step(*row, i, n) for n, w in enumerate(weights, 1))
            assert returns[b, i].item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_lambda_zero_and_one():
    """Pitfall 3: one step of bootstrap, and Monte Carlo with a bootstrap at the end."""
    reward, discount, value = imagined()
    torch.testing.assert_close(
        lambda_return(reward, discount, value, 0.0), reward[:, 1:] + discount[:, 1:] * value[:, 1:]
    )
    expected = value[:, -1]
    for i in reversed(range(6)):
        expected = reward[:, i + 1] + discount[:, i + 1] * expected
        torch.testing.assert_close(lambda_return(reward, discount, value, 1.0)[:, i], expected)


def test_reward_and_discount_of_the_start_are_not_used():
    """Pitfall 3: entry i of a trajectory belongs to the arrival at state i."""
    reward, discount, value = imagined()
    expected = lambda_return(reward, discount, value, 0.95)
    for x in (reward, discount, value):
        x[:, 0] = 1e6
    torch.testing.assert_close(lambda_return(reward, discount, value, 0.95), expected)


def test_rewards_for_ever_are_worth_the_discount_horizon():
    """Pitfalls 4 and 5: the discount enters exactly once, through the continuation."""
    ones = torch.ones(1, 16, dtype=torch.float64)
    value = 0.0
    for _ in range(400):
        value = lambda_return(ones, DISCOUNT * ones, value * ones, 0.95)[0, 0].item()
    assert value == pytest.approx(333, rel=1e-3)
    fixed = lambda_return(ones, DISCOUNT * ones, 333 * ones, 0.95)
    torch.testing.assert_close(fixed, torch.full_like(fixed, 333), rtol=1e-12, atol=0)
    last = torch.zeros(1, 16, dtype=torch.bool)
    replayed = replay_return(ones, last, last, 333 * ones, DISCOUNT, 0.95)
    torch.testing.assert_close(replayed, torch.full_like(replayed, 333), rtol=1e-6, atol=0)


def test_lambda_return_passes_gradients_to_rewards_and_values():
    """Pitfall 26: dynamics gradients need them."""
    data = [x.requires_grad_() for x in imagined()]
    lambda_return(*data, 0.95)[:, 0].sum().backward()
    for x in data:
        assert (x.grad[:, 1:] != 0).all() and not x.grad[:, 0].any()


# Replayed sequences


def replayed(batch=20, time=12, seed=0):
    rng = np.random.default_rng(seed)
    last = rng.random((batch, time)) < 0.25
    terminal = last & (rng.random((batch, time)) < 0.5)
    return rng.normal(size=(batch, time)), last, terminal, rng.normal(size=(batch, time))


def replay(reward, last, terminal, bootstrap):
    return replay_return(*map(torch.as_tensor, (reward, last, terminal, bootstrap)), DISCOUNT, 0.95).numpy()


def test_replay_return_matches_its_definition():
    """Pitfalls 6 and 7: from every row forward until the episode or the sequence ends."""
    reward, last, terminal, bootstrap = data = replayed()
    returns = replay(*data)
    for b in range(reward.shape[0]):
        for t in range(reward.shape[1] - 1):
            expected, factor = 0.0, 1.0
            for k in range(t + 1, reward.shape[1]):
                expected += factor * reward[b, k]
                if terminal[b, k]:
                    break
                factor *= DISCOUNT
                if last[b, k] or k == reward.shape[1] - 1:
                    expected += factor * bootstrap[b, k]
                    break
                expected += factor * (1 - 0.95) * bootstrap[b, k]
                factor *= 0.95
            assert returns[b, t] == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_time_limits_bootstrap_and_terminal_rows_do_not():
    """Pitfall 6: `done` is not `terminal`."""
    zeros, boot = np.zeros((1, 3)), np.full((1, 3), 7.0)
    last = np.array([[False, True, False]])
    assert replay(zeros, last, np.zeros_like(last), boot)[0, 0] == pytest.approx(DISCOUNT * 7)
    assert replay(zeros, last, last, boot)[0, 0] == 0


def test_returns_do_not_cross_the_end_of_an_episode():
    """Pitfall 7: nothing of the next episode enters the returns before the last row of this one."""
    reward, last, terminal, bootstrap = replayed()
    last[:, 5] = True
    expected = replay(reward, last, terminal, bootstrap)[:, :5]
    for x in (reward, bootstrap):
        x[:, 6:] = 1e9
    last[:, 6:] = terminal[:, 6:] = True
    np.testing.assert_array_equal(replay(reward, last, terminal, bootstrap)[:, :5], expected)


# Normalization


def test_percentiles_are_of_all_returns_of_the_update():
    """Pitfall 31: neither per trajectory nor weighted; linear interpolation as in NumPy."""
    torch.manual_seed(0)
    returns = torch.randn(8, 3, 15).exp()
    normalizer = ReturnNormalizer(rate=1.0)
    normalizer.update(returns)
    low, high = np.percentile(returns.double().numpy(), [5, 95])
    assert normalizer.low.item() == pytest.approx(low, rel=1e-5)
    assert normalizer.high.item() == pytest.approx(high, rel=1e-5)
    assert normalizer.scale.item() == pytest.approx(max(1.0, high - low), rel=1e-5)


def test_scale_never_amplifies_small_returns():
    """Pitfall 30: the scale is at least 1."""
    normalizer = ReturnNormalizer(rate=1.0)
    assert normalizer.scale.item() == 1
    normalizer.update(torch.linspace(0, 1e-3, 100))
    assert normalizer.scale.item() == 1


def test_normalizer_is_part_of_the_saved_state():
    """Pitfall 30: a resumed run continues with the same scale."""
    normalizer, other = ReturnNormalizer(), ReturnNormalizer()
    normalizer.update(torch.arange(1000.0))
    assert set(normalizer.state_dict()) == {"low", "high"}
    other.load_state_dict(normalizer.state_dict())
    assert other.scale.item() == normalizer.scale.item() > 1


@pytest.mark.parametrize("spoil", [float("nan"), float("inf"), -float("inf")])
def test_returns_that_are_not_finite_leave_the_range_alone(spoil):
    normalizer = ReturnNormalizer()
    normalizer.update(torch.linspace(-50, 100, 30))
    before = normalizer.low.clone(), normalizer.high.clone()
    normalizer.update(torch.tensor([spoil] * 5 + [1.0] * 5))
    assert torch.equal(normalizer.low, before[0]) and torch.equal(normalizer.high, before[1])
