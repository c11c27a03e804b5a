"""The configuration: presets and sizes, overrides, ranges, and JSON that is read back exactly or refused."""

import dataclasses
import functools
import json
import math
import re
from pathlib import Path
from typing import get_args

import pytest
from tiny import unchecked

from dreamer.config import (
    PRESETS,
    RENAMED,
    SIZES,
    Config,
    Effect,
    changeable,
    compose,
    from_json,
    group_name,
    override,
    serialization,
    to_json,
    used_tree,
    validated,
)
from dreamer.errors import UserError
from envs.ranges import flag


@pytest.fixture(autouse=True)
def without_type_checks():
    """The import hook would refuse values of a wrong type before the configuration can say what is wrong with them."""
    with unchecked():
        yield


def refused(call, *words):
    """The call raises one clear line that contains the words."""
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and len(message) < 400 and not message.startswith("--:"), message
    for word in words:
        assert word in message, message


# JSON


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("size", [None, *SIZES])
def test_json_round_trip(preset, size):
    config = compose(preset, size)
    assert from_json(to_json(config)) == config


def test_json_round_trip_keeps_types_and_every_changed_value():
    config = compose("quick", task="gym:CartPole-v1", seed=7, **{"env.imports": ("a", "b.c"), "loop.replay_ratio": 3})
    again = from_json(to_json(config))
    assert again == config
    assert again.env.imports == ("a", "b.c") and isinstance(again.loop.replay_ratio, float)
    assert isinstance(again.agent.dynamics, type(config.agent.dynamics))


def edited(path, value=None, *, remove=False):
    """The JSON of the default configuration with one entry set or removed."""
    tree = json.loads(to_json(compose()))
    *parents, last = path.split(".")
    inner = tree
    for name in parents:
        inner = inner[name]
    if remove:
        del inner[last]
    else:
        inner[last] = value
    return json.dumps(tree)


@pytest.mark.parametrize("path", ["seed", "task", "loop", "agent"])
def test_entries_that_every_version_writes_must_be_there(path):
    refused(lambda: from_json(edited(path, remove=True)), f"has no {path}, which every version writes")


@pytest.mark.parametrize(
    ("path", "closest"),
    [
        ("sede", "seed"),
        ("loop.batch_sise", "loop.batch_size"),
        ("agent.dynamics.rssm.blcks", "agent.dynamics.rssm.blocks"),
        ("Q", ""),
    ],
)
def test_unknown_settings_are_refused_with_the_closest_names(path, closest):
    hint = f"unknown setting {path} (closest: {closest}" if closest else f"unknown setting {path}"
    refused(lambda: from_json(edited(path, 1)), "written by another version", hint)
    refused(lambda: from_json(edited(path, {})), "written by another version", hint)


# Older runs


@pytest.fixture
def warnings(monkeypatch):
    """Lines that reading configurations printed."""
    lines = []
    monkeypatch.setattr(serialization, "warn", lines.append)
    monkeypatch.setattr(serialization, "_said", set())
    return lines


@pytest.mark.parametrize(
    ("path", "value", "shown"),
    [
        ("env.encoding", "dtype", '"dtype"'),
        ("env.extend_limit", False, "false"),
        ("loop.compile", "off", '"off"'),  # what the code did before the option existed, not the default
        ("loop.imagine_every", 0, "0"),
        ("loop.eval_every", 10_000, "10000"),
        ("agent.dynamics.ssm.unimix", 0.01, "0.01"),
    ],
)
def test_an_absent_setting_takes_its_value_from_before_it_existed(warnings, path, value, shown):
    for _ in range(2):
        config = from_json(edited(path, remove=True))
        assert config == override(compose(), {path: value})
    assert warnings == [f"the run's configuration has no {path}: using {shown}, as before it existed"]


def test_absent_sections_are_filled_and_counted(warnings):
    tree = json.loads(edited("guard", remove=True))
    del tree["loop"]["compile"], tree["agent"]["dynamics"]["gru"]
    config = from_json(json.dumps(tree))
    assert config == dataclasses.replace(
        override(compose(), {"loop.compile": "off"}),
        agent=override(compose().agent, {"dynamics.gru": Config().agent.dynamics.gru}),
    )
    names = "loop.compile, guard.skips, guard.rollbacks, agent.dynamics.gru.deter and 6 more"
    values = '"off", 10, 2, 512, ...'
    assert warnings == [f"the run's configuration has no {names}: using {values}, as before they existed"]


def test_complete_configurations_are_read_without_a_word(warnings):
    assert from_json(to_json(compose())) == compose() and not warnings


