"""One contract for every dynamics core, broken loops that must fail it, and what is special to the RSSM's cells.

A new core joins by a line in `CASES`.
"""

import math
from typing import get_args

import numpy as np
import pytest
import torch
from tiny import TINY_RSSM, keep_in, mode_latents, unchecked
from torch import nn

from dreamer.config import override
from dreamer.dynamics import CoreName, DynamicsConfig, make_core
from dreamer.dynamics.cells import BlockGRU
from dreamer.dynamics.core import DynamicsCore
from dreamer.nn.layers import Linear

CASES = {
    "rssm-categorical-block_gru": {"core": "rssm", "latent": "categorical", "rssm.cell": "block_gru"},
    "rssm-categorical-gru": {"core": "rssm", "latent": "categorical", "rssm.cell": "gru"},
    "rssm-gaussian-block_gru": {"core": "rssm", "latent": "gaussian", "rssm.cell": "block_gru"},
    "rssm-gaussian-gru": {"core": "rssm", "latent": "gaussian", "rssm.cell": "gru"},
    "ssm-categorical": {"core": "ssm", "latent": "categorical"},
    "ssm-gaussian": {"core": "ssm", "latent": "gaussian"},
    "rnn-block_gru": {"core": "rnn", "rnn.cell": "block_gru"},
    "rnn-gru": {"core": "rnn", "rnn.cell": "gru"},
    "gru": {"core": "gru"},
    "gru-block_gru": {"core": "gru", "gru.cell": "block_gru"},
    "mdn_rnn-joint": {"core": "mdn_rnn", "mdn_rnn.mixture": "joint"},
    "mdn_rnn-per_dimension": {"core": "mdn_rnn", "mdn_rnn.mixture": "per_dimension"},
    "s5-categorical": {"core": "s5", "latent": "categorical"},
    "s5-gaussian": {"core": "s5", "latent": "gaussian"},
    "transformer-categorical": {"core": "transformer", "latent": "categorical"},
    "transformer-gaussian": {"core": "transformer", "latent": "gaussian"},
}
DETERMINISTIC = {"rnn-block_gru", "rnn-gru", "gru", "gru-block_gru"}
"""Cores that imagine one future for each sequence of actions."""
SETTINGS = TINY_RSSM | {"free_nats": 0.0, "components": 2, "modes": 4, "window": 4, "heads": 2}
TINY_SIZES = {
    f"{core}.{name}": value
    for core in get_args(CoreName)
    for name, value in SETTINGS.items()
    if hasattr(getattr(DynamicsConfig(), core), name)
}
EMBED, ACTION, BATCH, TIME = 5, 2, 3, 6
START = 3
"""Row at which the second episode of `inputs` starts."""


def make(case, seed=0, embed=EMBED, action=ACTION):
    torch.manual_seed(seed)
    return make_core(override(DynamicsConfig(), TINY_SIZES | CASES[case]), embed, action)


@pytest.fixture(params=CASES)
def core(request):
    return make(request.param)


def inputs(batch=BATCH, time=TIME):
    """Random embeddings, actions (the row that starts an episode included) and one reset in the middle."""
    generator = torch.Generator().manual_seed(1)
    embeds = torch.randn(batch, time, EMBED, generator=generator)
    actions = torch.randn(batch, time, ACTION, generator=generator)
    is_first = torch.zeros(batch, time, dtype=torch.bool)
    is_first[:, START:][:, :1] = True
    return embeds, actions, is_first


def filtered(core, batch=BATCH):
    """A state that is not the initial one."""
    generator = torch.Generator().manual_seed(2)
    embed, action = (torch.randn(batch, size, generator=generator) for size in (EMBED, ACTION))
    with torch.no_grad():
        return core.observe_step(core.initial_state(batch), action, embed)


def fields(state):
    return vars(state).items()


def everything(state):
    """All fields side by side: distribution parameters differ where one-hot samples may agree."""
    return torch.cat([value for _, value in fields(state)], -1)


def assert_same(left, right, exact=True):
    for name, value in fields(left):
        tolerance = {"rtol": 0, "atol": 0} if exact else {"rtol": 1e-5, "atol": 1e-6}
        torch.testing.assert_close(value, vars(right)[name], **tolerance, msg=lambda text, name=name: f"{name}: {text}")


def same(left, right):
    return all(torch.equal(value, vars(right)[name]) for name, value in fields(left))


@torch.no_grad()
def observe(core, *args):
    torch.manual_seed(0)
    return core.observe(*args)


# The contract: every function raises AssertionError for a core that breaks it


