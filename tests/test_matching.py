"""Equal parameter counts, and which latents a core can have."""

import pytest
from tiny import OBS, WALKER, WALKER_ACTION

import dreamer
from dreamer.batch import ActionSpec
from dreamer.config import override
from dreamer.dynamics import LATENTS, DynamicsConfig
from dreamer.errors import UserError
from dreamer.training.matching import Spec, match_params, parameter_counts, parameter_table, reference

SPECS = {"walker": Spec(WALKER, WALKER_ACTION), "small": Spec(OBS, ActionSpec(2, discrete=True))}
VARIANTS = [(core, latent) for core, latents in LATENTS.items() for latent in ("auto", *latents)]


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("size", ["1m", "12m"])
@pytest.mark.parametrize(("core", "latent"), VARIANTS)
def test_every_core_is_within_two_percent_of_the_reference(core, latent, size, spec):
    config = dreamer.compose("dmc_proprio", size, **{"agent.dynamics.core": core, "agent.dynamics.latent": latent})
    counts = parameter_counts(match_params(config, SPECS[spec]), SPECS[spec])
    expected = parameter_counts(reference(config), SPECS[spec])
    assert abs(sum(counts.values()) / sum(expected.values()) - 1) <= 0.02


@pytest.mark.parametrize("objective", ["reconstruction", "r2"])
@pytest.mark.parametrize("core", LATENTS)
def test_cores_match_from_pixels_too(core, objective):
    """Blocks of h in the image decoder stay whole, also where the core's cell has none."""
    changes = {"agent.dynamics.core": core, "agent.dynamics.rnn.cell": "gru"}
    config = dreamer.compose("dmc_vision", "1m", **changes, **{"agent.world_model.representation.objective": objective})
    spec = Spec({"image": (64, 64, 3)}, WALKER_ACTION)
    totals = [sum(parameter_counts(c, spec).values()) for c in (match_params(config, spec), reference(config))]
    assert abs(totals[0] / totals[1] - 1) <= 0.02


def test_the_reference_itself_is_left_alone():
    config = dreamer.compose("dmc_proprio", "1m")
    assert match_params(config, SPECS["walker"]) == config
    assert sum(parameter_counts(config, SPECS["walker"]).values()) == 640_867


def test_block_cells_keep_whole_blocks():
    changes = {"agent.dynamics.core": "gru", "agent.dynamics.gru.cell": "block_gru"}
    matched = match_params(dreamer.compose("dmc_proprio", "1m", **changes), SPECS["walker"])
    assert matched.agent.dynamics.gru.deter % matched.agent.dynamics.gru.blocks == 0


def test_impossible_matches_are_refused():
    config = dreamer.compose("dmc_proprio", "1m", **{"agent.dynamics.core": "gru", "agent.dynamics.gru.stoch": 20_000})
    with pytest.raises(UserError, match=r"no width of the gru core gives about 640,867 parameters \(closest"):
        match_params(config, SPECS["walker"])


def test_the_table_names_every_part_and_the_width():
    config = dreamer.compose("dmc_proprio", "1m")
    lines = parameter_table({"rssm": config}, SPECS["walker"]).splitlines()
    assert len(lines) == 2 and "364,416" in lines[1] and "640,867" in lines[1] and "deter 512" in lines[1]


@pytest.mark.parametrize("core", LATENTS)
@pytest.mark.parametrize("latent", ["categorical", "gaussian"])
def test_latents_a_core_cannot_have_are_refused(core, latent):
    config = override(DynamicsConfig(), {"core": core, "latent": latent})
    if latent in LATENTS[core]:
        assert config.family == latent
    else:
        with pytest.raises(UserError, match=f"--latent {latent}: the {core} core cannot have it; use --latent auto"):
            _ = config.family