def test_refused_configurations_are_not_reported_as_filled(warnings):
    tree = json.loads(edited("loop.compile", remove=True))
    tree["steps"] = 0
    refused(lambda: from_json(json.dumps(tree)), "--steps")
    assert not warnings


def written_with_old_names(config):
    """The JSON of a configuration as versions before the renames wrote it."""
    tree = json.loads(to_json(config))
    for old, new in RENAMED.items():
        *parents, name = new.split(".")
        inner = functools.reduce(dict.__getitem__, parents, tree)
        *old_parents, old_name = old.split(".")
        functools.reduce(dict.__getitem__, old_parents, tree)[old_name] = inner.pop(name)
    return tree


def test_configurations_with_old_names_are_read(warnings):
    config = compose("dmc_fast", **{"loop.video": "every", "agent.behavior.slow_critic_tau": 0.5})
    tree = written_with_old_names(config)
    assert tree["agent"]["behavior"]["saturation"] == 0.1 and tree["loop"]["film"] == "every"
    assert from_json(json.dumps(tree)) == config and not warnings
    tree["loop"]["video"] = "never"
    refused(lambda: from_json(json.dumps(tree)), "unknown setting loop.film")


def test_old_names_change_settings_by_dotted_path():
    assert compose(**{"loop.film": "every"}) == compose(**{"loop.video": "every"}) != compose()


@pytest.mark.parametrize("old", RENAMED)
def test_old_names_name_nothing_else(old):
    known = set(leaves(json.loads(to_json(compose()))))
    sections = {path.rsplit(".", n)[0] for path in known for n in range(1, path.count(".") + 1)}
    assert old not in known | sections and RENAMED[old] in known | sections


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"quick"', "{}"])
def test_files_that_are_no_configuration_are_refused(text):
    refused(lambda: from_json(text))


def test_impossible_values_in_json_are_refused():
    refused(lambda: from_json(edited("loop.batch_size", 0)), "--loop.batch-size", "greater than or equal to 1", "0")
    refused(lambda: from_json(edited("loop.batch_size", "many")), "--loop.batch-size", "many")


# Ranges


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("seed", -1),
        ("steps", 0),
        ("steps", 1.5),
        ("env.repeat", 0),
        ("env.num_envs", 0),
        ("env.time_limit", -1),
        ("loop.replay_ratio", 0.0),
        ("loop.replay_ratio", math.nan),
        ("loop.batch_length", 1),
        ("loop.video", "sometimes"),
        ("replay.capacity", 10),
        ("agent.imagination_horizon", 0),
        ("agent.imagination_starts", -1),
        ("agent.dynamics.core", "mamba"),
        ("agent.dynamics.rssm.cell", "lstm"),
        ("agent.dynamics.rssm.classes", 1),
        ("agent.dynamics.rssm.unimix", 1.0),
        ("agent.world_model.discount_horizon", 1.0),
        ("agent.world_model.scales.rep", -0.1),
        ("agent.behavior.lambda_", 1.01),
        ("agent.behavior.entropy", -1e-3),
        ("agent.behavior.actor_gradient", "straight-through"),
        ("agent.behavior.mix", 1.5),
        ("agent.behavior.slow_critic_tau", 0.0),
        ("agent.optimizer.learning_rate", 0.0),
        ("agent.optimizer.learning_rate", "fast"),
        ("agent.optimizer.momentum", 1.0),
    ],
)
def test_values_out_of_range_are_refused(path, value):
    """One line with the flag as it is spelled on the command line and the value that was given."""
    flag = "--" + path.replace("_", "-")
    refused(lambda: compose("debug", **{path: value}), flag, repr(value))


def test_values_at_the_ends_of_ranges_are_accepted():
    config = compose("debug", seed=0, steps=1, **{"agent.behavior.lambda_": 1.0, "agent.behavior.entropy": 0.0})
    assert config.agent.behavior.lambda_ == 1.0


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_numbers_must_be_finite(value):
    """An infinite learning rate is above 0, but it is no learning rate."""
    refused(lambda: compose("debug", **{"agent.optimizer.learning_rate": value}), "--agent.optimizer.learning-rate")


def test_configurations_made_by_hand_are_checked_too():
    config = dataclasses.replace(Config(), steps=-5)
    refused(lambda: validated(config), "--steps", "-5")


def test_text_must_be_utf8():
    """Bytes of the command line that are not UTF-8 are lone surrogates; JSON with those cannot be read again."""
    refused(lambda: compose("debug", **{"tracking.wandb_entity": "a\udcff"}), "--tracking.wandb-entity", "UTF-8")


