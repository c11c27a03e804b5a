"""The full configuration of a run: it composes the modules' own configs; sizes and presets are diffs on top."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, get_args

import tyro
from annotated_types import Ge, Gt, Le, Lt
from pydantic import AfterValidator, TypeAdapter, ValidationError

from dreamer.agent import AgentConfig
from dreamer.dynamics import CoreName
from dreamer.errors import UserError
from dreamer.experience.replay import ReplayConfig
from dreamer.presets import PRESETS, SIZES
from dreamer.tracking import TrackingConfig

PresetName = Literal[
    "quick",
    "pixels_quick",
    "dmc_fast",
    "ablation",
    "dmc_proprio",
    "dmc_proprio_2024",
    "dmc_vision",
    "dmc_vision_2024",
    "debug",
]
SEEDS = 2**63
"""Seeds are smaller than this."""
SizeName = Literal["100k", "300k", "1m", "12m", "25m", "50m", "100m", "200m", "400m"]
DeviceName = Literal["auto", "cpu", "cuda", "mps"]


def words(given: Iterable[str]) -> tuple[str, ...]:
    """Words of an option that takes several, separated by spaces or commas; each once."""
    return tuple(dict.fromkeys(word for several in given for word in several.split(",") if word))


@dataclass(frozen=True)
class EnvironmentConfig:
    """Environments."""

    num_envs: Annotated[int, Ge(1)] = 4
    """Training environments stepped together."""
    repeat: Annotated[int, Ge(1)] = 1
    """Environment steps per agent step (action repeat); rewards are summed."""
    time_limit: Annotated[int, Ge(0)] = 0
    """Environment steps after which an episode is truncated; 0 keeps the task's own limit."""
    train_time_limit: Annotated[int, Ge(0)] = 0
    """Training episodes are truncated after this many environment steps in half of the environments: more episodes
    begin, and the others still reach the task's late states. Evaluation is not affected. 0 changes nothing."""
    obs: Annotated[Literal["state", "pixels", "both"], tyro.conf.arg(aliases=("--obs",))] = "state"
    """What the agent sees: the environment's own observations, the frame that it draws, or both."""
    image_size: tuple[Annotated[int, Ge(16)], Annotated[int, Ge(16)]] = (64, 64)
    """Height and width of observed images, multiples of 16; others are resized."""
    camera: int | None = None
    """Camera that draws dmc tasks, -1 for the free one; None takes the task's own."""
    shadows: bool = True
    """Draw dmc tasks with shadows and reflections, which take most of the time without a graphics card."""
    parallel: Literal["auto", "on", "off"] = "auto"
    """Step environments in parallel, in a process for every core; auto times one of them at the start and does where
    that clearly wins and the run has several threads, and a resumed run keeps what it chose. Results are the same."""
    timeout: Annotated[float, Ge(0)] = 60.0
    """Seconds without an answer after which an environment counts as hanging; 0 waits for ever. One that hangs outside
    Python is only noticed where environments step in parallel."""
    restarts: Annotated[int, Ge(0)] = 3
    """An environment that fails (raises, hangs, dies, returns NaN or a wrong shape) is made anew and begins its next
    episode, this many times without finishing one; then the run stops."""
    imports: Annotated[tuple[str, ...], tyro.conf.arg(name="env-import", prefix_name=False)] = ()
    """Modules to import first, which register environments with Gymnasium."""
    hide: Annotated[tuple[str, ...], tyro.conf.arg(aliases=("--hide",)), AfterValidator(words)] = ()
    """Observations that the agent does not get: keys, or `velocities` for all that are known to be velocities,
    separated by spaces or commas."""
    flicker: Annotated[float, Ge(0), Lt(1), tyro.conf.arg(aliases=("--flicker",))] = 0.0
    """Probability with which a whole observation, the first of an episode too, is lost: zeros."""
    obs_noise: Annotated[float, Ge(0), tyro.conf.arg(aliases=("--obs-noise",))] = 0.0
    """Standard deviation of the normal noise added to every number observed."""


