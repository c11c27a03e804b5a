"""Actor and critic on hand-made trajectories: losses, weights, normalization, the slow critic, and two bandits."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from tiny import CONTINUOUS, DISCRETE, awaken, make_agent, make_batch, unchecked

from dreamer.batch import ActionSpec, Trajectory
from dreamer.behavior.actor_critic import ActorCritic, ActorCriticConfig
from dreamer.behavior.returns import lambda_return
from dreamer.nn.distributions import two_hot
from dreamer.nn.optim import LaProp, OptimizerConfig
from dreamer.world_model.heads import HeadConfig

FEATURES = 4
STARTS, HORIZON = 6, 5
DISCOUNT = 332 / 333


def make(action=CONTINUOUS, seed=0, **changes):
    torch.manual_seed(seed)
    heads = {"actor": HeadConfig(units=8, layers=1), "critic": HeadConfig(units=8, layers=1)}
    return ActorCritic(ActorCriticConfig(**(heads | changes)), FEATURES, action)


def make_trajectory(actor_critic, seed=0, **fields):
    """Random features, rewards and discounts; actions drawn from the policy."""
    torch.manual_seed(seed)
    features = torch.randn(STARTS, HORIZON + 1, FEATURES)
    with torch.no_grad():
        action = actor_critic.policy(sample=True)(features[:, :-1])
    values = {"reward": torch.randn(STARTS, HORIZON + 1), "discount": torch.rand(STARTS, HORIZON + 1)}
    return Trajectory(**({"features": features, "action": action} | values | fields))


def tensors(trajectory):
    return {name: value for name, value in vars(trajectory).items() if isinstance(value, torch.Tensor)}


def set_value(head, value):
    """Make a scalar head predict a constant."""
    lower, upper, weight = two_hot(torch.tensor([value]), head.bins)
    probs = torch.zeros(len(head.bins))
    probs[lower], probs[upper] = 1 - weight, weight
    with torch.no_grad():
        head.output.weight.zero_()
        head.output.bias.copy_(probs.clamp(min=1e-30).log())


def gradients(loss, module):
    """Gradients by name of the trainable parameters; zeros where there is none."""
    params = {name: param for name, param in module.named_parameters() if param.requires_grad}
    found = torch.autograd.grad(loss, list(params.values()), allow_unused=True, retain_graph=True)
    return {name: torch.zeros_like(p) if g is None else g for (name, p), g in zip(params.items(), found, strict=True)}


# At initialization


def test_values_start_at_zero_and_the_policy_near_its_center():
    """Pitfall 24: zero-initialized critic, policy outputs scaled by 0.01."""
    actor_critic = make(actor=HeadConfig(units=64, layers=3))
    features = torch.randn(100, FEATURES)
    assert not actor_critic.critic(features).mean().any()
    policy = actor_critic.actor(features)
    assert 0 < policy.mean.abs().max().item() < 0.05
    torch.testing.assert_close(policy.std, torch.full((100, 2), 0.8927), atol=0.01, rtol=0)
    discrete = make(DISCRETE).actor(features)
    torch.testing.assert_close(discrete.log_probs.exp(), torch.full((100, 3), 1 / 3), atol=0.02, rtol=0)


def test_discrete_policies_can_be_mixed_with_a_uniform_one():
    actor_critic = make(DISCRETE, action_unimix=0.03)
    with torch.no_grad():
        actor_critic.actor.output.bias.copy_(torch.tensor([100.0, 0.0, 0.0]))
    probs = actor_critic.actor(torch.randn(1, FEATURES)).log_probs.exp()
    np.testing.assert_allclose(probs.detach()[0], [0.98, 0.01, 0.01], rtol=1e-4)


# Losses


@pytest.mark.parametrize("action", [CONTINUOUS, DISCRETE], ids=["continuous", "discrete"])
def test_losses_match_their_definition(action):
    """Pitfalls 3, 28, 32 and 36: every factor of both losses, written out."""
    actor_critic = make(action, return_ema_rate=1.0)
    awaken(actor_critic)
    trajectory = make_trajectory(actor_critic)
    terms, target, _ = actor_critic.losses(trajectory)

    critic, slow = actor_critic.critic, actor_critic.slow_critic
    value = critic(trajectory.features).mean()
    expected = lambda_return(trajectory.reward, trajectory.discount, value, 0.95)
    torch.testing.assert_close(target, expected, rtol=1e-5, atol=1e-5)
    low, high = np.percentile(expected.detach(), [5, 95])
    advantage = (expected - value[:, :-1]) / max(1.0, high - low)
    weight = trajectory.discount.cumprod(1)[:, :-1]
    states = trajectory.features[:, :-1]
    policy = actor_critic.actor(states)
    gain = policy.log_prob(trajectory.action) * advantage + 3e-4 * policy.entropy()
    torch.testing.assert_close(terms["actor"], -(weight * gain).mean(1), rtol=1e-4, atol=1e-6)
    errors = critic(states).cross_entropy((expected, 1.0), (slow(states).mean(), 1.0))
    torch.testing.assert_close(terms["critic"], (weight * errors).mean(1), rtol=1e-4, atol=1e-6)
    assert terms.keys() == {"actor", "critic"} and actor_critic.scales.keys() == {"actor", "critic", "replay_critic"}
    assert actor_critic.scales == {"actor": 1.0, "critic": 1.0, "replay_critic": 0.3}


@pytest.mark.parametrize("gradient", ["reinforce", "dynamics", "both"])
def test_each_term_trains_its_own_network(gradient):
    """Pitfall 25: the actor's loss does not train the critic, nor the critic's the actor."""
    actor_critic = make(actor_gradient=gradient)
    awaken(actor_critic)
    terms, _, _ = actor_critic.losses(make_trajectory(actor_critic))
    for term, own in (("actor", "actor"), ("critic", "critic")):
        found = gradients(terms[term].mean(), actor_critic)
        trained = {name.split(".")[0] for name, gradient in found.items() if gradient.any()}
        assert trained == {own}


def test_policy_gradient_is_the_score_function():
    """Pitfall 28: weight * advantage * (a - mean) / std^2 and no path-wise term, in one dimension."""
    actor_critic = make(ActionSpec(1, discrete=False), entropy=0.0, return_ema_rate=1.0)
    trajectory = make_trajectory(actor_critic)
    terms, target, _ = actor_critic.losses(trajectory)
    found = gradients(terms["actor"].mean(), actor_critic.actor)["output.bias"]
    policy = actor_critic.actor(trajectory.features[:, :-1])
    weight = trajectory.discount.cumprod(1)[:, :-1] * target / actor_critic.normalizer.scale
    distance = (trajectory.action - policy.mean)[..., 0]
    slope = 1 - policy.mean[..., 0] ** 2
    torch.testing.assert_close(found[0], -(weight * distance / policy.std[..., 0] ** 2 * slope).mean())


def test_entropy_is_rewarded_in_units_of_normalized_return():
    """The entropy's weight is not divided by the scale of returns."""
    results = []
    for scale in (1.0, 1000.0):
        actor_critic = make(return_ema_rate=1.0)
        trajectory = make_trajectory(actor_critic)
        trajectory = dataclasses.replace(trajectory, reward=trajectory.reward * scale)
        config = actor_critic.config
        actor_critic.config = dataclasses.replace(config, entropy=1.0)
        with_entropy = actor_critic.losses(trajectory)[0]["actor"]
        actor_critic.config = dataclasses.replace(config, entropy=0.0)
        results.append(actor_critic.losses(trajectory)[0]["actor"] - with_entropy)
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-4)
    assert (results[0] > 0).all()