# Overrides


@pytest.mark.parametrize(
    ("path", "unknown"),
    [
        ("sede", "sede"),
        ("loop.batch", "batch"),
        ("loop.batch_size.more", "more"),
        ("agent.rssm.deter", "rssm"),
        ("", ""),
    ],
)
def test_unknown_paths_are_refused(path, unknown):
    refused(lambda: compose("debug", **{path: 1}), f"no setting {path!r}", repr(unknown))


def test_unknown_presets_and_sizes_are_refused():
    refused(lambda: compose("fast"), "unknown preset 'fast'", "quick")
    refused(lambda: compose("quick", "2m"), "unknown size '2m'", "12m")


def test_overrides_copy():
    """Nothing mutates a configuration: two runs in one process must not see each other's changes."""
    config = compose("quick")
    before = to_json(config)
    changed = override(config, {"loop.batch_size": 3, "agent.dynamics.rssm.deter": 24})
    assert changed.loop.batch_size == 3 and changed.agent.dynamics.rssm.deter == 24
    assert to_json(config) == before == to_json(compose("quick"))
    assert Config() == Config() and Config().loop.batch_size == 16
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 1


def test_later_changes_win_over_the_preset_and_the_size():
    config = compose("dmc_proprio", "12m", **{"agent.dynamics.rssm.hidden": 17, "loop.replay_ratio": 5.0})
    assert config.agent.dynamics.rssm.hidden == 17 and config.agent.dynamics.rssm.deter == 2048
    assert config.loop.replay_ratio == 5.0 and config.size == "12m" and config.preset == "dmc_proprio"


# Presets and sizes


PUBLISHED = {
    "1m": (512, 64, 4, 4, 64),
    "12m": (2048, 256, 16, 16, 256),
    "25m": (3072, 384, 24, 24, 384),
    "50m": (4096, 512, 32, 32, 512),
    "100m": (6144, 768, 48, 48, 768),
    "200m": (8192, 1024, 64, 64, 1024),
    "400m": (12288, 1536, 96, 96, 1536),
}


@pytest.mark.parametrize("size", PUBLISHED)
def test_sizes_are_the_published_ones(size):
    assert dataclasses.astuple(SIZES[size]) == PUBLISHED[size]


@pytest.mark.parametrize("size", SIZES)
def test_a_size_sets_every_width(size):
    config, widths = compose("quick", size).agent, SIZES[size]
    rssm = config.dynamics.rssm
    assert (rssm.deter, rssm.hidden, rssm.classes) == (widths.deter, widths.hidden, widths.classes)
    assert rssm.stoch == 32 and rssm.blocks == 8 and rssm.deter % rssm.blocks == 0
    model, behavior = config.world_model, config.behavior
    parts = (model.encoder, model.decoder, model.reward, model.cont, behavior.actor, behavior.critic)
    assert {part.units for part in parts} == {widths.units}
    assert [part.layers for part in parts] == [3, 3, 1, 1, 3, 3]


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_valid_and_their_settings_arrive(preset):
    config = compose(preset)
    assert config.preset == preset and validated(config) == config
    for path, value in PRESETS[preset].items():
        found = config
        for name in path.split("."):
            found = getattr(found, name)
        assert found == value, path
    assert config.loop.batch_length >= max(2, config.agent.imagination_starts)


def test_dmc_proprio_is_the_current_published_configuration():
    """Every number of the published configuration that this one has."""
    config = compose("dmc_proprio")
    loop, agent = config.loop, config.agent
    assert (config.size, config.steps, config.env.num_envs, config.env.repeat) == ("1m", 1_100_000, 16, 1)
    assert (loop.replay_ratio, loop.batch_size, loop.batch_length, loop.learning_starts) == (1024, 16, 64, 1024)
    assert (config.replay.capacity, config.replay.online) == (5_000_000, True)
    assert (agent.imagination_horizon, agent.imagination_starts) == (15, 0)
    assert (agent.dynamics.core, agent.dynamics.family, agent.dynamics.rssm.cell) == (
        "rssm",
        "categorical",
        "block_gru",
    )
    rssm = agent.dynamics.rssm
    assert (rssm.unimix, rssm.free_nats, rssm.prior_layers, rssm.posterior_layers) == (0.01, 1.0, 2, 1)
    assert dataclasses.asdict(agent.world_model.scales) == {
        "reconstruction": 1.0, "reward": 1.0, "cont": 1.0, "dyn": 1.0, "rep": 0.1, "r2": 0.05,
    }  # fmt: skip
    behavior = agent.behavior
    assert dataclasses.asdict(behavior.scales) == {"actor": 1.0, "critic": 1.0, "replay_critic": 0.3}
    assert (behavior.actor_gradient, behavior.entropy, behavior.lambda_) == ("reinforce", 3e-4, 0.95)
    assert (behavior.min_std, behavior.max_std, behavior.action_unimix) == (0.1, 1.0, 0.0)
    assert (behavior.slow_critic_tau, behavior.slow_scale, behavior.return_ema_rate) == (0.02, 1.0, 0.01)
    assert agent.world_model.discount_horizon == 333
    optimizer = agent.optimizer
    assert (optimizer.learning_rate, optimizer.warmup, optimizer.clip, optimizer.clip_floor) == (4e-5, 1000, 0.3, 1e-3)
    assert (optimizer.momentum, optimizer.rms_decay, optimizer.epsilon) == (0.9, 0.999, 1e-20)
    assert optimizer.clip_groups == "v3"