@dataclass(frozen=True)
class LoopConfig:
    """The training loop. Intervals are environment steps."""

    replay_ratio: Annotated[float, Gt(0)] = 512.0
    """Replayed training rows per collected row (train ratio); action repeat does not count."""
    batch_size: Annotated[int, Ge(1)] = 16
    """Sequences per update."""
    batch_length: Annotated[int, Ge(2)] = 64
    """Training rows per sequence."""
    learning_starts: Annotated[int, Ge(1)] = 1024
    """Sequences that must be drawable before the first update."""
    epsilon: Annotated[float, Ge(0), Le(1)] = 0.0
    """Probability, at every agent step of a training environment, of beginning to hold one random action (temporally
    extended epsilon-greedy); 0 never does. Evaluation and imagination follow the policy alone."""
    epsilon_hold: Annotated[int, Ge(1)] = 20
    """Longest time, in agent steps, for which a random action is held; shorter ones are as likely."""
    log_every: Annotated[int, Ge(1)] = 1000
    """Interval of metrics records."""
    eval_every: Annotated[int, Ge(1)] = 10_000
    """Interval of evaluations."""
    eval_episodes: Annotated[int, Ge(1)] = 10
    """Episodes per evaluation, with sampled actions and again with the policy's mode."""
    eval_limit: Annotated[int, Ge(1)] = 50_000
    """Agent steps after which an evaluation episode that has not ended is cut."""
    checkpoint_every: Annotated[int, Ge(1)] = 10_000
    """Interval of checkpoints."""
    keep_checkpoints: Annotated[int, Ge(1)] = 2
    """Newest checkpoints kept."""
    compile: Annotated[Literal["auto", "on", "off"], tyro.conf.arg(aliases=("--compile",))] = "auto"
    """Compile the steps of the loops over time with torch.compile; auto does for runs of 10,000 updates and
    more, on a CPU where there is a C++ compiler."""
    film: Literal["never", "end", "every"] = "end"
    """Film an evaluation episode: never, at the end of the run, or at every evaluation."""
    imagine_every: Annotated[int, Ge(0)] = 50_000
    """Interval of looks at the imagination (predictions of held-out episodes, free dreams, errors), also taken at the
    end of the run; 0 is never. From state a look takes some 3.5 s of one processor core, most of it drawing."""


@dataclass(frozen=True)
class GuardConfig:
    """Losses and gradients that are not finite. The update is skipped and its batch kept for `dreamer debug-batch`."""

    skips: Annotated[int, Ge(1)] = 10
    """Updates skipped in a row after which the run goes back to its newest checkpoint, with other random numbers."""
    rollbacks: Annotated[int, Ge(0)] = 2
    """Times to go back to one checkpoint; the run then stops."""


@dataclass(frozen=True)
class Config:
    """Everything that determines a run."""

    task: str = "dmc:cartpole_balance"
    """What to learn: dmc:<domain>_<task>, gym:<registered id> or toy:<name>; `dreamer tasks` lists them."""
    preset: PresetName = "quick"
    """Named settings; every other option changes one of them."""
    size: SizeName = "1m"
    """Model size; the preset has its own default."""
    seed: Annotated[int, Ge(0), Lt(SEEDS)] = 0
    """Seed of networks, replay, policy and environments."""
    steps: Annotated[int, Ge(1)] = 100_000
    """Environment steps to train for (rows collected x action repeat)."""
    device: DeviceName = "auto"
    """Where the networks live; auto takes cuda, then mps, then cpu, and a resumed run keeps what it took."""
    env: EnvironmentConfig = field(default_factory=EnvironmentConfig)
    """Environments."""
    loop: LoopConfig = field(default_factory=LoopConfig)
    """Training loop."""
    guard: GuardConfig = field(default_factory=GuardConfig)
    """Losses and gradients that are not finite."""
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    """Replay buffer."""
    agent: AgentConfig = field(default_factory=AgentConfig)
    """Agent."""
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    """Metrics and where they are shown."""

    @property
    def planned_updates(self) -> int:
        """Updates in the whole run, the rows before the first one aside."""
        rows_per_update = self.loop.batch_size * self.loop.batch_length
        return int(self.steps / self.env.repeat * self.loop.replay_ratio / rows_per_update)


assert set(PRESETS) == set(get_args(PresetName)) and set(SIZES) == set(get_args(SizeName))


def compose(preset: str = "quick", size: str | None = None, **changes: Any) -> Config:
    """The configuration of a preset, optionally at another size, with changes by dotted path.

    Example: `compose("quick", task="gym:Pendulum-v1", **{"loop.replay_ratio": 64})`. Raises `UserError` for names and
    values that do not exist.
    """
    _known("preset", preset, PRESETS)
    settings = PRESETS[preset] | {"preset": preset}
    if size is not None:
        settings = settings | {"size": _known("size", size, SIZES)}
    config = _with_size(override(Config(), settings))
    return validated(override(config, changes))


