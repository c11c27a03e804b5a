"""Who trains whom: every loss term against every group of parameters, for every kind of actor gradient."""

import pytest
import torch
from tiny import CONTINUOUS, DISCRETE, DYNAMICS_GRADIENT, awaken, make_agent, make_batch

MODEL = {"encoder", "recurrent", "posterior"}
ROUTES = {
    "reconstruction": MODEL | {"decoder"},
    "reward": MODEL | {"reward"},
    "cont": MODEL | {"cont"},
    "dyn": MODEL | {"prior"},
    "rep": MODEL,
    "actor": {"actor"},
    "critic": {"critic"},
    "replay_critic": MODEL | {"critic"},
}
"""Trained groups of each term. The posterior learns from `dyn` only through earlier samples that enter h, see below."""

AGENTS = {
    "categorical-reinforce": ({}, CONTINUOUS),
    "categorical-reinforce-discrete": ({}, DISCRETE),
    "gaussian-dynamics": (DYNAMICS_GRADIENT, CONTINUOUS),
    "gaussian-both": (DYNAMICS_GRADIENT | {"behavior.actor_gradient": "both"}, CONTINUOUS),
}
ACTIVE = {"dynamics.rssm.free_nats": 0.0}
"""Free nats would switch the core's gradients off wherever the divergence happens to be small."""


def groups(agent):
    """Parameters by name in groups that together are all of the agent's."""
    model, behavior = agent.world_model, agent.actor_critic
    modules = {
        "encoder": model.encoder,
        "recurrent": model.core.cell,
        "prior": model.core.prior_net,
        "posterior": model.core.posterior_net,
        "decoder": model.objective,
        "reward": model.reward,
        "cont": model.cont,
        "actor": behavior.actor,
        "critic": behavior.critic,
        "slow_critic": behavior.slow_critic,
    }
    found = {group: dict(module.named_parameters()) for group, module in modules.items()}
    assert sum(map(len, found.values())) == len(list(agent.parameters()))
    return found


def matrix(agent, batch):
    """For every term and group: the gradients of the term, by parameter name (None and zero are the same)."""
    terms, _, _ = agent.loss_terms(batch)
    result = {}
    for name, term in terms.items():
        agent.zero_grad()
        term.mean().backward(retain_graph=True)
        result[name] = {
            group: {key: param.grad is not None and bool(param.grad.any()) for key, param in params.items()}
            for group, params in groups(agent).items()
        }
    return result


@pytest.mark.parametrize("name", AGENTS)
def test_every_term_trains_exactly_its_groups(name):
    """Pitfalls 19, 25, 26 and 60: zero and non-zero gradients of every (term, group) pair.

    A group that is trained is trained in every parameter; one that is not, in none.
    """
    changes, action = AGENTS[name]
    agent = make_agent(ACTIVE | changes, action)
    awaken(agent)
    found = matrix(agent, make_batch(agent))
    assert found.keys() == ROUTES.keys()
    for term, routes in ROUTES.items():
        for group, params in found[term].items():
            expected = group in routes
            wrong = [key for key, trained in params.items() if trained != expected]
            assert not wrong, f"{term} -> {group}: {wrong} should {'' if expected else 'not '}get a gradient"


@pytest.mark.parametrize(
    ("term", "trained"), [("dyn", {"recurrent", "prior"}), ("rep", {"recurrent", "posterior", "encoder"})]
)
def test_stopped_sides_of_the_divergence(term, trained):
    """Pitfall 19: on a single row, where no earlier sample leads back to it, each side is stopped entirely."""
    agent = make_agent(ACTIVE)
    awaken(agent)
    batch = make_batch(agent, time=1)
    states = agent.world_model.observe(batch)
    terms, _ = agent.world_model.core.loss(states)
    terms[term].mean().backward()
    found = {
        group
        for group, params in groups(agent).items()
        if any(param.grad is not None and param.grad.any() for param in params.values())
    }
    assert found == trained


@pytest.mark.parametrize("name", AGENTS)
def test_actor_learns_without_an_entropy_bonus(name):
    """Pitfalls 26 and 27: detached features or sampled classes would cut a path-wise gradient without a sign."""
    changes, action = AGENTS[name]
    agent = make_agent(ACTIVE | changes | {"behavior.entropy": 0.0}, action)
    awaken(agent)
    terms, _, _ = agent.loss_terms(make_batch(agent))
    terms["actor"].mean().backward()
    assert all(param.grad is not None and param.grad.any() for param in agent.actor_critic.actor.parameters())


def test_dynamics_gradient_passes_through_the_world_model_without_training_it():
    """Pitfall 25: parameters are frozen while imagining, and trainable again afterwards."""
    agent = make_agent(ACTIVE | DYNAMICS_GRADIENT)
    trainable = {name for name, param in agent.named_parameters() if param.requires_grad}
    agent.loss_terms(make_batch(agent))
    assert {name for name, param in agent.named_parameters() if param.requires_grad} == trainable
    assert {name.split(".")[1] for name in set(dict(agent.named_parameters())) - trainable} == {"slow_critic"}


@pytest.mark.parametrize("name", AGENTS)
def test_one_update_trains_everything_but_the_slow_critic(name):
    """Pitfall 60: the weighted sum leaves no parameter behind."""
    changes, action = AGENTS[name]
    agent = make_agent(ACTIVE | changes, action)
    awaken(agent)
    total, _, _ = agent.loss(make_batch(agent))
    total.backward()
    for key, param in agent.named_parameters():
        trained = param.grad is not None and bool(param.grad.any())
        assert trained == ("slow_critic" not in key), key
    assert torch.isfinite(total)
