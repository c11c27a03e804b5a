"""Cost of the parts of an agent: seconds and FLOPs, and the machine's best rate for comparison."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

import envs
from dreamer.agent import Agent
from dreamer.batch import Batch
from dreamer.config import Config
from dreamer.experience.collect import Collector
from dreamer.experience.replay import Replay
from dreamer.experience.spaces import spec_of
from dreamer.system.device import synchronize
from dreamer.tracking.progress import follow
from dreamer.training.accelerate import accelerated
from dreamer.training.equivalence import replaced
from dreamer.training.graph import WARM_UP, GraphedUpdate
from dreamer.training.launch import make_factory
from dreamer.training.plan import check_memory, choose_parallel, dry_run, layout_of, spec_of_factory
from dreamer.training.threads import choice, using
from dreamer.world_model.images import weight_uses

PRODUCT_SIZES = {"cpu": 2048, "mps": 2048, "cuda": 8192}
"""Rows and columns of the matrices whose product gives the best rate of a type of device."""


class Subject:
    """An agent with its environments and a batch of random data, ready to be timed."""

    def __init__(self, config: Config, device: str):
        torch.manual_seed(config.seed)
        self.config = config
        indices = list(range(config.env.num_envs))
        factory = make_factory(config)
        check_memory(dry_run(spec_of_factory(factory), config), config, device)
        self.vector = envs.make_vector(factory, indices, choose_parallel(config, factory)["on"])
        spec = spec_of(self.vector.single_observation_space, self.vector.single_action_space)
        self.threads = choice(config, spec, device, torch.get_num_threads()).number
        self.agent = Agent(config.agent, *spec).to(device)
        self.collector = Collector(self.agent, self.vector, indices)
        self.batch = random_batch(self.agent, config.loop.batch_size, config.loop.batch_length)
        self.accelerated = accelerated(self.agent, config.loop.compile, config.planned_updates, config.loop.graph)

    def update(self) -> None:
        """One update on the random batch, with the threads of a run."""
        with using(self.threads):
            self.accelerated(self.batch)

    def warm_up(self, updates: int = 1) -> None:
        """Take untimed updates: at least this many, and as many as it takes until a CUDA graph is replayed."""
        count = max(updates, WARM_UP + 1) if isinstance(self.accelerated, GraphedUpdate) else updates
        for _ in follow(range(count), "warming up", count, "updates"):
            self.update()

    def gflop(self) -> float:
        """Counted FLOPs of an update, 2 for each multiply-add of a matrix product, in billions."""
        with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False) as counter:
            self.agent.update(self.batch)
        return counter.get_total_flops() / 1e9

    def reference_gflop(self) -> float:
        """FLOPs of V3's update, written down plainly, from the sizes of its networks, in billions.

        With N rows and horizon H: the world model forward and back on N rows, N rollouts of H steps, reward, continue
        and slow critic on N (H + 1) states, and actor and critic forward and back on those. A weight is a multiply-add,
        in a convolution one for every pixel that it makes.
        """
        parts = self.agent.parameter_counts()
        rows, horizon = self.batch.reward.numel(), self.config.agent.imagination_horizon
        objective = self.agent.world_model.objective
        model = sum(parts[name] for name in ("encoder", "dynamics", objective.part, "reward", "continue"))
        model += sum(weight_uses(network) for network in (self.agent.world_model.encoder, objective))
        posterior = getattr(self.agent.world_model.core, "posterior_net", None)
        filtering = sum(p.numel() for p in posterior.parameters()) if posterior is not None else 0
        rollout = parts["dynamics"] - filtering + parts["actor"]
        read = parts["reward"] + parts["continue"] + parts["critic"]
        learned = 3 * (parts["actor"] + parts["critic"])
        per_row = 3 * model + horizon * rollout + (horizon + 1) * (read + learned)
        return 2 * rows * per_row / 1e9

    def parts_of_update(self, updates: int) -> dict[str, float]:
        """Median seconds of each part of an update without a CUDA graph; `backward` is what is left."""
        agent = self.agent
        places = {
            "encoder": (agent.world_model.encoder, "forward"),
            "filter": (agent.world_model, "observe"),
            "model_losses": (agent.world_model, "losses"),
            "imagination": (agent, "imagine_trajectory"),
            "actor_critic": (agent.actor_critic, "losses"),
            "replay_critic": (agent.actor_critic, "replay_loss"),
            "optimizer": (agent.optimizer, "step"),
        }
        samples: list[dict[str, float]] = []
        update = self.accelerated.update if isinstance(self.accelerated, GraphedUpdate) else self.accelerated
        update.prepare()
        with replaced(update.methods), _spied(places, agent.device) as spent:
            for _ in follow(range(updates), "measuring parts", updates, "updates"):
                whole = timed(partial(agent.update, self.batch), agent.device)
                samples.append({**spent, "backward": whole - sum(_taken(spent).values())})
        return {name: median(sample[name] for sample in samples) for name in samples[0]}

    def loop(self, steps: int) -> dict[str, float]:
        """Median seconds of each part of the loop for one row of every environment, updates aside.

        `acting`, `environment` and `append` are those of a step, `sample` and `write_back` those of an update. Steps
        are timed in a row, as the loop takes them between two updates: what an update reads would evict their caches.
        """
        loop = self.config.loop
        with using(self.threads), tempfile.TemporaryDirectory() as folder:
            size = (loop.batch_size, loop.batch_length)
            layout = layout_of(self.agent)
            replay = Replay(self.config.replay, Path(folder), layout, self.collector.num_envs, *size, 1000, 0)
            places = {
                "acting": (self.collector, "act"),
                "environment": (self.collector, "advance"),
                "append": (replay, "append"),
                "sample": (replay, "sample"),
                "write_back": (replay, "write_states"),
            }
            samples: list[dict[str, float]] = []
            packed = self.batch.context.cpu().numpy()[:, None].repeat(loop.batch_length, 1)
            self.collector.reset()
            with _spied(places, self.agent.device) as spent:
                count = loop.batch_length + 10 + steps
                for _ in follow(range(count), "measuring the loop", count, "steps"):
                    states = self.collector.act()
                    replay.append(self.collector.arrived, states)
                    self.collector.advance()
                    samples.append(_taken(spent))
                samples = samples[-steps:]
                for sample in samples:
                    replay.write_states(replay.sample()[1], packed)
                    sample |= _taken(spent)
        return {name: median(sample[name] for sample in samples) for name in places}

    def frames_per_second(self, frames: int) -> float:
        """Steps of one environment with a frame per second, in one process."""
        with closing(make_factory(self.config)(0)) as env:
            env.reset()
            times = []
            for _ in range(frames + 3):
                begin = time.perf_counter()
                ended = any(env.step(env.action_space.sample())[2:4])
                times.append(time.perf_counter() - begin)
                if ended:
                    env.reset()
        return 1 / median(times[3:])


def shares_of_loop(config: Config, parts: dict[str, float], update: float) -> dict[str, float]:
    """Fraction of a training loop's time by part, from the seconds of `Subject.loop` and of an update."""
    rows_per_update = config.loop.batch_size * config.loop.batch_length / config.loop.replay_ratio
    steps = rows_per_update / config.env.num_envs
    spent = {
        "environment": steps * parts["environment"],
        "acting": steps * parts["acting"],
        "replay": steps * parts["append"] + parts["sample"] + parts["write_back"],
        "update": update,
    }
    return {name: seconds / sum(spent.values()) for name, seconds in spent.items()}


