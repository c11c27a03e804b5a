"""Settings of a run: those of the environments, the training loop and the guard, and `Config`, which holds them all.

The parts below this package keep their settings beside their code. The training loop and the guard stand above it and
the environments know nothing of it, so theirs are here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar, Literal

import tyro
from annotated_types import Interval
from pydantic import AfterValidator

from dreamer.agent import AgentConfig
from dreamer.experience.replay import ReplayConfig
from dreamer.tracking import TrackingConfig
from envs.ranges import Count, CountOrNone, Few, Fraction, Many, NonNegative, Positive, Probability, Seed, Several
from envs.settings import Observations, TaskSettings

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
NetworkPixels = Annotated[int, Interval(ge=16, le=4096)]
SizeName = Literal["100k", "300k", "1m", "12m", "25m", "50m", "100m", "200m", "400m"]
DeviceName = Annotated[str, tyro.conf.arg(metavar="{auto,cpu,cuda,cuda:N,mps}")]


def thread_count(given: str) -> str:
    """Return the value of `--threads`; raises `ValueError` for another one than auto or a number of threads."""
    if given != "auto" and not (given.isascii() and given.isdecimal() and len(given) < 5 and 1 <= int(given) <= 1024):
        raise ValueError("it must be auto or a number from 1 to 1024")
    return given


def words(given: Iterable[str]) -> tuple[str, ...]:
    """Return the words of an option that takes several, separated by spaces or commas, without duplicates."""
    return tuple(dict.fromkeys(word for several in given for word in several.split(",") if word))


@dataclass(frozen=True)
class EnvironmentConfig(TaskSettings):
    """Environments."""

    on_resume: ClassVar = dict.fromkeys(("parallel", "timeout", "restarts", "imports"), "nothing")

    # The settings of the task are those of `envs`; here some get a range of the agent or a short flag.
    obs: Annotated[Observations, tyro.conf.arg(aliases=("--obs",))] = TaskSettings.obs
    image_size: tuple[NetworkPixels, NetworkPixels] = TaskSettings.image_size
    """Height and width of observed images in pixels, multiples of 16. Images of another size are resized."""
    hide: Annotated[tuple[str, ...], tyro.conf.arg(aliases=("--hide",)), AfterValidator(words)] = TaskSettings.hide
    """Observations to remove, separated by spaces or commas: keys, or `velocities` for all velocities."""
    images: Annotated[tuple[str, ...], AfterValidator(words)] = TaskSettings.images
    vectors: Annotated[tuple[str, ...], AfterValidator(words)] = TaskSettings.vectors
    flicker: Annotated[Probability, tyro.conf.arg(aliases=("--flicker",))] = TaskSettings.flicker
    obs_noise: Annotated[NonNegative, tyro.conf.arg(aliases=("--obs-noise",))] = TaskSettings.obs_noise
    num_envs: Few = 4
    """Training environments stepped together."""
    train_time_limit: CountOrNone = 0
    """Time limit of training episodes in half of the environments, in environment steps; 0 is none. More episodes
    start, and the other environments still reach the late states of the task. Evaluation is not affected."""
    parallel: Literal["auto", "on", "off"] = "auto"
    """Step environments in parallel processes, one per processor core. auto times an environment at the start and uses
    processes where they are clearly faster, unless OMP_NUM_THREADS is 1; a resumed run keeps the choice. Results do
    not depend on it."""

    timeout: NonNegative = 60.0
    """Seconds to wait for one step of an environment before it counts as failed; 0 waits forever. A hang outside
    Python is detected only where environments step in parallel."""
    restarts: CountOrNone = 3
    """Times in a row that an environment is recreated after a failure (an exception, a hang, a crash, NaN, a wrong
    shape) without finishing an episode; the next failure stops the run."""
    imports: Annotated[tuple[str, ...], tyro.conf.arg(name="env-import", prefix_name=False)] = ()
    """Python modules to import first, which register environments with Gymnasium."""


@dataclass(frozen=True)
class LoopConfig:
    """Training loop. Intervals are in environment steps."""

    on_resume: ClassVar = dict.fromkeys(
        (
            "log_every",
            "eval_every",
            "eval_episodes",
            "eval_limit",
            "checkpoint_every",
            "keep_checkpoints",
            "keep_best",
            "video",
            "imagine_every",
        ),
        "nothing",
    ) | {"compile": "rounding", "graph": "rounding"}

    replay_ratio: Positive = 512.0
    """Replayed steps per collected step (train ratio), both in agent steps."""
    batch_size: Many = 16
    """Sequences per update."""
    batch_length: Several = 64
    """Training steps per sequence."""
    learning_starts: Count = 1024
    """Sequences that replay must offer before the first update."""
    epsilon: Fraction = 0.0
    """Probability per agent step that a training environment starts to repeat one random action (temporally extended
    epsilon-greedy); 0 is off. Evaluation and imagination follow the policy alone."""
    epsilon_hold: Count = 20
    """Longest duration of a random action, in agent steps; durations are uniform from 1."""
    log_every: Count = 1000
    """Interval of metric records."""
    eval_every: Count = 10_000
    """Interval of evaluations."""
    eval_episodes: Few = 10
    """Episodes per evaluation, once with sampled actions and once with the policy's mode."""
    eval_limit: Count = 50_000
    """Longest evaluation episode, in agent steps; a longer one is cut."""
    checkpoint_every: Count = 10_000
    """Interval of checkpoints."""
    keep_checkpoints: Many = 2
    """Number of newest checkpoints to keep."""
    keep_best: bool = field(default=True, metadata={"before": False})
    """Keep the weights of the best evaluation too (highest return with sampled actions), for
    `evaluate --checkpoint best`."""
    compile: Annotated[Literal["auto", "on", "off"], tyro.conf.arg(aliases=("--compile",))] = field(
        default="auto", metadata={"before": "off"}
    )
    """Compile the steps of the loops over time with torch.compile. auto compiles if the run has at least 10,000
    updates, on a GPU or on a CPU with a C++ compiler."""
    graph: Literal["auto", "on", "off"] = "auto"
    """Capture updates on a GPU as a CUDA graph. auto does so where the update allows it."""
    video: Literal["never", "end", "every"] = "end"
    """Record a video of an evaluation episode: never, at the end of the run, or at every evaluation."""
    imagine_every: CountOrNone = field(default=50_000, metadata={"before": 0})
    """Interval of open-loop evaluations (predictions of held-out episodes, imagined rollouts, errors); one more follows
    at the end of the run, 0 is never. From state, one takes about 3.5 s of a processor core, mostly for drawing."""


