"""Observations in units of their own spread."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from running import tiny_config
from tiny import make_agent, make_batch

import dreamer
from dreamer.errors import UserError
from dreamer.world_model.standardize import LEAST_STD, SLOWEST, Standardizer

SHAPES = {"speed": (2,), "angle": (1,), "image": (16, 16, 3)}


def batch_of(seed, rows=(4, 5)):
    draw = torch.Generator().manual_seed(seed)
    return {
        "speed": 10 * torch.randn(*rows, 2, generator=draw) + torch.tensor([3.0, -50.0]),
        "angle": 0.1 * torch.randn(*rows, 1, generator=draw),
        "image": torch.zeros(*rows, 16, 16, 3, dtype=torch.uint8),
    }


def test_statistics_are_those_of_all_rows_so_far():
    standardizer, batches = Standardizer(SHAPES), [batch_of(seed) for seed in range(3)]
    for obs in batches:
        standardizer.update(obs)
    rows = torch.cat([torch.cat([obs["angle"], obs["speed"]], -1).flatten(0, 1) for obs in batches]).double().numpy()
    np.testing.assert_allclose(standardizer.mean, rows.mean(0), rtol=1e-5)
    np.testing.assert_allclose(standardizer.variance, rows.var(0), rtol=1e-4)
    joined = {key: torch.cat([obs[key] for obs in batches]) for key in SHAPES}
    scaled = standardizer(joined)
    for key in ("angle", "speed"):
        torch.testing.assert_close(scaled[key].mean((0, 1)), torch.zeros(SHAPES[key]), atol=1e-4, rtol=0)
        torch.testing.assert_close(scaled[key].std((0, 1), correction=0), torch.ones(SHAPES[key]))
    assert scaled["image"] is joined["image"]
    torch.testing.assert_close(standardizer.inverse(scaled), joined)


def test_nothing_changes_before_the_first_update():
    obs = batch_of(0)
    torch.testing.assert_close(Standardizer(SHAPES)(obs), obs)


def test_later_batches_count_at_least_as_much_as_the_thousandth():
    standardizer = Standardizer({"angle": (1,)})
    standardizer.update({"angle": torch.zeros(8, 1)})
    standardizer.count.fill_(1e6)
    standardizer.update({"angle": torch.ones(8, 1)})
    assert standardizer.mean.item() == pytest.approx(SLOWEST)


def test_what_does_not_vary_is_not_blown_up():
    standardizer = Standardizer({"angle": (1,)})
    standardizer.update({"angle": torch.full((8, 1), 5.0)})
    assert standardizer({"angle": torch.tensor([[5.0 + LEAST_STD]])})["angle"].item() == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_spoils_no_statistics(bad):
    standardizer, spoilt, clean = Standardizer(SHAPES), batch_of(0), batch_of(1)
    spoilt["angle"][0, 0, 0] = bad
    standardizer.update(spoilt)
    standardizer.update(clean)
    expected = clean["angle"].var(correction=0), spoilt["speed"][..., 0].mean() / 2 + clean["speed"][..., 0].mean() / 2
    torch.testing.assert_close((standardizer.variance[0], standardizer.mean[1]), expected)


def test_units_of_observations_do_not_matter():
    """A power of two is exact, so that losses, filtered states and gradients are the same number for number."""

    def learned(factor, standardize):
        agent = make_agent({"world_model.standardize": standardize})
        batch = make_batch(agent)
        for value in batch.obs.values():
            value.mul_(factor)
        torch.manual_seed(0)
        metrics, packed = agent.update(batch)
        return {name: value.item() for name, value in metrics.items()}, packed

    (metrics, packed), (scaled_metrics, scaled_packed) = learned(1.0, True), learned(64.0, True)
    assert metrics == scaled_metrics and torch.equal(packed, scaled_packed)
    assert learned(1.0, False)[0] != learned(64.0, False)[0]


def test_decoded_observations_are_in_their_own_units():
    agent = make_agent({"world_model.standardize": True})
    batch = make_batch(agent)
    model, key = agent.world_model, next(iter(batch.obs))
    batch.obs[key].mul_(5).add_(1000)
    model.adapt(batch.obs)
    states = model.observe(batch)
    with torch.no_grad():
        decoded = model.decode(states)[key]
    assert (decoded - 1000).abs().max() < 100, "an untrained decoder answers within a few standard deviations"


def test_acting_sees_the_same_units_as_learning():
    agents = [make_agent({"world_model.standardize": True}) for _ in range(2)]
    batch = make_batch(agents[0])
    answers = []
    for agent, factor in zip(agents, (1.0, 64.0), strict=True):
        obs = {key: value * factor for key, value in batch.obs.items()}
        agent.world_model.adapt(obs)
        first = {key: value[:, 0] for key, value in obs.items()}
        torch.manual_seed(0)
        answers.append(agent.step(first, batch.is_first[:, 0] | True, agent.initial_carry(len(batch.is_first))).action)
    assert torch.equal(*answers)


def test_a_run_keeps_its_statistics(tmp_path):
    settings = {"steps": 40, "agent.world_model.standardize": True}
    run = dreamer.train(tiny_config("toy:copy", **settings), run_dir=tmp_path / "run").path
    model = dreamer.load(run).world_model
    assert model.standardizer.count.min() > 1 and model.standardizer.variance.min() != 1


@pytest.mark.parametrize("source", [False, True])
def test_weights_that_know_other_units_are_refused(tmp_path, source):
    def config(standardize):
        return tiny_config("toy:copy", steps=4, **{"agent.world_model.standardize": standardize})

    dreamer.train(config(source), run_dir=tmp_path / "old")
    for load in ("all", "world_model"):
        with pytest.raises(UserError, match=r"do not fit .*: world_model\.standardizer\.count .*missing"):
            dreamer.train(config(not source), run_dir=tmp_path / "new", start_from=tmp_path / "old", load=load)
    dreamer.train(config(source), run_dir=tmp_path / "new", start_from=tmp_path / "old")


def test_frozen_vision_keeps_its_units():
    staged = {"dynamics.core": "mdn_rnn", "dynamics.mdn_rnn.vision_updates": 1}
    agent = make_agent(staged | {"world_model.standardize": True})
    batch = make_batch(agent)
    agent.update(batch)
    count = agent.world_model.standardizer.count.clone()
    agent.update(batch)
    assert count.min() == 1 and torch.equal(agent.world_model.standardizer.count, count)
