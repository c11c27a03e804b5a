"""Hand-optimised equivalents compute what the plain code computes, and give way where it is edited."""

import copy

import pytest
import torch
import torch.nn.functional as F
from tiny import CONTINUOUS, CORES, DISCRETE, awaken, make_agent, make_batch

from dreamer.dynamics.core import DynamicsCore
from dreamer.dynamics.gru import GRUCore
from dreamer.dynamics.latents import CategoricalLatent, GaussianLatent
from dreamer.dynamics.mdn_rnn import MDNRNN
from dreamer.dynamics.rnn import RNN
from dreamer.dynamics.rssm import RSSM
from dreamer.dynamics.s5 import S5
from dreamer.dynamics.ssm import SSM
from dreamer.dynamics.transformer import Transformer, TransformerLayer
from dreamer.fast import filter as fast_filter
from dreamer.fast import kernels, originals
from dreamer.nn.layers import ExactLinear, NormSiLU
from dreamer.training import accelerate
from dreamer.training.equivalence import replaced
from dreamer.world_model.heads import HeadConfig, ScalarHead


@pytest.fixture(params=[2, 1024], ids=["chunks of two rows", "one chunk"])
def chunks(request, monkeypatch):
    """Five rows make two full chunks and a rest."""
    monkeypatch.setattr(kernels, "CACHED_ROWS", request.param)


def leaf(*shape, scale=1.0):
    return (torch.randn(*shape) * scale).requires_grad_()


def assert_same(left, right, inputs):
    """Equal values, and equal gradients of a random weighting of them."""
    torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-6)
    weights = torch.randn_like(left)
    found, expected = (torch.autograd.grad((value * weights).sum(), inputs) for value in (left, right))
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def head(features=8):
    """A head without hidden layers that are not zero."""
    head = ScalarHead(HeadConfig(units=6, layers=1), features)
    awaken(head)
    return head


@pytest.mark.parametrize("size", [1, 7, 64])
def test_norm_silu(size):
    torch.manual_seed(0)
    x, norm = leaf(3, 5, size), NormSiLU(size)
    torch.nn.init.normal_(norm.scale)
    assert_same(kernels.norm_silu(norm, x), norm(x), [x, norm.scale])
    with torch.no_grad():
        torch.testing.assert_close(kernels.norm_silu(norm, x), norm(x))


def test_norm_silu_computes_in_float32_and_returns_the_type_it_was_given():
    x = torch.full((1, 1000), 0.1).bfloat16().requires_grad_()
    y = kernels.norm_silu(NormSiLU(1000), x)
    y.sum().backward()
    assert y.dtype == x.grad.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), F.silu(torch.ones(1, 1000)), rtol=0.01, atol=0)


@pytest.mark.usefixtures("chunks")
def test_value_of_a_two_hot_head():
    torch.manual_seed(0)
    plain, features = head(), torch.randn(5, 3, 8)
    with torch.no_grad():
        plain.output.bias[:100] = plain.output.bias[155:] = -20.0
        expected = plain(features).mean()
        torch.testing.assert_close(kernels.two_hot_head(plain, features).mean(), expected, rtol=1e-4, atol=1e-4)
        plain.output.weight.zero_()
        plain.output.bias.fill_(0.3)
        assert not kernels.two_hot_head(plain, features).mean().any(), "pitfall 22: exactly zero"


def test_value_of_a_two_hot_head_passes_a_gradient():
    torch.manual_seed(0)
    plain, features = head(), leaf(5, 8)
    with torch.no_grad():
        plain.output.bias[:100] = plain.output.bias[155:] = -20.0
    assert_same(kernels.two_hot_head(plain, features).mean(), plain(features).mean(), [features])


