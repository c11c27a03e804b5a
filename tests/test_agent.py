"""The agent: sizes, acting, imagination, and updates as a whole."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from tiny import (
    CONTINUOUS,
    CORES,
    DISCRETE,
    DYNAMICS_GRADIENT,
    OBS,
    TINY,
    WALKER,
    WALKER_ACTION,
    awaken,
    keep_in,
    make_agent,
    make_batch,
    mode_latents,
    unchecked,
)

from dreamer.agent import Agent
from dreamer.behavior.imagination import imagine
from dreamer.config import PRESETS, SIZES, compose
from dreamer.dynamics import LATENTS
from dreamer.errors import UserError
from dreamer.nn.distributions import two_hot

TOTALS = {
    "1m": 640_867,
    "12m": 9_738_019,
    "25m": 21_782_947,
    "50m": 38_612_003,
    "100m": 86_622_499,
    "200m": 153_769_507,
    "400m": 345_473_059,
}
FAST = {"optimizer.warmup": 0, "optimizer.learning_rate": 1e-2}


# Sizes


@pytest.mark.parametrize("size", TOTALS)
def test_parameter_totals(size):
    """Published sizes for walker_walk from state, slow critic excluded."""
    with torch.device("meta"):
        agent = Agent(compose("dmc_proprio", size).agent, WALKER, WALKER_ACTION)
    assert sum(agent.parameter_counts().values()) == TOTALS[size]
    trainable = sum(param.numel() for param in agent.parameters() if param.requires_grad)
    assert trainable == TOTALS[size]


def test_parameter_counts_of_every_part():
    agent = Agent(compose("dmc_proprio", "1m").agent, WALKER, WALKER_ACTION)
    assert agent.parameter_counts() == {
        "encoder": 10_112,
        "dynamics": 364_416,
        "decoder": 51_096,
        "reward": 57_663,
        "continue": 41_153,
        "actor": 50_316,
        "critic": 66_111,
    }
    assert agent.world_model.core.packed_dim == 512 + 32 * 4


def test_smaller_sizes_are_in_order():
    totals = {}
    for size in SIZES:
        with torch.device("meta"):
            agent = Agent(compose("dmc_proprio", size).agent, WALKER, WALKER_ACTION)
        totals[size] = sum(agent.parameter_counts().values())
    assert sorted(totals.values()) == list(totals.values())
    assert totals["100k"] < 200_000 and totals["300k"] < 450_000


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("action", [CONTINUOUS, DISCRETE], ids=["continuous", "discrete"])
def test_presets_build_and_update(preset, action):
    config = compose(preset).agent
    with torch.device("meta"):
        Agent(config, WALKER, WALKER_ACTION)
    changes = {name: value for name, value in TINY.items() if "horizon" not in name}
    if action.discrete and config.behavior.reinforce_share < 1:
        with pytest.raises(UserError, match="continuous actions"):
            make_agent(changes, action, config=config)
        return
    agent = make_agent(changes, action, config=config)
    agent.config = dataclasses.replace(agent.config, imagination_horizon=2)
    awaken(agent)
    norms = []
    for n in range(2):
        metrics, _ = agent.update(make_batch(agent, seed=n))
        assert all(value.isfinite() for value in metrics.values())
        norms.append(metrics["optim/update_norm"].item())
    assert norms[0] == 0 and norms[1] > 0, "the first update of a warm-up does nothing, the second does"


def test_impossible_combinations_are_refused():
    """Pitfall 27: a sampled class has no path-wise gradient."""
    make_agent(DYNAMICS_GRADIENT)
    with pytest.raises(UserError, match="continuous actions"):
        make_agent(DYNAMICS_GRADIENT, DISCRETE)
    for gradient in ("dynamics", "both"):
        with pytest.raises(UserError, match=f"actor-gradient {gradient} needs --latent gaussian"):
            make_agent({"behavior.actor_gradient": gradient})


def test_values_that_exclude_each_other_are_refused():
    """A user's mistake is one clear line, before a run folder exists."""
    with pytest.raises(UserError, match="blocks"):
        make_agent({"dynamics.rssm.blocks": 7})
    with pytest.raises(UserError, match="min-std"):
        make_agent({"behavior.min_std": 0.5, "behavior.max_std": 0.4})
    with pytest.raises(UserError, match="imagination-starts"):
        make_agent({"imagination_starts": 1})  # the replay value loss needs a row and its successor