def test_the_entropys_weight_falls_with_the_updates_to_a_tenth():
    """Linearly, in the loss as in the metric."""
    decaying, constant = (make(entropy=0.5, entropy_decay=decay, return_ema_rate=1.0) for decay in (50, 0))
    trajectory = make_trajectory(constant)
    weights = []
    for updates in (0.0, 10.0, 25.0, 40.0, 100.0):
        terms, _, metrics = decaying.losses(trajectory, torch.tensor(updates, dtype=torch.float64))
        weights.append(metrics["behavior/entropy_weight"].item())
        constant.config = dataclasses.replace(constant.config, entropy=weights[-1])
        expected, _, without = constant.losses(trajectory, torch.tensor(updates, dtype=torch.float64))
        torch.testing.assert_close(terms, expected)
        assert "behavior/entropy_weight" not in without
    assert weights == pytest.approx([0.5, 0.4, 0.25, 0.1, 0.05])


def test_saturated_means_are_pulled_back_to_where_tanh_has_a_slope():
    """0.1 (|m| - 2)^2 beyond 2, summed over action dimensions and weighted as the state is; nothing below; 0 is V3."""
    plain, bounded = make(return_ema_rate=1.0), make(return_ema_rate=1.0, tanh_penalty=0.1)
    trajectory = make_trajectory(plain)
    for bias, beyond in ([1.0, -1.0], 0.0), ([5.0, -4.0], 0.1 * (3.0**2 + 2.0**2)), ([5.0, 0.0], 0.1 * 3.0**2):
        terms = []
        for actor_critic in (plain, bounded):
            with torch.no_grad():
                actor_critic.actor.output.weight.zero_()
                actor_critic.actor.output.bias.copy_(torch.tensor([*bias, 0.0, 0.0]))
            found, _, metrics = actor_critic.losses(trajectory)
            terms.append(found["actor"])
        weight = torch.cumprod(trajectory.discount, 1)[:, :-1]
        torch.testing.assert_close(terms[1] - terms[0], weight.mean(1) * beyond, atol=1e-4, rtol=1e-4)
        assert metrics["behavior/saturation"].item() == pytest.approx(np.mean(np.abs(bias) > 2))
    without, with_it = (
        gradients(term.mean(), actor_critic.actor)["output.bias"]
        for term, actor_critic in zip(terms, (plain, bounded), strict=True)
    )
    torch.testing.assert_close(with_it[1:], without[1:])
    assert with_it[0] - without[0] == pytest.approx(0.2 * 3.0 * weight.mean().item(), rel=1e-4)
    discrete = make(DISCRETE, tanh_penalty=0.1)
    same, _, _ = make(DISCRETE).losses(make_trajectory(discrete))
    torch.testing.assert_close(discrete.losses(make_trajectory(discrete))[0], same)