def check_causality(core):
    """Pitfall 1: nothing that arrives later changes a state; with equal noise, states are equal to the bit."""
    embeds, actions, is_first = inputs()
    state = filtered(core)
    whole = observe(core, embeds, actions, is_first, state)
    for t in range(1, TIME):
        later = [x.clone() for x in (embeds, actions)]
        for x in later:
            x[:, t:] = torch.randn(x[:, t:].shape)
        flags = is_first.clone()
        flags[:, t:] = ~flags[:, t:]
        assert_same(observe(core, *later, flags, state)[:, :t], whole[:, :t])


def check_pairing(core):
    """Pitfall 1: the state of row t sees the observation and the action of row t, the first training row included."""
    embeds, actions, is_first = inputs()
    state = filtered(core)
    whole = observe(core, embeds, actions, is_first, state)
    for t in range(TIME):
        for index in range(2):
            changed = [embeds.clone(), actions.clone()]
            changed[index][:, t] += 1.0
            ignored = index == 1 and t == START
            assert same(observe(core, *changed, is_first, state)[:, t], whole[:, t]) == ignored


def check_reset(core):
    """Pitfalls 8 and 9: an episode is filtered as if nothing had come before it, whatever that was.

    Compared with itself alone it may differ in the last bit, since sizes of matrix products differ; garbage in the
    previous episode, in the incoming state and in the action of the row that starts the episode must not matter at all.
    """
    embeds, actions, is_first = inputs()
    state = filtered(core)
    with mode_latents():
        together = observe(core, embeds, actions, is_first, state)[:, START:]
        alone = observe(core, embeds[:, START:], actions[:, START:].clone(), is_first[:, START:])
        assert_same(together, alone, exact=False)
        for garbage in (7.0, math.nan, math.inf, -math.inf):
            dirty = [x.clone() for x in (embeds, actions)]
            dirty[0][:, :START], dirty[1][:, : START + 1] = garbage, garbage
            incoming = state.map(lambda x, garbage=garbage: torch.full_like(x, garbage))
            assert_same(observe(core, *dirty, is_first, incoming)[:, START:], together)


def check_reset_of_single_sequences(core):
    """Pitfall 9: a reset in one sequence leaves the others of the batch alone, and applies at its own row."""
    embeds, actions, is_first = inputs()
    state = filtered(core)
    never = observe(core, embeds, actions, torch.zeros_like(is_first), state)
    is_first[1:] = False
    once = observe(core, embeds, actions, is_first, state)
    assert_same(once[1:], never[1:])
    assert_same(once[:1, :START], never[:1, :START])
    assert not same(once[:1, START], never[:1, START])


def check_chunks(core):
    """A sequence filtered in two pieces equals the whole, with the state packed between them as replay keeps it."""
    embeds, actions, is_first = inputs()
    with mode_latents():
        for state in (None, filtered(core)):
            whole = observe(core, embeds, actions, is_first, state)
            for cut in (1, START, TIME - 1):
                first = observe(core, embeds[:, :cut], actions[:, :cut], is_first[:, :cut], state)
                for handed in (first[:, -1], core.unpack(core.pack(first[:, -1]))):
                    second = observe(core, embeds[:, cut:], actions[:, cut:], is_first[:, cut:], handed)
                    assert_same(first, whole[:, :cut], exact=False)
                    assert_same(second, whole[:, cut:], exact=False)


def check_loop(core):
    """A core's own `observe` equals the base class's loop over `observe_step`, gradients included."""
    embeds, actions, is_first = inputs()
    results = []
    for loop in (type(core).observe, DynamicsCore.observe):
        core.zero_grad()
        torch.manual_seed(0)
        states = loop(core, embeds, actions, is_first, filtered(core))
        total(core, states).backward()
        results.append((states, {name: param.grad for name, param in core.named_parameters()}))
    (states, grads), (expected, expected_grads) = results
    assert_same(states.detach(), expected.detach(), exact=False)
    torch.testing.assert_close(grads, expected_grads, rtol=1e-3, atol=1e-3)


CONTRACT = [check_causality, check_pairing, check_reset, check_reset_of_single_sequences, check_chunks, check_loop]


def total(core, states):
    """A number that depends on everything a core computes."""
    generator = torch.Generator().manual_seed(3)
    features = core.features(states)
    terms, _ = core.loss(states)
    return (features * torch.randn(features.shape, generator=generator)).sum() + sum(x.sum() for x in terms.values())


@pytest.mark.parametrize("check", CONTRACT)
def test_contract(core, check):
    check(core)