# Acting


@pytest.mark.parametrize("cell", ["block_gru", "gru"])
def test_acting_filters_exactly_as_training_does(cell):
    """Pitfalls 1, 10 and 14: the same rows, one at a time by `act` and at once by `observe`, give the same states."""
    agent = make_agent({"dynamics.rssm.cell": cell})
    rng = np.random.default_rng(0)
    is_first = np.array([True, False, False, False, True, False, False])
    observations = [{key: rng.normal(size=size) for key, size in OBS.items()} for _ in is_first]
    states, actions, carry = [], [torch.zeros(1, 2)], None
    with mode_latents():
        for obs, first in zip(observations, is_first, strict=True):
            _, carry = agent.act(obs, first, carry)
            states.append(carry.state)
            actions.append(carry.action)
        prev_action = torch.stack(actions[:-1], 1).masked_fill(torch.tensor(is_first)[None, :, None], 0.0)
        batch = dataclasses.replace(
            make_batch(agent, 1, len(is_first)),
            obs={key: torch.tensor(np.array([obs[key] for obs in observations]))[None].float() for key in OBS},
            prev_action=prev_action,
            is_first=torch.tensor(is_first)[None],
        )
        with torch.no_grad():
            expected = agent.world_model.observe(batch)
    for name, value in vars(type(states[0]).stack(states, 1)).items():
        torch.testing.assert_close(value, vars(expected)[name], rtol=1e-5, atol=1e-5)
    assert actions[4].abs().max() > 0, "the action before the second episode is there to be ignored"


def test_a_new_episode_forgets_the_previous_one():
    """Pitfall 8: `is_first=True` and `state=None` are the same beginning."""
    agent = make_agent()
    obs = {key: np.ones(size) for key, size in OBS.items()}
    results = []
    for history in (0, 3):
        carry = None
        for _ in range(history):
            _, carry = agent.act({key: value * 5 for key, value in obs.items()}, False, carry)
        torch.manual_seed(0)
        results.append(agent.act(obs, True, carry)[1])
    for name, value in vars(results[0].state).items():
        assert torch.equal(value, vars(results[1].state)[name])
    assert torch.equal(results[0].action, results[1].action)


def test_actions_are_clipped_for_the_environment_and_remembered_unclipped():
    """Pitfall 35: the density is that of the action that was drawn."""
    agent = make_agent()
    with torch.no_grad():
        agent.actor_critic.actor.output.bias.copy_(torch.tensor([9.0, -9.0, 9.0, 9.0]))
    obs = {key: np.zeros((200, *size)) for key, size in OBS.items()}
    action, carry = agent.act(obs)
    assert action.shape == (200, 2) and action.dtype == np.float32 and np.abs(action).max() == 1.0
    assert carry.action.abs().max() > 1.5
    np.testing.assert_array_equal(action, carry.action.clamp(-1, 1))


def test_observations_may_come_alone_stacked_or_bare():
    agent = make_agent(obs={"observation": (3,)})
    vector = np.arange(3.0)
    for obs, shape in ((vector, (2,)), ({"observation": vector}, (2,)), (np.stack([vector] * 4), (4, 2))):
        action, carry = agent.act(obs, mode="mode")
        assert action.shape == shape
        action, _ = agent.act(obs, False, carry)
        assert action.shape == shape
    assert agent.act(np.stack([vector] * 4), np.array([True, False, True, False]))[0].shape == (4, 2)
    with pytest.raises(ValueError, match="lacks observation"):
        agent.act({"other": vector})