def test_dmc_vision_is_the_current_published_configuration():
    """It differs from the proprioceptive one in these settings and in what the size sets."""
    config = compose("dmc_vision")
    assert (config.size, config.steps, config.loop.replay_ratio) == ("200m", 1_100_000, 256)
    assert (config.env.obs, config.env.image_size, config.env.shadows) == ("pixels", (64, 64), True)
    state, pixels = (json.loads(to_json(compose(name, "1m"))) for name in ("dmc_proprio", "dmc_vision"))
    differences = {path for path, value in leaves(pixels).items() if leaves(state)[path] != value}
    assert differences == {"preset", "env.obs", "loop.replay_ratio"}


def test_dmc_vision_2024_has_the_paper_era_numbers():
    config = compose("dmc_vision_2024")
    assert (config.size, config.steps, config.env.repeat, config.env.num_envs) == ("12m", 1_200_000, 2, 8)
    assert config.loop.replay_ratio == 512 and config.agent.world_model.image.resampling == "strided"
    assert config.agent.behavior.action_unimix == 0.01


def test_dmc_proprio_2024_differs_in_the_paper_era_numbers_alone():
    now, then = json.loads(to_json(compose("dmc_proprio", "12m"))), json.loads(to_json(compose("dmc_proprio_2024")))
    differences = {
        path: (leaves(now)[path], value) for path, value in leaves(then).items() if leaves(now)[path] != value
    }
    assert differences == {
        "preset": ("dmc_proprio", "dmc_proprio_2024"),
        "steps": (1_100_000, 600_000),
        "env.repeat": (1, 2),
        "loop.replay_ratio": (1024.0, 512.0),
        "agent.behavior.action_unimix": (0.0, 0.01),
    }


def leaves(tree, prefix=""):
    """Values of nested dicts by dotted path."""
    if not isinstance(tree, dict):
        return {prefix[1:]: tree}
    return {path: value for key, child in tree.items() for path, value in leaves(child, f"{prefix}.{key}").items()}


def test_the_document_lists_what_may_change_on_resume():
    text = (Path(__file__).parent.parent / "docs" / "reliability.md").read_text()
    for effect in get_args(Effect):
        (cells,) = re.findall(rf"^\| {effect} \|(.*)\|$", text, re.M)
        settings = {flag(name) for name, its_effect in changeable().items() if its_effect == effect}
        assert set(re.findall("`(--[a-z.-]+)`", cells)) - {"--env-import"} == settings
    known = list(leaves(dataclasses.asdict(Config())))
    assert all(any(f"{path}.".startswith(f"{name}.") for path in known) for name in changeable())


def test_seeds_of_one_configuration_have_one_group():
    base = compose("quick", task="dmc:walker_walk")
    name = group_name(base)
    assert re.fullmatch("dmc_walker_walk_rssm_300k_[0-9a-f]{8}", name)
    same = {"seed": 3, "loop.log_every": 7, "agent.dynamics.gru.deter": 24, "tracking.wandb": "off"}
    assert group_name(override(base, same)) == name
    others = [{"agent.optimizer.learning_rate": 1e-3}, {"steps": 7}, {"task": "dmc:walker_run"}]
    names = [name, *(group_name(override(base, one)) for one in others), group_name(base, {"path": "a", "load": "all"})]
    assert len(set(names)) == len(names)


def test_used_settings_are_nested_and_leave_out_other_cores():
    tree = used_tree(compose("quick", **{"agent.dynamics.core": "gru"}))
    assert set(tree["agent"]["dynamics"]) == {"core", "latent", "gru"} and tree["seed"] == 0