@pytest.mark.usefixtures("chunks")
def test_cross_entropy_of_a_two_hot_head():
    torch.manual_seed(0)
    plain, features = head(), leaf(5, 3, 8)
    first, second = torch.randn(5, 3) * 10, torch.randn(5, 3)
    first[0] = torch.tensor([1e9, -1e9, 0.0])  # both ends, and a bin's own position
    targets = (first, 1.0), (second, 0.7)
    inputs = [features, *plain.parameters()]
    fast = kernels.two_hot_head(plain, features).cross_entropy(*targets)
    assert_same(fast, plain(features).cross_entropy(*targets), inputs)
    part = kernels.two_hot_head(plain, features)[:, 1:].cross_entropy((first[:, 1:], 2.0))
    assert_same(part, plain(features)[:, 1:].cross_entropy((first[:, 1:], 2.0)), inputs)


def test_equal_targets_add_up():
    """Both targets mark the same two bins, which must not overwrite each other."""
    plain, features, target = head(), leaf(4, 8), torch.full((4,), 0.5)
    twice = kernels.two_hot_head(plain, features).cross_entropy((target, 1.0), (target, 1.0))
    assert_same(twice, 2 * plain(features).cross_entropy((target, 1.0)), [features, *plain.parameters()])


@pytest.mark.parametrize("latent", ["categorical", "gaussian"])
def test_filter(latent):
    agent = make_agent({"dynamics.core": "rssm", "dynamics.latent": latent})
    awaken(agent)
    core, batch = agent.world_model.core, make_batch(agent)
    embeds = agent.world_model.embed(batch.obs).detach().requires_grad_()
    inputs = (embeds, batch.prev_action, batch.is_first, core.unpack(batch.context))
    weights = [param for name, param in core.named_parameters() if "prior" not in name]
    values, gradients = [], []
    for observe in (core.observe, lambda *args: fast_filter.observe(core, *args)):
        torch.manual_seed(5)
        states = observe(*inputs)
        values.append(states)
        loss = sum(
            (getattr(states, name) * torch.randn(getattr(states, name).shape)).sum()
            for name in ("deter", "stoch", "params")
        )
        gradients.append(torch.autograd.grad(loss, [embeds, *weights]))
    for name in ("deter", "stoch", "params"):
        torch.testing.assert_close(getattr(values[1], name), getattr(values[0], name), rtol=1e-4, atol=1e-5)
    for mine, theirs in zip(*gradients[::-1], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("latent", [CategoricalLatent(3, 4), GaussianLatent(5)], ids=["categorical", "gaussian"])
def test_gradient_of_a_sample(latent):
    torch.manual_seed(0)
    params, grad = leaf(6, latent.num_params), torch.randn(6, latent.dim)
    sample = latent.sample(params)
    expected = torch.autograd.grad(sample, params, grad)[0]
    found = fast_filter.sample_vjp(latent, params.detach(), sample.detach(), grad)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("action", [CONTINUOUS, DISCRETE], ids=["continuous", "discrete"])
@pytest.mark.parametrize("core", CORES)
def test_an_update_with_equivalents_is_the_plain_update(core, action):
    plain = make_agent({"dynamics.core": core, "optimizer.warmup": 0}, action)
    awaken(plain)
    fast = copy.deepcopy(plain)
    update = accelerate.AcceleratedUpdate(fast, compiled=False)
    results = []
    for agent, run in ((plain, plain.update), (fast, update)):
        torch.manual_seed(7)
        results.append(run(make_batch(agent)))
    names = {name for _, name, _ in update.methods}
    assert names == ({"forward", "observe"} if core == "rssm" else {"forward"})
    torch.testing.assert_close(results[1][1], results[0][1], rtol=1e-4, atol=1e-4)
    for name, value in results[0][0].items():
        torch.testing.assert_close(results[1][0][name], value, rtol=1e-3, atol=1e-4)


def test_the_comparison_leaves_the_agent_and_the_random_numbers_as_they_were():
    agent = make_agent({"world_model.standardize": True})
    before, state = copy.deepcopy(agent.state_dict()), torch.get_rng_state()
    assert accelerate.verified_equivalents(agent)
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in agent.state_dict().items():
        assert torch.equal(value, before[name]), name


EDITS = {
    "rssm recurrent": ("rssm", RSSM, "recurrent"),
    "rssm prior": ("rssm", RSSM, "prior"),
    "rssm posterior": ("rssm", RSSM, "posterior"),
    "ssm prior": ("ssm", SSM, "prior"),
    "rnn recurrent": ("rnn", RNN, "recurrent"),
    "gru recurrent": ("gru", GRUCore, "recurrent"),
    "mdn_rnn recurrent": ("mdn_rnn", MDNRNN, "recurrent"),
    "s5 recurrent": ("s5", S5, "recurrent"),
    "s5 posterior": ("s5", S5, "posterior"),
    "transformer recurrent": ("transformer", Transformer, "recurrent"),
    "attention": ("transformer", TransformerLayer, "attend"),
    "latent": ("rssm", CategoricalLatent, "kl"),
    "norm": ("rssm", NormSiLU, "forward"),
    "gaussian output": ("rssm:gaussian", ExactLinear, "forward"),
}
"""Core, class and equation that is edited."""


def halved(method):
    """The same method with half of its result."""

    def edited(self, *args):
        result = method(self, *args)
        return tuple(x / 2 for x in result) if isinstance(result, tuple) else result / 2

    return edited


SLOW = [pytest.mark.compiled, pytest.mark.slow]
CASES = [
    *(("eager", "before", edit) for edit in EDITS),
    *(("fast", moment, edit) for moment in ("before", "while training") for edit in EDITS),
    *(("captured", "while training", edit) for edit in ("rssm posterior", "gru recurrent", "norm", "gaussian output")),
    *(pytest.param("compiled", "while training", edit, marks=SLOW) for edit in EDITS),
]
"""Way in which updates are run, moment of the edit, and the edit."""


@pytest.mark.parametrize(("way", "moment", "edit"), CASES)
def test_an_edited_equation_changes_training(way, moment, edit, monkeypatch, capsys):
    """Section 8 of the design: what a reader edits is what trains, whichever way the update is run."""
    variant, owner, name = EDITS[edit]
    core, _, latent = variant.partition(":")
    agent = make_agent({"dynamics.core": core, "dynamics.latent": latent or "auto"})
    awaken(agent)
    update = {
        "eager": lambda: agent.update,
        "fast": lambda: accelerate.AcceleratedUpdate(agent, compiled=False),
        "compiled": lambda: accelerate.AcceleratedUpdate(agent, compiled=True, backend="aot_eager"),
        "captured": lambda: Recorded(agent, accelerate.AcceleratedUpdate(agent, compiled=False)),
    }[way]()

    start = copy.deepcopy(agent.learner_state())

    def outcome(run):
        agent.load_learner_state(start)
        torch.manual_seed(3)
        metrics, packed = run(make_batch(agent))
        torch.manual_seed(3)
        rollout = agent.imagine_trajectory(agent.world_model.core.unpack(packed.flatten(0, 1)))
        return metrics["loss/total"].item(), packed, rollout.features

    try:
        if moment == "while training":
            before = outcome(update)
        else:
            before = outcome(agent.update)
        monkeypatch.setattr(owner, name, halved(getattr(owner, name)))
        after, plain = outcome(update), outcome(agent.update)
    finally:
        torch._dynamo.reset()
    assert after[0] != pytest.approx(before[0], rel=1e-5), "the loss is that of the edited equation"
    assert after[0] == pytest.approx(plain[0], rel=1e-4)
    torch.testing.assert_close(after[1], plain[1], rtol=1e-4, atol=1e-4)
    if edit != "latent":
        assert not torch.allclose(after[2], before[2]), "and so is the imagined rollout"
    said = capsys.readouterr().err.splitlines()
    in_filter = edit in ("rssm recurrent", "rssm posterior", "gaussian output")
    expected = ["RSSM.observe"] if in_filter and way != "eager" else []
    expected = ["NormSiLU.forward", "RSSM.observe"] if edit == "norm" and way != "eager" else expected
    assert [line.partition(":")[0] for line in said] == expected


class Recorded:
    """A CUDA graph's behaviour without a GPU: an update is recorded once, and then repeated whatever the code says."""

    def __init__(self, agent, update):
        self.agent, self.update, self.record = agent, update, None

    def __call__(self, batch):
        if self.update.prepare():
            self.record = None
        if self.record is None:
            self.record = self.update(batch)
        return self.record


def test_a_subclass_that_overrides_an_equation_runs_as_it_is_written(capsys):
    class Forgetful(RSSM):
        def posterior(self, deter, embed):
            return super().posterior(torch.zeros_like(deter), embed)

    agent = make_agent()
    agent.world_model.core.__class__ = Forgetful
    assert "observe" not in {name for _, name, _ in accelerate.verified_equivalents(agent)}
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("Forgetful.observe")
    agent.world_model.core.__class__ = type("Renamed", (RSSM,), {})
    assert "observe" in {name for _, name, _ in accelerate.verified_equivalents(agent)}


@pytest.mark.parametrize("latent", ["categorical", "gaussian"])
def test_fingerprints_are_those_of_the_plain_code(latent):
    """After a change of these functions: change the equivalent too, then write these values into FINGERPRINTS."""
    agent = make_agent({"dynamics.latent": latent})
    functions = [function for one in accelerate.equivalents(agent).values() for function in one.originals]
    found = {originals.name_of(function): originals.fingerprint(function) for function in functions}
    assert found.items() <= originals.FINGERPRINTS.items(), "\n".join(f'    "{k}": "{v}",' for k, v in found.items())
    assert not originals.edited(functions)


def test_a_fingerprint_sees_code_and_no_comments():
    def plain():
        def step(x):
            return x + 1

        return step

    def commented():
        def step(x):
            """Docstring."""
            return x + 1  # comment

        return step

    def edited():
        def step(x):
            return x + 2

        return step

    prints = [originals.fingerprint(make()) for make in (plain, commented, edited)]
    assert prints[0] == prints[1] != prints[2] and originals.fingerprint(len) == ""


def test_an_edit_that_acts_on_long_sequences_alone_is_seen(monkeypatch, capsys):
    """Truncated back-propagation changes nothing on the three steps of the numerical comparison."""
    agent, plain = make_agent(), DynamicsCore.observe

    def truncated(self, embeds, *args):
        return plain(self, embeds, *args) if embeds.shape[1] < 4 else plain(self, embeds, *args).detach()

    monkeypatch.setattr(DynamicsCore, "observe", truncated)
    update = accelerate.AcceleratedUpdate(agent, compiled=False)
    update.prepare()
    assert "observe" not in {name for _, name, _ in update.methods}
    assert capsys.readouterr().err.startswith("RSSM.observe: ")


def test_an_edit_that_the_equivalent_cannot_run_is_run_as_it_is(monkeypatch, capsys):
    """Another structure makes the fast code raise, which counts as a difference."""
    agent = make_agent()
    monkeypatch.setattr(fast_filter, "observe", lambda *_: 1 / 0)
    assert "observe" not in {name for _, name, _ in accelerate.verified_equivalents(agent)}
    assert "computes something else" in capsys.readouterr().err


def test_more_starts_than_steps_are_all_steps():
    agent = make_agent({"imagination_starts": 50})
    metrics, _ = accelerate.AcceleratedUpdate(agent, compiled=False)(make_batch(agent))
    assert metrics["loss/total"].isfinite()


def test_nothing_stays_in_place_after_an_update():
    agent = make_agent()
    accelerate.AcceleratedUpdate(agent, compiled=False)(make_batch(agent))
    assert "observe" not in vars(agent.world_model.core)
    assert agent.world_model.core.observe.__func__ is DynamicsCore.observe
    with pytest.raises(RuntimeError), replaced([(agent, "update", lambda: 1)]):
        raise RuntimeError
    assert "update" not in vars(agent)