def test_mode_actions_are_those_of_the_policy_and_samples_differ():
    """Pitfall 58: both kinds of evaluation exist."""
    agent = make_agent()
    obs = {key: np.ones(size) for key, size in OBS.items()}
    _, carry = agent.act(obs, mode="mode")
    policy = agent.actor_critic.actor(agent.world_model.core.features(carry.state))
    torch.testing.assert_close(carry.action, policy.mean.detach())
    draws = [agent.act(obs)[0].tolist() for _ in range(4)]
    assert len(set(map(tuple, draws))) == 4


@pytest.mark.parametrize("latent", [f"{core}:{name}" for core, names in LATENTS.items() for name in names or ("auto",)])
@pytest.mark.parametrize("action", [CONTINUOUS, DISCRETE])
def test_deterministic_actions_depend_on_the_observations_alone(latent, action):
    """Whatever the seed and the mode, over several steps; `mode` alone draws the latent, but for a core without one."""
    core, _, name = latent.partition(":")
    agent = make_agent({"dynamics.core": core, "dynamics.latent": name}, action)
    awaken(agent)
    rows = [{key: np.full(size, value) for key, size in OBS.items()} for value in (1.0, -2.0, 0.5)]

    def chosen(seed, **kwargs):
        torch.manual_seed(seed)
        carry, vectors = None, []
        for obs in rows:
            _, carry = agent.act(obs, False, carry, **kwargs)
            vectors.append(torch.cat([carry.action, agent.pack_carry(carry)], -1))
        return torch.stack(vectors)

    expected = chosen(0, deterministic=True)
    assert torch.equal(chosen(1, deterministic=True), expected)
    assert torch.equal(chosen(2, mode="mode", deterministic=True), expected)
    assert torch.equal(chosen(0, mode="mode"), chosen(3, mode="mode")) == (core == "rnn")
    with mode_latents():
        torch.testing.assert_close(chosen(4, mode="mode"), expected)