@pytest.mark.parametrize("gradient", ["reinforce", "dynamics"])
def test_scale_of_rewards_does_not_matter_once_returns_are_large(gradient):
    """Pitfall 29: both kinds of actor loss are divided by the scale of returns."""
    found = []
    for scale in (10.0, 1000.0):
        actor_critic = make(actor_gradient=gradient, entropy=0.0, return_ema_rate=1.0)
        base = make_trajectory(actor_critic, discount=torch.ones(STARTS, HORIZON + 1) * 0.9)
        action = actor_critic.policy(sample=True)(base.features[:, :-1]) if gradient == "dynamics" else base.action
        reward = torch.cat([torch.zeros(STARTS, 1), scale * action.sum(-1)], 1)
        terms, _, _ = actor_critic.losses(dataclasses.replace(base, action=action, reward=reward))
        found.append(gradients(terms["actor"].mean(), actor_critic.actor)["output.bias"])
        torch.manual_seed(0)
    assert found[0].any()
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-6)


def test_dynamics_gradient_follows_the_return_uphill():
    """Pitfall 26: with no entropy bonus the actor still has a gradient, through the actions alone."""
    actor_critic = make(actor_gradient="dynamics", entropy=0.0)
    base = make_trajectory(actor_critic)
    action = actor_critic.policy(sample=True)(base.features[:, :-1])
    reward = torch.cat([torch.zeros(STARTS, 1), action[..., 0]], 1)
    terms, _, _ = actor_critic.losses(dataclasses.replace(base, action=action, reward=reward))
    found = gradients(terms["actor"].mean(), actor_critic.actor)["output.bias"]
    assert found[0] < 0 and found[1] == 0, "a larger first action earns more, the second earns nothing"


def test_both_gradients_are_a_weighted_sum():
    """V2: rho of the score function, and 1 - rho by way of the dynamics."""
    found = {}
    for gradient in ("reinforce", "dynamics", "both"):
        actor_critic = make(actor_gradient=gradient, mix=0.3, entropy=0.0, return_ema_rate=1.0)
        base = make_trajectory(actor_critic)
        torch.manual_seed(1)
        action = actor_critic.policy(sample=True)(base.features[:, :-1])
        reward = torch.cat([torch.zeros(STARTS, 1), action.sum(-1)], 1)
        terms, _, _ = actor_critic.losses(dataclasses.replace(base, action=action, reward=reward))
        found[gradient] = gradients(terms["actor"].mean(), actor_critic.actor)["output.bias"]
    assert found["reinforce"].any() and found["dynamics"].any()
    torch.testing.assert_close(found["both"], 0.3 * found["reinforce"] + 0.7 * found["dynamics"])


def test_percentiles_are_of_all_returns_and_updated_before_use():
    """Pitfalls 30 and 31."""
    actor_critic = make()
    trajectory = make_trajectory(actor_critic, reward=torch.randn(STARTS, HORIZON + 1) * 1e4)
    _, target, metrics = actor_critic.losses(trajectory)
    low, high = np.percentile(target, [5, 95])
    assert actor_critic.normalizer.low.item() == pytest.approx(0.01 * low, rel=1e-4)
    assert metrics["behavior/return_scale"].item() == pytest.approx(0.01 * (high - low), rel=1e-4)