@pytest.mark.parametrize(("batch", "time"), [(BATCH, TIME), (1, 1), (1, 4), (2, 1)])
def test_shapes(core, batch, time):
    """Pitfall 52: axes of length 1 are axes."""
    embeds, actions, is_first = inputs(batch, time)
    initial = core.initial_state(batch)
    states = core.observe(embeds, actions, is_first)
    imagined = core.imagine_step(states[:, -1], actions[:, 0])
    for name, value in fields(initial):
        assert value.shape[:1] == (batch,) and value.ndim == 2
        assert vars(states)[name].shape == (batch, time, *value.shape[1:])
        assert vars(imagined)[name].shape == value.shape
    assert type(imagined) is type(states) is type(initial)
    assert core.features(states).shape == (batch, time, core.feature_dim)
    assert core.features(imagined).shape == (batch, core.feature_dim)
    terms, metrics = core.loss(states)
    assert set(terms) == {"dyn", "rep"} and all(term.shape == (batch, time) for term in terms.values())
    assert all(value.shape == () and not value.requires_grad for value in metrics.values())
    assert core.pack(states).shape == (batch, time, core.packed_dim)


def test_packed_states_round_trip(core):
    states = filtered(core)
    packed = core.pack(states)
    unpacked = core.unpack(packed)
    assert torch.equal(core.pack(unpacked), packed) and packed.any()
    assert type(unpacked) is type(states)
    nothing = core.unpack(torch.zeros(2, core.packed_dim))
    assert_same(nothing, core.initial_state(2))


def test_the_model_alone_bounds_actions():
    """Pitfall 35: stored actions are unclipped, yet one of 1.5 and one of 3 are the same action to the model."""
    for case in CASES:
        core = make(case)
        embeds, actions, is_first = inputs()
        signs = actions.sign()
        small, large = (observe(core, embeds, signs * scale, is_first) for scale in (1.5, 3.0))
        assert_same(small, large)
        assert not same(small, observe(core, embeds, signs * 0.5, is_first))
        state, action = filtered(core), signs[:, 0].clone().requires_grad_()
        with mode_latents():
            assert_same(core.imagine_step(state, 1.5 * action), core.imagine_step(state, 3.0 * action))
        features = core.features(core.imagine_step(state, 1.5 * action))
        (features * torch.randn(features.shape)).sum().backward()  # a plain sum of probabilities is constant
        assert action.grad.abs().max() > 1e-3, "the bound has no gradient of its own, but passes that of the action"


def test_actions_reach_imagination(core):
    state = filtered(core)
    action = torch.zeros(BATCH, ACTION, requires_grad=True)
    with mode_latents(), torch.no_grad():
        still, moved = (everything(core.imagine_step(state, action + shift)) for shift in (0.0, 0.5))
    assert ((still - moved).abs().amax(-1) > 1e-4).all()
    (core.features(core.imagine_step(state, action)) * torch.randn(BATCH, core.feature_dim)).sum().backward()
    assert (action.grad != 0).all()


@pytest.mark.parametrize("case", CASES)
def test_imagination_never_sees_observations(case):
    """The parameters that read an embedding have no part in a prediction, and neither does filtering."""
    core = make(case)
    wider = dict(make(case, embed=EMBED + 3).named_parameters())
    readers = [param for name, param in core.named_parameters() if param.shape != wider[name].shape]
    assert readers
    state = filtered(core)
    core.observe_step = core.observe = None
    for _ in range(3):
        state = core.imagine_step(state, torch.randn(BATCH, ACTION))
    gradients = torch.autograd.grad(core.features(state).square().sum(), readers, allow_unused=True)
    assert all(gradient is None for gradient in gradients)


def test_gradients_reach_every_parameter(core):
    """Pitfall 60: nothing is built that is not trained."""
    embeds, actions, is_first = inputs()
    embeds.requires_grad_()
    total(core, core.observe(embeds, actions, is_first, filtered(core))).backward()
    for name, param in core.named_parameters():
        assert param.grad is not None and param.grad.any(), name
    assert embeds.grad.flatten(2).any(-1).all()


def test_gradients_stay_finite_when_an_episode_follows_garbage(core):
    """Pitfall 8: a reset by multiplication would send not-a-number through the gradient."""
    embeds, actions, is_first = inputs()
    is_first[:, 0] = True
    actions[:, 0] = math.nan
    garbage = filtered(core).map(lambda x: torch.full_like(x, math.nan))
    total(core, core.observe(embeds, actions, is_first, garbage)).backward()
    assert all(param.grad.isfinite().all() for param in core.parameters())