WRONG = {
    "mode": ({"mode": "greedy"}, r"mode must be one of sample, mode, got 'greedy'"),
    "a value that is not finite": ({"obs": {"velocity": [np.nan]}}, r"'velocity' has values that are not finite"),
    "a value beyond float32": ({"obs": {"position": [1e300, 0.0]}}, r"'position' has values that are not finite"),
    "words": ({"obs": {"velocity": ["fast"]}}, r"'velocity' is <U4 \[1\]; the agent learned from a vector \[1\]"),
    "complex numbers": ({"obs": {"velocity": [1j]}}, r"'velocity' is complex128"),
    "an object": ({"obs": {"velocity": None}}, r"'velocity' is object \[\]"),
    "ragged": ({"obs": {"position": [[1.0], [1.0, 2.0]]}}, r"'position' is no array: "),
    "another size": ({"obs": {"position": np.zeros(3)}}, r"'position' is float64 \[3\]; .* a vector \[2\]"),
    "two axes too many": ({"obs": {"position": np.zeros((1, 1, 2))}}, r"'position' is float64 \[1, 1, 2\]"),
    "no environment": ({"obs": {"position": np.zeros((0, 2))}}, r"'position' is float64 \[0, 2\]"),
    "another number of environments": (
        {"obs": {"position": np.zeros((2, 2))}},
        r"differ in their number of environments",
    ),
    "an unknown key": ({"obs": {"speed": [0.0]}}, r"observation has an unknown speed; the agent was trained on"),
    "is_first of another length": ({"is_first": [True, False]}, r"is_first must be True or False, .* 1 environments"),
    "is_first a word": ({"is_first": "no"}, r"is_first must be True or False"),
    "is_first not a number": ({"is_first": np.nan}, r"is_first must be True or False"),
    "state a number": ({"state": 3}, r"state is not one that act returned for the 1 environments of this agent"),
    "state of two environments": ({"state": 2}, r"state is not one that act returned for the 1 environments"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_does_not_fit_is_refused_when_acting(wrong):
    """And is told as what it is, before anything is computed."""
    agent, (changes, message) = make_agent(), WRONG[wrong]
    obs = {key: np.zeros(size) for key, size in OBS.items()} | changes.get("obs", {})
    arguments = {name: value for name, value in changes.items() if name != "obs"}
    if wrong == "state of two environments":
        arguments["state"] = agent.initial_carry(2)
    with unchecked(), pytest.raises(ValueError, match=message):
        agent.act(obs, **arguments)


def test_a_state_of_another_agent_is_refused():
    agent, other = make_agent(), make_agent({"dynamics.rssm.deter": 32})
    obs = {key: np.zeros(size) for key, size in OBS.items()}
    with pytest.raises(ValueError, match="state is not one that act returned"):
        agent.act(obs, False, other.act(obs)[1])


def test_discrete_actions_are_indices_outside_and_one_hot_inside():
    agent = make_agent(action=DISCRETE)
    action, carry = agent.act({key: np.zeros(size) for key, size in OBS.items()})
    assert action.shape == () and action in range(3)
    assert carry.action.tolist() == np.eye(3)[[action]].tolist()
    actions, _ = agent.act({key: np.zeros((50, *size)) for key, size in OBS.items()})
    assert actions.shape == (50,) and set(actions.tolist()) == {0, 1, 2}


# Imagination


def start_states(agent, batch):
    with torch.no_grad():
        return agent.world_model.observe(batch).flatten()


def test_imagination_follows_the_timeline():
    """Pitfalls 1, 2, 3 and 33: action i leads from state i to i + 1, and predictions are those of arrivals."""
    agent = make_agent()
    awaken(agent)
    world_model, core = agent.world_model, agent.world_model.core
    start = start_states(agent, make_batch(agent))
    with torch.no_grad(), mode_latents():
        rollout = imagine(world_model, agent.actor_critic.policy(sample=True), start, 4)
        features = [core.features(start)]
        state = start
        for i in range(4):
            state = core.imagine_step(state, rollout.action[:, i])
            features.append(core.features(state))
        expected = torch.stack(features, 1)
        torch.testing.assert_close(rollout.features, expected)
        reward = world_model.reward(expected).mean()
        torch.testing.assert_close(rollout.reward, reward, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(rollout.discount, world_model.cont(expected).sigmoid())
        assert ((rollout.discount > 0) & (rollout.discount < 1)).all()
    assert rollout.action.shape == (15, 4, 2) and rollout.features.shape[:2] == (15, 5)


def test_the_policy_reads_the_newest_state_without_a_gradient():
    """Pitfall 25: what the policy reads is stopped, what it does is not."""
    agent = make_agent(DYNAMICS_GRADIENT)
    start = start_states(agent, make_batch(agent))
    scale = torch.ones(2, requires_grad=True)

    def policy(features):
        assert not features.requires_grad
        return features[:, :2] * scale

    rollout = imagine(agent.world_model, policy, start, 3)
    torch.testing.assert_close(rollout.action, rollout.features[:, :-1, :2])
    assert torch.autograd.grad(rollout.features[:, 1].sum(), scale)[0].any()


def test_imagination_uses_neither_encoder_nor_posterior(monkeypatch):
    """Prior-only by construction: with everything that reads observations gone, it still runs."""
    agent = make_agent()
    start = start_states(agent, make_batch(agent))
    monkeypatch.setattr(agent.world_model, "encoder", None)
    monkeypatch.setattr(agent.world_model, "objective", None)
    monkeypatch.setattr(agent.world_model.core, "posterior_net", None)
    with torch.no_grad():
        assert imagine(agent.world_model, agent.actor_critic.policy(sample=True), start, 2).reward.shape == (15, 3)


def test_equal_starts_imagine_different_futures():
    """Pitfall 59: noise is drawn anew for every row and every step."""
    agent = make_agent()
    start = start_states(agent, make_batch(agent, 1, 1))[torch.zeros(32, dtype=torch.long)]
    with torch.no_grad():
        rollout = imagine(agent.world_model, agent.actor_critic.policy(sample=True), start, 3)
    assert len(rollout.action[:, 0].unique(dim=0)) == 32
    assert not torch.equal(rollout.action[:, 0], rollout.action[:, 1])
    assert len(rollout.features[:, 1].unique(dim=0)) == 32


def test_constant_rewards_are_discounted_once():
    """Pitfalls 4 and 5: on live states with reward 1 and value 333 the learned return is 333 again."""
    agent = make_agent()
    model = agent.world_model
    discount = 332 / 333
    for head, value in ((model.reward, 1.0), (agent.actor_critic.critic, 333.0)):
        lower, upper, weight = two_hot(torch.tensor([value]), head.bins)
        probs = torch.zeros(len(head.bins))
        probs[lower], probs[upper] = 1 - weight, weight
        with torch.no_grad():
            head.output.bias.copy_(probs.clamp(min=1e-30).log())
    with torch.no_grad():
        model.cont.output.weight.zero_()
        model.cont.output.bias.fill_(math.log(discount / (1 - discount)))
        rollout = imagine(model, agent.actor_critic.policy(sample=True), start_states(agent, make_batch(agent)), 15)
        torch.testing.assert_close(rollout.discount, torch.full((15, 16), 0.996997), rtol=1e-4, atol=0)
        _, returns, _ = agent.actor_critic.losses(rollout)
    torch.testing.assert_close(returns, torch.full((15, 15), 333.0), rtol=2e-3, atol=0)


@pytest.mark.parametrize("starts", [0, 2, 5])
def test_imagination_starts_from_the_last_rows(starts):
    agent = make_agent({"imagination_starts": starts})
    terms, _, packed = agent.loss_terms(make_batch(agent))
    rows = starts or 5
    assert terms["actor"].shape == terms["critic"].shape == (3 * rows,)
    assert terms["replay_critic"].shape == (3, rows - 1)
    assert terms["dyn"].shape == (3, 5) and packed.shape == (3, 5, agent.world_model.core.packed_dim)


@pytest.mark.parametrize("starts", [0, 2])
def test_replayed_values_bootstrap_from_the_rollout_of_their_own_row(starts, monkeypatch):
    """Pitfall 7: row t gets the first return of the rollout that started there, and its own reward."""
    agent = make_agent({"imagination_starts": starts})
    awaken(agent)
    batch, seen = make_batch(agent), {}
    losses, replay_loss = agent.actor_critic.losses, agent.actor_critic.replay_loss

    def spy_losses(trajectory, updates):
        seen["start"], result = trajectory.features[:, 0], losses(trajectory, updates)
        seen["returns"] = result[1]
        return result

    def spy_replay_loss(features, rows, bootstrap, discount):
        seen["features"], seen["rows"], seen["bootstrap"] = features, rows, bootstrap
        return replay_loss(features, rows, bootstrap, discount)

    monkeypatch.setattr(agent.actor_critic, "losses", spy_losses)
    monkeypatch.setattr(agent.actor_critic, "replay_loss", spy_replay_loss)
    agent.loss_terms(batch)
    rows = starts or 5
    assert torch.equal(seen["start"].unflatten(0, (3, rows)), seen["features"])
    assert torch.equal(seen["returns"][:, 0].unflatten(0, (3, rows)), seen["bootstrap"])
    assert torch.equal(seen["rows"].reward, batch.reward[:, -rows:])
    assert torch.equal(seen["rows"].is_last, batch.is_last[:, -rows:])


# Updates


def test_total_is_the_weighted_sum_of_the_means_of_all_terms():
    agent = make_agent()
    batch = make_batch(agent)
    torch.manual_seed(0)
    terms, _, _ = agent.loss_terms(batch)
    agent.actor_critic.normalizer.low.zero_(), agent.actor_critic.normalizer.high.zero_()
    torch.manual_seed(0)
    total, metrics, _ = agent.loss(batch)
    scales = {"rep": 0.1, "replay_critic": 0.3}
    expected = sum(scales.get(name, 1.0) * term.mean() for name, term in terms.items())
    torch.testing.assert_close(total, expected)
    assert metrics["loss/continue"].item() == pytest.approx(terms["cont"].mean().item(), rel=1e-5)
    assert set(terms) == {"reconstruction", "reward", "cont", "dyn", "rep", "actor", "critic", "replay_critic"}


@pytest.mark.parametrize("core", CORES)
def test_every_term_has_a_configured_scale_and_a_new_one_has_scale_1(core, monkeypatch):
    agent = make_agent({"dynamics.core": core})
    terms, _, _ = agent.loss_terms(make_batch(agent))
    assert terms.keys() == agent.world_model.scales.keys() | agent.actor_critic.scales.keys()
    core_loss = agent.world_model.core.loss

    def loss(states):
        terms, metrics = core_loss(states)
        return terms | {"overshooting": terms["dyn"]}, metrics

    monkeypatch.setattr(agent.world_model.core, "loss", loss)
    torch.manual_seed(0)
    total, metrics, _ = agent.loss(make_batch(agent))
    monkeypatch.undo()
    torch.manual_seed(0)
    without, _, _ = agent.loss(make_batch(agent))
    assert (total - without).item() == pytest.approx(metrics["loss/overshooting"].item(), rel=1e-4)


def test_updates_leave_the_batch_alone_and_return_the_new_states():
    """Pitfall 54, and the row that a stored state belongs to."""
    agent = make_agent()
    batch = make_batch(agent)
    before = copy.deepcopy(batch)
    torch.manual_seed(0)
    expected = agent.world_model.core.pack(agent.world_model.observe(batch))
    torch.manual_seed(0)
    _, packed = agent.update(batch)
    torch.testing.assert_close(packed, expected.detach())
    assert not packed.requires_grad and packed.shape == (3, 5, agent.world_model.core.packed_dim)
    torch.testing.assert_close(vars(batch), vars(before), rtol=0, atol=0)


def test_an_update_moves_the_slow_critic_by_two_percent():
    """Pitfall 37: after the gradient step, and never by the optimizer."""
    agent = make_agent(FAST)
    critic, slow = agent.actor_critic.critic, agent.actor_critic.slow_critic
    owned = {id(param) for param in agent.optimizer.params}
    assert not owned & {id(param) for param in slow.parameters()}
    assert owned == {id(param) for param in agent.parameters() if param.requires_grad}
    before = copy.deepcopy(list(slow.parameters()))
    agent.update(make_batch(agent))
    for old, now, fast in zip(before, slow.parameters(), critic.parameters(), strict=True):
        torch.testing.assert_close(now, old + 0.02 * (fast - old))
    assert any(not torch.equal(old, now) for old, now in zip(before, slow.parameters(), strict=True))


VARIANTS = [(core, latent) for core, latents in LATENTS.items() for latent in latents or ("auto",)]


@pytest.mark.parametrize("action", [CONTINUOUS, DISCRETE], ids=["continuous", "discrete"])
@pytest.mark.parametrize(("core", "latent"), VARIANTS)
def test_every_core_serves_a_whole_agent(core, latent, action):
    """Pitfall 60: it acts, filters, imagines by its prior, and one update moves every parameter."""
    changes = {f"dynamics.{name}.free_nats": 0.0 for name in ("rssm", "ssm")}  # they would stop small divergences
    agent = make_agent(FAST | changes | {"dynamics.core": core, "dynamics.latent": latent}, action)
    awaken(agent)
    chosen, carry = agent.act({key: np.zeros((4, *shape)) for key, shape in OBS.items()})
    assert len(chosen) == 4 and all(value.isfinite().all() for value in vars(carry.state).values())
    before = copy.deepcopy(dict(agent.named_parameters()))
    metrics, packed = agent.update(make_batch(agent))
    assert all(value.isfinite() for value in metrics.values()) and packed.isfinite().all()
    assert not [name for name, param in agent.named_parameters() if torch.equal(param, before[name])]


def run(seed, updates=3):
    agent = make_agent(FAST, seed=seed)
    metrics = [agent.update(make_batch(agent, seed=n))[0] for n in range(updates)]
    return agent, [{name: value.item() for name, value in values.items()} for values in metrics]


def test_same_seed_same_numbers():
    (first, metrics), (second, again) = run(0), run(0)
    assert metrics == again
    for left, right in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(left, right)
    assert run(1, updates=1)[1][0] != metrics[0]


@pytest.mark.parametrize("changes", [{}, DYNAMICS_GRADIENT], ids=["reinforce", "dynamics"])
def test_saved_learner_continues_exactly(changes):
    """Pitfalls 30 and 55: parameters, optimizer, normalizer and slow critic, through a file that holds only tensors."""
    agent = make_agent(FAST | changes)
    for n in range(2):
        agent.update(make_batch(agent, seed=n))
    saved = copy.deepcopy(agent.learner_state())
    other = make_agent(FAST | changes, seed=1)
    other.load_learner_state(saved)
    results = []
    for learner in (agent, other):
        torch.manual_seed(5)
        metrics = [learner.update(make_batch(agent, seed=n))[0] for n in (2, 3)]
        results.append([{name: value.item() for name, value in values.items()} for values in metrics])
    assert results[0] == results[1]


def test_an_update_never_waits_for_the_host():
    """Pitfall 57: tensors without storage cannot be read back, so any host synchronization raises here."""
    for changes in ({}, DYNAMICS_GRADIENT):
        with torch.device("meta"):
            agent = make_agent(changes)
        batch = make_batch(make_agent(changes)).to("meta")
        metrics, packed = agent.update(batch)
        assert packed.device.type == "meta"
        assert {value.device.type for value in metrics.values()} == {"meta"}


@pytest.mark.slow
@pytest.mark.compiled
def test_the_whole_loss_compiles_into_one_graph():
    """Pitfall 57: no graph breaks, and one compilation serves every update."""
    agent = make_agent(FAST | {"imagination_horizon": 1})
    graphs = []
    loss = torch.compile(agent.loss, backend=keep_in(graphs), fullgraph=True)
    for n in range(4):
        total, _, _ = loss(make_batch(agent, time=2, seed=n))
        agent.optimizer.zero_grad()
        total.backward()
        agent.optimizer.step()
        agent.actor_critic.update_slow_critic()
    assert len(graphs) == 1
    torch._dynamo.reset()


@pytest.mark.parametrize("changes", [{}, DYNAMICS_GRADIENT], ids=["reinforce", "dynamics"])
def test_a_whole_agent_overfits_one_batch(changes):
    """Sanity ladder (i), with every loss at once: the model's losses fall while behavior trains on it."""
    agent = make_agent(
        FAST | {"dynamics.rssm.cell": "gru", "imagination_starts": 2, "imagination_horizon": 2} | changes
    )
    batch = make_batch(agent, time=3)
    with unchecked():
        history = [agent.update(batch)[0] for _ in range(90)]
    first, last = (
        {name: torch.stack([values[name] for values in part]).mean().item() for name in history[0]}
        for part in (history[:3], history[-10:])
    )
    assert last["loss/reconstruction"] < 0.4 * first["loss/reconstruction"]
    assert last["loss/reward"] < 0.4 * first["loss/reward"]
    assert last["loss/continue"] < 0.5 * first["loss/continue"]
    assert all(math.isfinite(value) for value in last.values())


def test_the_entropys_weight_falls_with_the_optimizers_updates():
    agent = make_agent({"behavior.entropy": 0.5, "behavior.entropy_decay": 4})
    weights = [agent.update(make_batch(agent))[0]["behavior/entropy_weight"].item() for _ in range(6)]
    assert weights == pytest.approx([0.5, 0.375, 0.25, 0.125, 0.05, 0.05])