def random_batch(agent: Agent, batch_size: int, length: int) -> Batch:
    """Random training sequences of the agent's shapes, each a new episode: normal values, images of random bytes."""
    shape = (batch_size, length)
    no = torch.zeros(shape, dtype=torch.bool)
    is_first = no.clone()
    is_first[:, 0] = True
    return Batch(
        obs={
            key: torch.randn(*shape, *size) if len(size) < 3 else torch.randint(256, (*shape, *size), dtype=torch.uint8)
            for key, size in agent.obs_shapes.items()
        },
        prev_action=torch.rand(*shape, agent.action.dim) * 2 - 1,
        reward=torch.rand(shape),
        is_first=is_first,
        is_last=no,
        is_terminal=no,
        context=torch.zeros(batch_size, agent.world_model.core.packed_dim),
    ).to(agent.device)


def product_dtype(agent: Agent) -> torch.dtype:
    """Type in which an update of this agent multiplies matrices."""
    one = torch.ones(1, 1, device=agent.device)
    with agent.autocast():
        return torch.mm(one, one).dtype


def product_gflops(device: torch.device, dtype: torch.dtype, repeats: int = 5) -> float:
    """Best rate of a product of two square matrices of this type, in GFLOP/s."""
    size = PRODUCT_SIZES[device.type]
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    torch.mm(left, right)
    counted = follow(range(repeats), "measuring matrix products", repeats)
    return 2 * size**3 / min(timed(lambda: torch.mm(left, right), device) for _ in counted) / 1e9


def timed(function: Callable[[], Any], device: torch.device) -> float:
    """Seconds of one call, the device's work included."""
    spent: dict[str, float] = {}
    with _clock(spent, "call", device):
        function()
    return spent["call"]


def in_turn(calls: Mapping[str, Callable[[], Any]], device: torch.device, rounds: int) -> dict[str, list[float]]:
    """Seconds of every call in each round. A round makes each call once: a slow period of the machine affects all."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in follow(range(rounds), "measuring in turn", rounds, "rounds"):
        for name, call in calls.items():
            times[name].append(timed(call, device))
    return times


@contextmanager
def _clock(spent: dict[str, float], name: str, device: torch.device) -> Iterator[None]:
    """Add the seconds of the block, the device's work included, to those spent under a name.

    On a GPU they are the seconds between two events on its stream.
    """
    synchronize(device)
    events = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if device.type == "cuda" else []
    begin = time.perf_counter()
    for event in events[:1]:
        event.record()
    yield
    for event in events[1:]:
        event.record()
    synchronize(device)
    seconds = events[0].elapsed_time(events[1]) / 1000 if events else time.perf_counter() - begin
    spent[name] = spent.get(name, 0.0) + seconds


@contextmanager
def _spied(places: dict[str, tuple[Any, str]], device: torch.device) -> Iterator[dict[str, float]]:
    """Methods replaced on their objects by ones that add up their time under a name."""
    spent: dict[str, float] = {}
    for part, (owner, name) in places.items():
        setattr(owner, name, _clock(spent, part, device)(getattr(owner, name)))
    try:
        yield spent
    finally:
        for owner, name in places.values():
            delattr(owner, name)


def _taken(spent: dict[str, float]) -> dict[str, float]:
    """Return the seconds spent so far, and start again at none."""
    taken = dict(spent)
    spent.clear()
    return taken