def test_inputs_are_not_changed(core):
    """Pitfall 54: a reset must not be written into the batch or into the state that was handed over."""
    given = [*inputs(), *vars(filtered(core)).values()]
    copies = [x.clone() for x in given]
    core.observe(*given[:3], type(filtered(core))(*given[3:]))
    assert all(torch.equal(x, copy) for x, copy in zip(given, copies, strict=True))


@pytest.mark.parametrize("case", CASES)
def test_rows_in_the_same_state_imagine_differently(case):
    """Pitfall 59: every row and every step has noise of its own; a deterministic core has none."""
    core = make(case)
    state = filtered(core, batch=1)[torch.zeros(32, dtype=torch.long)]
    steps = [core.features(core.imagine_step(state, torch.zeros(32, ACTION))) for _ in range(2)]
    if case in DETERMINISTIC:
        assert torch.equal(*steps) and torch.equal(steps[0], steps[0][:1].expand_as(steps[0]))
    else:
        assert all(len(step.unique(dim=0)) > 8 for step in steps)
        assert not torch.equal(*steps)


@pytest.mark.parametrize("case", CASES)
def test_learns_a_world_that_repeats_the_action(case):
    """Pitfall 1: what an action does must be known from the prior alone, without the observation that follows."""
    assert prediction_error(case, shift=0) < 0.3


def test_cannot_learn_a_world_that_reveals_the_next_action():
    """Pitfall 1: with each action one row too late, losses fall too, but the prior learns nothing."""
    assert prediction_error("rssm-gaussian-gru", shift=1, updates=60) > 0.8


def prediction_error(case, shift, updates=120):
    """Squared error of predicting, from the prior, an observation of variance 1: the action `shift` rows later."""
    core = make(case, action=1)
    encoder, decoder = nn.Linear(1, EMBED), nn.Linear(core.feature_dim, 1)
    params = [*core.parameters(), *encoder.parameters(), *decoder.parameters()]
    optimizer = torch.optim.Adam(params, 1e-2)
    with unchecked():
        for _ in range(updates):
            actions, obs, is_first = echo_world(shift)
            states = core.observe(encoder(obs), actions, is_first)
            terms, _ = core.loss(states)
            error = (decoder(core.features(states)) - obs).square().mean()
            optimizer.zero_grad()
            (error + terms["dyn"].mean() + 0.1 * terms["rep"].mean()).backward()
            optimizer.step()
    actions, obs, is_first = echo_world(shift)
    with torch.no_grad(), mode_latents():
        states = core.observe(encoder(obs), actions, is_first)
        predicted = core.imagine_step(states[:, -2], actions[:, -1])
        return (decoder(core.features(predicted)) - obs[:, -1]).square().mean().item()


def echo_world(shift, batch=32, time=3):
    actions = torch.randint(0, 2, (batch, time + shift, 1)) * 2.0 - 1.0
    is_first = torch.zeros(batch, time, dtype=torch.bool)
    is_first[:, 0] = True
    return actions[:, :time], actions[:, shift:], is_first


@pytest.mark.slow
@pytest.mark.compiled
@pytest.mark.parametrize("case", CASES)
def test_compiles_into_one_graph(case):
    """Pitfall 57: no graph breaks, and the second call compiles nothing."""
    core, state = make(case), filtered(make(case))
    graphs = []
    compiled = torch.compile(core.observe, backend=keep_in(graphs), fullgraph=True)
    for _ in range(2):
        with torch.no_grad():
            torch.manual_seed(0)
            states = compiled(*inputs(time=4), state)
        assert_same(states, observe(core, *inputs(time=4), state), exact=False)
    assert len(graphs) == 1
    torch._dynamo.reset()


# Broken loops, each of which the contract must catch


class PlainLoop:
    """The base loop in four pieces; mixed into a core, it replaces `observe`."""

    def observe(self, embeds, prev_actions, is_first, state=None):
        initial = self.initial_state(embeds.shape[0])
        state = self.incoming(initial, state)
        prev_actions = self.clear(prev_actions, is_first)
        states = []
        for t in range(embeds.shape[1]):
            state = self.reset(is_first[:, t], initial, state)
            state = self.observe_step(state, prev_actions[:, t], self.embed(embeds, t))
            states.append(state)
        return type(initial).stack(states, dim=1)

    def incoming(self, initial, state):
        return initial if state is None else state

    def clear(self, prev_actions, is_first):
        return prev_actions.masked_fill(is_first.unsqueeze(-1), 0.0)

    def reset(self, is_first, initial, state):
        return initial.where(is_first, state)

    def embed(self, embeds, t):
        return embeds[:, t]


