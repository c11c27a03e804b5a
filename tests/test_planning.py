"""Planners: their scores, their fits, and acting with them in collection, evaluation and after a resume."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from running import newest, tiny_config, tiny_flags
from tiny import CONTINUOUS, CORES, DISCRETE, OBS, make_agent, mode_latents

import dreamer
from dreamer.cli.main import main
from dreamer.errors import UserError
from dreamer.planning.cem import CEM
from dreamer.planning.mppi import MPPI
from dreamer.planning.planner import CategoricalProposal, GaussianProposal, best

SMALL = {"cem": CEM(4, 24, 3, 6), "mppi": MPPI(3, 24, 4, 3, 6)}
PLANNERS = list(SMALL)


def start(agent, count=3, seed=0):
    """Filtered states `[env]` that differ."""
    generator = torch.Generator().manual_seed(seed)
    obs = {key: torch.randn(count, *shape, generator=generator).numpy() for key, shape in OBS.items()}
    return agent.observe(obs)


def echo_agent(action=CONTINUOUS, target=0.6):
    """An agent that imagines -(first action - target)^2 as reward, and states of it; its critic says 0."""
    agent = make_agent({}, action)
    state, model = start(agent), agent.world_model
    model.core.imagine_step = lambda state, action: replace(
        state, deter=torch.nn.functional.pad(action, (0, state.deter.shape[-1] - action.shape[-1]))
    )
    model.predict = lambda features: (-((features[..., 0] - target) ** 2), torch.full(features.shape[:-1], 0.9))
    return agent, state


@pytest.mark.parametrize("name", PLANNERS)
def test_a_planner_finds_the_action_that_is_rewarded(name):
    agent, state = echo_agent()
    torch.manual_seed(0)
    planner = {"cem": CEM(4, 200, 6, 20), "mppi": MPPI(3, 200, 4, 8, 20, temperature=0.05)}[name]
    with torch.no_grad():
        action, _ = planner.plan(agent.dream, state, None, explore=False)
    assert action.shape == (3, 2) and (action[:, 0] - 0.6).abs().max() < 0.1


@pytest.mark.parametrize("name", PLANNERS)
def test_a_planner_finds_the_choice_that_is_rewarded(name):
    agent, state = echo_agent(DISCRETE, target=1.0)
    torch.manual_seed(0)
    with torch.no_grad():
        for explore in (False, True):
            action, _ = SMALL[name].plan(agent.dream, state, None, explore)
            assert torch.equal(action, torch.tensor([[1.0, 0, 0]]).expand(3, 3))


@pytest.mark.parametrize("value", [False, True])
def test_the_score_of_a_plan_is_its_discounted_return_in_imagination(value):
    """Recomputed step by step: reward on arrival, times the discounts of earlier arrivals, then the critic."""
    agent = make_agent({})
    for head in (agent.world_model.reward, agent.actor_critic.critic):
        torch.nn.init.normal_(head.output.weight, std=0.3)
    state, plans = start(agent), torch.rand(3, 5, 4, 2) * 2 - 1
    core = agent.world_model.core
    with torch.no_grad(), mode_latents():
        scores = agent.dream.scores(state, plans, value)
        for env, candidate in ((0, 0), (1, 3), (2, 4)):
            now, total, weight = state[env : env + 1], 0.0, 1.0
            for action in plans[env, candidate]:
                now = core.imagine_step(now, action[None])
                reward, discount = agent.world_model.predict(core.features(now))
                total, weight = total + weight * reward.item(), weight * discount.item()
            total += value * weight * agent.actor_critic.critic(core.features(now)).mean().item()
            assert scores[env, candidate].item() == pytest.approx(total, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("name", PLANNERS)
def test_environments_are_planned_for_apart(name, core):
    """Pitfall 50: two states planned together get what each gets alone, with the same noise."""
    agent = make_agent({"dynamics.core": core})
    torch.nn.init.normal_(agent.world_model.reward.output.weight, std=0.3)
    plans = torch.rand(2, 6, 3, 2) * 2 - 1
    state = start(agent, 2)
    with torch.no_grad(), mode_latents():
        together = agent.dream.scores(state, plans, value=name == "mppi")
        alone = [agent.dream.scores(state[i : i + 1], plans[i : i + 1], value=name == "mppi") for i in range(2)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(together[0], together[1])


def test_fits_are_weighted_maximum_likelihood():
    plans = torch.rand(2, 7, 3, 2) * 2 - 1
    weights = torch.softmax(torch.randn(2, 7), 1)
    fitted = GaussianProposal(plans[:, 0], plans[:, 0]).fitted(plans, weights, (0.05, 0.5))
    for env in range(2):
        mean = np.average(plans[env], axis=0, weights=weights[env])
        variance = np.average((plans[env] - mean) ** 2, axis=0, weights=weights[env])
        np.testing.assert_allclose(fitted.mean[env], mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(fitted.std[env], np.sqrt(variance).clip(0.05, 0.5), rtol=1e-4)
    hot = torch.nn.functional.one_hot(torch.randint(3, (2, 7, 4)), 3).float()
    shares = CategoricalProposal(hot[:, 0]).fitted(hot, weights, (0.0, 1.0)).mean
    torch.testing.assert_close(shares, torch.einsum("ec,echa->eha", weights, hot))


def test_categorical_plans_follow_their_probabilities():
    torch.manual_seed(0)
    probs = torch.tensor([[[0.7, 0.2, 0.1], [0.0, 0.0, 1.0]]])
    plans = CategoricalProposal(probs).sample(4000)
    assert plans.shape == (1, 4000, 2, 3) and torch.equal(plans.sum(-1), torch.ones(1, 4000, 2))
    torch.testing.assert_close(plans.mean(1), probs, rtol=0, atol=0.03)


def test_the_best_plans_are_those_with_the_highest_scores():
    plans, scores = torch.arange(10.0).reshape(1, 5, 2, 1), torch.tensor([[1.0, 5, 2, 4, 3]])
    elites, values = best(plans, scores, 2)
    assert torch.equal(elites, plans[:, [1, 3]]) and values.tolist() == [[5.0, 4.0]]


def test_mppi_starts_from_the_last_plan_and_anew_where_an_episode_starts():
    seen = []

    class Watching(MPPI):
        def plan(self, dream, state, previous, explore):
            seen.append(previous)
            return super().plan(dream, state, previous, explore)

    agent = make_agent({})
    agent.planner = Watching(3, 24, 4, 3, 6)
    obs = {key: np.zeros((2, *shape), np.float32) for key, shape in OBS.items()}
    _, carry = agent.act(obs)
    _, later = agent.act(obs, np.array([False, True]), carry)
    assert seen[0] is None and carry.plan.shape == (2, 3, 2)
    assert torch.equal(seen[1][0], carry.plan[0]) and not seen[1][1].any() and later.plan.any()


def test_a_planner_acts_within_bounds_and_explores_in_mode_sample():
    agent = make_agent({})
    agent.planner = CEM(2, 30, 3, 3, noise=5.0)
    obs = {key: np.zeros((400, *shape), np.float32) for key, shape in OBS.items()}
    actions = {mode: agent.act(obs, mode=mode)[0] for mode in ("sample", "mode")}
    assert all(np.abs(action).max() <= 1 for action in actions.values())
    assert (np.abs(actions["sample"]) == 1).mean() > 0.7 > (np.abs(actions["mode"]) == 1).mean()
    with pytest.raises(UserError, match="a planner draws its candidates at random; leave out deterministic"):
        agent.act(obs, deterministic=True)


@pytest.mark.parametrize("name", PLANNERS)
def test_plans_from_python(name):
    agent = make_agent({}, DISCRETE)
    actions = agent.plan(start(agent), SMALL[name])
    assert actions.shape == (3, 3) and torch.equal(actions.sum(-1), torch.ones(3)) and not actions.requires_grad
    with pytest.raises(UserError, match=f"{name}.elites 9 must not exceed {name}.candidates 8"):
        agent.plan(start(agent), replace(SMALL[name], elites=9, candidates=8))


FLAGS = {
    f"agent.planning.{name}.{setting}": value
    for name in PLANNERS
    for setting, value in {"candidates": 8, "elites": 3, "iterations": 2, "horizon": 2}.items()
} | {"agent.planning.mppi.policy_plans": 2}

SHORT = {"env.time_limit": 8, "loop.eval_episodes": 1, "loop.eval_every": 1000}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "task"), [("mppi", "toy:copy"), ("cem", "toy:copy_discrete")])
def test_a_run_that_collects_with_a_planner_resumes_exactly(name, task, tmp_path):
    config = tiny_config(task=task, steps=60, **{"agent.planning.planner": name, **FLAGS, **SHORT})
    dreamer.train(config, run_dir=tmp_path / "whole")
    dreamer.train(replace(config, steps=40), run_dir=tmp_path / "cut")
    kept = newest(tmp_path / "cut")["collector"]["plan"]
    assert (kept is not None) == (name == "mppi")
    dreamer.resume(tmp_path / "cut", config=config)
    whole, cut = (newest(tmp_path / run) for run in ("whole", "cut"))
    for key, value in whole["agent"]["modules"].items():
        assert torch.equal(value, cut["agent"]["modules"][key]), key


@pytest.mark.slow
def test_evaluation_with_a_planner_and_bad_settings_from_the_command_line(tmp_path, capsys):
    assert main(["train", *tiny_flags(task="toy:copy", steps=40, **SHORT), "--run-dir", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    words = [
        "evaluate",
        str(tmp_path / "run"),
        "--episodes",
        "2",
        "--json",
        "--cem.candidates",
        "8",
        "--cem.elites",
        "4",
    ]
    assert main([*words, "--plan", "cem", "--cem.horizon", "2"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert len(report["cem"]["returns"]) == 2 and report["cem"]["seconds_per_step"] > 0 and "mode" not in report
    for wrong, line in {
        "--plan cem --cem.elites 9": "cem.elites 9 must not exceed cem.candidates 8",
        "--plan cem --cem.horizon 0": "--cem.horizon: input should be greater than or equal to 1 (got 0)",
        "--plan mpc": "invalid choice 'mpc' for argument '--plan'",
        "--plan mppi --deterministic": "a planner draws its candidates at random; leave out deterministic",
        "--plan mppi --mppi.policy-plans 600": "mppi.policy-plans 600 must be below mppi.candidates 512",
    }.items():
        assert main([*words, *wrong.split()]) == 2
        message = capsys.readouterr().err
        assert line in message and message.count("\n") == 1
    assert (
        main(["train", *tiny_flags(task="toy:copy"), "--loop.plan", "cem", "--agent.planning.cem.elites", "2000"]) == 2
    )
    assert "cem.elites 2000 must not exceed cem.candidates 1000" in capsys.readouterr().err