@dataclass(frozen=True)
class GuardConfig:
    """Response to losses and gradients that are not finite: skip the update, save its batch for `debug-batch`."""

    on_resume: ClassVar = dict.fromkeys(("skips", "rollbacks"), "nothing")

    skips: Count = 10
    """Consecutive skipped updates after which the run returns to its newest checkpoint, with other random numbers."""
    rollbacks: CountOrNone = 2
    """Returns to the same checkpoint before the run stops."""


@dataclass(frozen=True)
class Config:
    """Everything that determines a run."""

    on_resume: ClassVar = {"steps": "schedule", "device": "rounding", "threads": "rounding", "tracking": "nothing"}
    """Settings that a resumed run may change, and the effect on what is learned, as `dreamer.config.resuming` has it.
    The sections name their own."""

    task: str = "dmc:cartpole_balance"
    """Task: dmc:<domain>_<task>, gym:<registered id> or toy:<name>; `dreamer tasks` lists them. With gym-vector:<id>
    training steps all environments as one batch."""
    preset: PresetName = "quick"
    """Named set of defaults; other options override single settings of it."""
    size: SizeName = "1m"
    """Model size, by approximate number of parameters; the default is the preset's."""
    seed: Seed = 0
    """Random seed of networks, replay, policy and environments."""
    steps: Count = 100_000
    """Environment steps to train for, action repeats included."""
    device: DeviceName = "auto"
    """Device of the networks; auto takes the first available of cuda, mps and cpu; cuda:N is GPU N. A resumed run
    keeps its device."""
    threads: Annotated[str, AfterValidator(thread_count), tyro.conf.arg(metavar="{auto,N}")] = "auto"
    """Threads of PyTorch on the CPU. auto is 1 for sizes below 1m; from 1m on, it times updates at the start with
    different numbers, at most OMP_NUM_THREADS or the cores. A resumed run keeps its number."""
    devices: Few = 1
    """Processes that train the agent together, each on a GPU of its own, or all on the processor. Each has an equal
    share of the environments, of the batch and of replay."""
    env: EnvironmentConfig = field(default_factory=EnvironmentConfig)
    """Environments."""
    loop: LoopConfig = field(default_factory=LoopConfig)
    """Training loop."""
    guard: GuardConfig = field(default_factory=GuardConfig)
    """Response to losses and gradients that are not finite."""
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    """Replay buffer."""
    agent: AgentConfig = field(default_factory=AgentConfig)
    """Agent."""
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    """Metric trackers."""

    @property
    def share(self) -> Config:
        """The configuration with the environments, batch and replay of one of its processes."""
        if self.devices == 1:
            return self
        env = replace(self.env, num_envs=self.env.num_envs // self.devices)
        loop = replace(self.loop, batch_size=self.loop.batch_size // self.devices)
        replay = replace(self.replay, capacity=self.replay.capacity // self.devices)
        return replace(self, env=env, loop=loop, replay=replay)

    @property
    def planned_updates(self) -> int:
        """Updates in the whole run; the steps before the first update are neglected."""
        rows_per_update = self.loop.batch_size * self.loop.batch_length
        return int(self.steps / self.env.repeat * self.loop.replay_ratio / rows_per_update)