class NoReset(PlainLoop):
    def reset(self, is_first, initial, state):
        return state


class ActionNotZeroed(PlainLoop):
    def clear(self, prev_actions, is_first):
        return prev_actions


class Peeking(PlainLoop):
    def embed(self, embeds, t):
        return embeds[:, min(t + 1, embeds.shape[1] - 1)]


class DroppedState(PlainLoop):
    def incoming(self, initial, state):
        return initial


def with_loop(case, loop):
    core = make(case)
    core.__class__ = type(loop.__name__, (loop, type(core)), {})
    return core


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("loop", "violated"),
    [
        (NoReset, check_reset),
        (ActionNotZeroed, check_reset),
        (Peeking, check_causality),
        (DroppedState, check_chunks),
    ],
)
def test_broken_loops_fail_the_contract(case, loop, violated):
    """Pitfalls 1, 8, 9 and 10: each way to break the loop is caught by the check that is about it."""
    with pytest.raises(AssertionError):
        violated(with_loop(case, loop))
    with pytest.raises(AssertionError):
        check_loop(with_loop(case, loop))


@pytest.mark.parametrize("check", CONTRACT)
def test_the_loop_they_were_made_from_passes(check):
    check(with_loop("rssm-gaussian-gru", PlainLoop))


# The block GRU


def test_block_gru_matches_the_published_equations():
    """Pitfalls 42 and 43: order of the gates, where reset acts, and one normalization over the whole state.

    Written with loops over blocks and every block's kernel spelled out as [h_k, e] -> slice k.
    """
    deter, hidden, blocks, stoch = 6, 4, 2, 5
    torch.manual_seed(0)
    cell = BlockGRU(deter, hidden, stoch, ACTION, blocks)
    for param in cell.parameters():
        nn.init.normal_(param)
    h, z, a = (torch.randn(3, size) for size in (deter, stoch, ACTION))
    result = cell(h, z, a).detach()

    def number(x):
        return x.detach().double().numpy()

    def norm_silu(x, scale):
        y = x / np.sqrt(np.mean(x**2, -1, keepdims=True) + 1e-4) * number(scale)
        return y / (1 + np.exp(-y))

    def project(x, mlp):
        return norm_silu(number(x) @ number(mlp[0].weight).T + number(mlp[0].bias), mlp[1].scale)

    e = np.concatenate([project(h, cell.from_deter), project(z, cell.from_stoch), project(a, cell.from_action)], -1)
    size = deter // blocks
    slices = [slice(k * size, (k + 1) * size) for k in range(blocks)]
    x = np.zeros((3, deter))
    for k, part in enumerate(slices):
        kernel = np.concatenate([number(cell.recurrent.weight)[k], number(cell.shared)[:, part]])
        x[:, part] = np.concatenate([number(h)[:, part], e], -1) @ kernel
    x = norm_silu(x + number(cell.recurrent.bias), cell.norm.scale)
    expected = np.zeros((3, deter))
    for k, part in enumerate(slices):
        gates = x[:, part] @ number(cell.gates.weight)[k] + number(cell.gates.bias)[3 * size * k : 3 * size * (k + 1)]
        reset, candidate, update = gates[:, :size], gates[:, size : 2 * size], gates[:, 2 * size :]
        reset, update = 1 / (1 + np.exp(-reset)), 1 / (1 + np.exp(1 - update))
        expected[:, part] = update * np.tanh(reset * candidate) + (1 - update) * number(h)[:, part]
    np.testing.assert_allclose(result, expected, atol=1e-5)


def test_reset_gate_multiplies_the_candidate_and_not_the_state():
    """Pitfall 43: a full update toward a candidate of zero forgets everything, whatever the reset gate says."""
    cell = BlockGRU(deter=6, hidden=4, stoch=5, action=ACTION, blocks=2)
    nn.init.zeros_(cell.gates.weight)
    for reset in (-50.0, 0.0, 50.0):
        bias = torch.tensor([[reset] * 3 + [0.0] * 3 + [50.0] * 3] * 2)
        with torch.no_grad():
            cell.gates.bias.copy_(bias.flatten())
        assert cell(torch.randn(3, 6), torch.randn(3, 5), torch.randn(3, ACTION)).abs().max() < 1e-6


def test_prior_and_posterior_have_the_published_depth():
    core = make("rssm-categorical-block_gru")
    depth = [sum(isinstance(layer, Linear) for layer in net) for net in (core.prior_net, core.posterior_net)]
    assert depth == [3, 2]