def resized(config: Config, size: SizeName) -> Config:
    """The same configuration with networks of another size."""
    return _with_size(override(config, {"size": _known("size", size, SIZES)}))


def override(config: Any, changes: dict[str, Any]) -> Any:
    """Copy a dataclass with fields replaced by dotted path; raises `UserError` for a path that does not exist."""
    for path, value in changes.items():
        config = _replace(config, path.split("."), value, path)
    return config


def validated(config: Config) -> Config:
    """The same configuration if every value is of its type and within its range; raises `UserError` otherwise."""
    config = _parse(lambda adapter: adapter.validate_python(dataclasses.asdict(config)))
    streams = config.env.num_envs
    starts = streams * max(config.replay.capacity // streams - config.loop.batch_length, 0)
    if starts < config.loop.learning_starts:
        raise UserError(
            f"--replay.capacity {config.replay.capacity} leaves room for {starts} sequences, "
            f"but learning begins at --loop.learning-starts {config.loop.learning_starts}"
        )
    return config


def to_json(config: Config) -> str:
    """The full configuration as indented JSON."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(text: str) -> Config:
    """Parse what `to_json` wrote, filling nothing in. Raises `UserError` for unknown, missing or impossible values."""
    try:
        written = json.loads(text)
    except ValueError as error:
        raise UserError(f"the configuration is not JSON: {error}") from None
    if not isinstance(written, dict):
        raise UserError("the configuration is not a JSON object")
    config = _parse(lambda adapter: adapter.validate_json(text))
    difference = sorted(set(_paths(written)) ^ set(_paths(json.loads(to_json(config)))))
    if difference:
        named = ", ".join(difference[:4]) + (f" and {len(difference) - 4} more" if len(difference) > 4 else "")
        raise UserError(f"the configuration was written by another version: {named} differ")
    return config


def _parse(read: Callable[[TypeAdapter[Config]], Config]) -> Config:
    try:
        config = read(TypeAdapter(Config))
    except ValidationError as error:
        first = error.errors()[0]
        message = first["msg"][0].lower() + first["msg"][1:]
        raise UserError(f"{_flag(map(str, first['loc']))}: {message} (got {first['input']!r})") from None
    for path, value in leaves(dataclasses.asdict(config)):
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{_flag(path.split('.'))}: must be a finite number (got {value})")
    return config


def _flag(path: Iterable[str]) -> str:
    return "--" + ".".join(path).replace("_", "-")


def _with_size(config: Config) -> Config:
    size = SIZES[config.size]
    units = dict.fromkeys(
        [
            "agent.world_model.encoder.units",
            "agent.world_model.decoder.units",
            "agent.world_model.reward.units",
            "agent.world_model.cont.units",
            "agent.behavior.actor.units",
            "agent.behavior.critic.units",
        ],
        size.units,
    ) | {"agent.world_model.image.depth": size.depth}
    widths = {name: getattr(size, name) for name in ("deter", "hidden", "classes")}
    cores = {
        f"agent.dynamics.{core}.{name}": value
        for core in get_args(CoreName)
        for name, value in widths.items()
        if hasattr(getattr(config.agent.dynamics, core), name)
    }
    return override(config, units | cores)


def _replace(config: Any, path: list[str], value: Any, full: str) -> Any:
    names = [f.name for f in dataclasses.fields(config)] if dataclasses.is_dataclass(config) else []
    if path[0] not in names:
        raise UserError(f"no setting {full!r}: {path[0]!r} is not one of {', '.join(names)}")
    inner = value if len(path) == 1 else _replace(getattr(config, path[0]), path[1:], value, full)
    return dataclasses.replace(config, **{path[0]: inner})


def _known(kind: str, name: str, table: dict[str, Any]) -> str:
    if name not in table:
        raise UserError(f"unknown {kind} {name!r}; choose from {', '.join(table)}")
    return name


def _paths(tree: Any) -> list[str]:
    return [path for path, _ in leaves(tree)]


def leaves(tree: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Return dotted path and value of every setting in nested dicts."""
    if not isinstance(tree, dict):
        return [(prefix, tree)]
    return [leaf for key, value in tree.items() for leaf in leaves(value, f"{prefix}.{key}" if prefix else key)]