def test_rollouts_that_start_at_a_terminal_state_weigh_nothing():
    """Pitfall 32: the predicted continuation of the start counts."""
    actor_critic = make()
    awaken(actor_critic)
    discount = torch.full((STARTS, HORIZON + 1), 0.9)
    discount[0, 0] = 0.0
    discount[1, 2] = 0.0
    terms, _, _ = actor_critic.losses(make_trajectory(actor_critic, discount=discount))
    for term in terms.values():
        assert term[0] == 0 and (term[1:] != 0).all()


def test_losses_leave_the_trajectory_alone():
    """Pitfall 54."""
    actor_critic = make()
    trajectory = make_trajectory(actor_critic)
    before = {name: value.clone() for name, value in tensors(trajectory).items()}
    actor_critic.losses(trajectory)
    assert all(torch.equal(value, vars(trajectory)[name]) for name, value in before.items())


def test_reinforce_stops_every_gradient_into_the_trajectory():
    """Pitfalls 25 and 28: actions, rewards, discounts and features are data, even if they carry a graph."""
    actor_critic = make()
    awaken(actor_critic)
    trajectory = make_trajectory(actor_critic)
    live = {name: value.clone().requires_grad_() for name, value in tensors(trajectory).items()}
    terms, _, _ = actor_critic.losses(Trajectory(**live))
    found = torch.autograd.grad(sum(term.sum() for term in terms.values()), list(live.values()), allow_unused=True)
    leaks = {name for name, gradient in zip(live, found, strict=True) if gradient is not None and gradient.any()}
    assert leaks == set()


# The slow critic


def test_slow_critic_starts_as_an_untrained_copy():
    """Pitfall 37."""
    actor_critic = make()
    for slow, fast in zip(actor_critic.slow_critic.parameters(), actor_critic.critic.parameters(), strict=True):
        assert torch.equal(slow, fast) and slow.data_ptr() != fast.data_ptr() and not slow.requires_grad


def test_slow_critic_follows_by_two_percent():
    """Pitfall 37."""
    actor_critic = make()
    awaken(actor_critic.critic)
    before = [slow.clone() for slow in actor_critic.slow_critic.parameters()]
    actor_critic.update_slow_critic()
    slows, fasts = actor_critic.slow_critic.parameters(), actor_critic.critic.parameters()
    for old, slow, fast in zip(before, slows, fasts, strict=True):
        torch.testing.assert_close(slow, old + 0.02 * (fast - old))


def test_slow_critic_regularizes_and_does_not_bootstrap():
    """Pitfall 36: returns use the critic; the slow critic is a second target of its cross-entropy."""
    actor_critic = make()
    set_value(actor_critic.critic, 2.0)
    trajectory = make_trajectory(actor_critic)
    set_value(actor_critic.slow_critic, 50.0)
    terms, target, _ = actor_critic.losses(trajectory)
    expected = lambda_return(trajectory.reward, trajectory.discount, torch.full_like(trajectory.reward, 2.0), 0.95)
    torch.testing.assert_close(target, expected, rtol=1e-4, atol=1e-4)
    actor_critic.config = dataclasses.replace(actor_critic.config, slow_scale=0.0)
    without, _, _ = actor_critic.losses(trajectory)
    pull = actor_critic.critic(trajectory.features[:, :-1]).cross_entropy((torch.full((STARTS, HORIZON), 50.0), 1.0))
    weight = trajectory.discount.cumprod(1)[:, :-1]
    torch.testing.assert_close(terms["critic"] - without["critic"], (weight * pull).mean(1), rtol=1e-3, atol=1e-3)


# The replay value loss


def replayed(actor_critic, time=6, **fields):
    agent = make_agent()
    batch = make_batch(agent, batch=2, time=time, **fields)
    torch.manual_seed(0)
    return torch.randn(2, time, FEATURES), batch, torch.randn(2, time)


def test_replay_loss_masks_rows_that_end_an_episode():
    """Pitfall 7: such a row's successor belongs to another episode; weights are [1, 1, 0, 1]."""
    actor_critic = make()
    awaken(actor_critic)
    is_last = torch.tensor([[0, 0, 1, 0, 1], [0, 0, 0, 0, 0]], dtype=torch.bool)
    features, batch, bootstrap = replayed(actor_critic, time=5, is_last=is_last)
    loss = actor_critic.replay_loss(features, batch, bootstrap, DISCOUNT)
    assert loss.shape == (2, 4)
    assert (loss != 0).tolist() == [[True, True, False, True], [True] * 4]


