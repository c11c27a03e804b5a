"""Staged training: vision first, then memory and everything else on frozen codes."""

import pytest
import torch
from running import tiny_config
from tiny import make_agent, make_batch

from dreamer import resume, train
from dreamer.runs.folder import open_run
from dreamer.tracking import read

STAGES = 2
CORES = ["gru", "mdn_rnn"]


def staged(core, updates=STAGES):
    return make_agent({"dynamics.core": core, f"dynamics.{core}.vision_updates": updates, "optimizer.warmup": 0})


def vision_names(agent):
    modules = agent.world_model.vision_modules()
    inside = {id(param) for module in modules for param in module.parameters()}
    return {name for name, param in agent.named_parameters() if id(param) in inside}


def changed(agent, batch):
    before = {name: param.detach().clone() for name, param in agent.named_parameters()}
    agent.update(batch)
    return {name for name, param in agent.named_parameters() if not torch.equal(param, before[name])}


@pytest.mark.parametrize("core", CORES)
def test_vision_trains_alone_and_is_frozen_afterwards(core):
    agent = staged(core)
    vision = vision_names(agent)
    assert any(name.startswith("world_model.encoder") for name in vision)
    assert any(name.startswith("world_model.objective.decoder") for name in vision)
    assert any(name.startswith("world_model.core.encode") for name in vision)
    rest = set(dict(agent.named_parameters())) - vision
    batch = make_batch(agent)
    for _ in range(STAGES):
        moved = changed(agent, batch)
        assert moved and moved <= vision
    for _ in range(3):
        moved = changed(agent, batch)
        assert not moved & vision
        assert moved & rest


@pytest.mark.parametrize("core", CORES)
def test_the_second_stage_trains_all_the_rest(core):
    agent = staged(core)
    batch = make_batch(agent)
    moved = set.union(*[changed(agent, batch) for _ in range(STAGES + 3)])
    assert moved == set(dict(agent.named_parameters()))


@pytest.mark.parametrize("core", CORES)
def test_stages_are_saved_and_restored(core):
    """Restored between any two updates, an agent goes on as if it had never been saved."""
    for at in range(1, STAGES + 3):
        agent = staged(core)
        batch = make_batch(agent)
        for _ in range(at):
            agent.update(batch)
        other = staged(core)
        other.load_learner_state(agent.learner_state())
        for each in (agent, other):
            torch.manual_seed(0)
            each.update(batch)
        for (name, param), (_, twin) in zip(agent.named_parameters(), other.named_parameters(), strict=True):
            assert torch.equal(param, twin), (at, name)


def test_without_stages_everything_trains_from_the_start():
    agent = staged("mdn_rnn", updates=0)
    assert agent.vision_optimizer is None
    moved = set.union(*[changed(agent, make_batch(agent)) for _ in range(3)])
    assert moved == set(dict(agent.named_parameters()))


@pytest.mark.slow
def test_a_staged_run_trains_and_resumes(tmp_path):
    settings = {"agent.dynamics.core": "mdn_rnn", "agent.dynamics.mdn_rnn.vision_updates": 8}
    config = tiny_config(**settings)
    train(config, run_dir=tmp_path / "whole")
    train(tiny_config(**settings, steps=80), run_dir=tmp_path / "part")
    part = open_run(tmp_path / "part").config
    resume(tmp_path / "part", config=type(part)(**{**vars(part), "steps": config.steps}))

    def losses(name):
        rows = read(tmp_path / name / "metrics.jsonl")
        return [
            {key: value for key, value in row.items() if key.startswith("loss/") and key != "loss/updates"}
            for row in rows
            if "loss/total" in row
        ]

    whole = losses("whole")
    assert "loss/actor" not in whole[0] and "loss/reconstruction" in whole[0]
    assert "loss/actor" in whole[-1]
    assert losses("part")[-1] == whole[-1]