def test_replay_loss_does_not_cross_episodes():
    """Pitfall 7: rewards and features of the next episode change no loss of this one."""
    actor_critic = make()
    awaken(actor_critic)
    is_last = torch.zeros(2, 6, dtype=torch.bool)
    is_last[:, 2] = True
    features, batch, bootstrap = replayed(actor_critic, is_last=is_last)
    before = actor_critic.replay_loss(features, batch, bootstrap, DISCOUNT)
    features, bootstrap, reward = (x.clone() for x in (features, bootstrap, batch.reward))
    for x in (features, bootstrap, reward):
        x[:, 3:] += 10.0
    after = actor_critic.replay_loss(features, dataclasses.replace(batch, reward=reward), bootstrap, DISCOUNT)
    assert torch.equal(before[:, :3], after[:, :3]) and (before[:, 3:] != after[:, 3:]).all()


def test_replay_loss_reaches_features_but_not_targets():
    """Pitfall 25: live features, stopped targets and bootstrap."""
    actor_critic = make()
    awaken(actor_critic)
    features, batch, bootstrap = replayed(actor_critic, is_last=torch.zeros(2, 6, dtype=torch.bool))
    features.requires_grad_(), bootstrap.requires_grad_()
    loss = actor_critic.replay_loss(features, batch, bootstrap, DISCOUNT)
    found = gradients(loss.mean(), actor_critic)
    assert {name.split(".")[0] for name, gradient in found.items() if gradient.any()} == {"critic"}
    to_features, to_bootstrap = torch.autograd.grad(loss.mean(), [features, bootstrap], allow_unused=True)
    assert (to_features[:, :-1] != 0).any(-1).all() and not to_features[:, -1].any()
    assert to_bootstrap is None


def test_replay_loss_is_two_cross_entropies():
    """Pitfall 36: to the replay return and to the slow critic."""
    actor_critic = make()
    set_value(actor_critic.slow_critic, 7.0)
    nothing = torch.zeros(2, 6, dtype=torch.bool)
    features, batch, _ = replayed(actor_critic, is_last=nothing, is_terminal=nothing, reward=torch.ones(2, 6))
    loss = actor_critic.replay_loss(features, batch, torch.full((2, 6), 333.0), DISCOUNT)
    critic = actor_critic.critic(features[:, :-1])
    expected = critic.cross_entropy((torch.full((2, 5), 333.0), 1.0), (torch.full((2, 5), 7.0), 1.0))
    torch.testing.assert_close(loss, expected)


# Bandits


def run_bandit(actor_critic, reward_of, updates=150, batch=64):
    """One-step episodes in a single state; returns the policy afterwards."""
    features = torch.ones(batch, 2, FEATURES)
    discount = torch.tensor([1.0, 0.0]).expand(batch, 2)
    params = [param for param in actor_critic.parameters() if param.requires_grad]
    optimizer = LaProp(params, OptimizerConfig(learning_rate=2e-2, warmup=0))
    live = actor_critic.config.reinforce_share < 1
    with unchecked():
        for _ in range(updates):
            with torch.set_grad_enabled(live):
                action = actor_critic.policy(sample=True)(features[:, :1])
                reward = torch.cat([torch.zeros(batch, 1), reward_of(action[:, 0]).unsqueeze(1)], 1)
            terms, _, _ = actor_critic.losses(Trajectory(features, action, reward, discount))
            optimizer.zero_grad()
            sum(term.mean() for term in terms.values()).backward()
            optimizer.step()
            actor_critic.update_slow_critic()
    with torch.no_grad():
        return actor_critic.actor(features[:1, 0])


@pytest.mark.parametrize("gradient", ["reinforce", "dynamics", "both"])
def test_continuous_bandit(gradient):
    """Sanity ladder (iii): the policy's mean moves to the best action and its spread shrinks."""
    actor_critic = make(ActionSpec(1, discrete=False), actor_gradient=gradient)
    policy = run_bandit(actor_critic, lambda action: -4 * (action[:, 0] - 0.5) ** 2)
    assert policy.mean.item() == pytest.approx(0.5, abs=0.1)
    assert policy.std.item() < 0.5


def test_discrete_bandit():
    """Sanity ladder (iii)."""
    policy = run_bandit(make(DISCRETE), lambda action: action @ torch.tensor([0.0, 1.0, -1.0]))
    assert policy.log_probs[0, 1].exp().item() > 0.8


def test_critic_learns_the_mean_reward():
    """Pitfall 21: the mean of a noisy reward, not a compressed version of it."""
    actor_critic = make(DISCRETE)
    torch.manual_seed(1)
    run_bandit(actor_critic, lambda action: torch.where(torch.rand(len(action)) < 0.25, 8.0, 0.0))
    value = actor_critic.critic(torch.ones(1, FEATURES)).mean()
    assert value.item() == pytest.approx(2.0, abs=0.5)
    assert math.isfinite(value.item())
