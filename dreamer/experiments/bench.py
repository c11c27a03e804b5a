"""What an update costs, against the best matrix multiplication of this machine in the same process."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from statistics import median
from typing import Annotated, Any

import torch
import tyro
from torch.utils.flop_counter import FlopCounterMode

from dreamer.agent import Agent
from dreamer.batch import Batch
from dreamer.collect import Collector
from dreamer.config import Config, validated
from dreamer.errors import UserError
from dreamer.launch import make_factory
from dreamer.machine import keep_freed_memory
from dreamer.meters import peak_rss_mb, synchronize
from dreamer.run import choose_device
from dreamer.spaces import spec_of

SGEMM_SIZE = 2048


@dataclass(frozen=True)
class BenchArguments:
    """Measure the cost of an update and of acting, on random data of the task's shapes."""

    config: Annotated[Config, tyro.conf.arg(name="")]
    """Configuration; the preset defaults to dmc_proprio and the task to dmc:walker_walk."""
    updates: int = 10
    """Timed updates, after three that are not."""
    agent_steps: int = 200
    """Timed agent steps, after ten that are not."""
    json: bool = False
    """Print one JSON object."""


def bench(args: BenchArguments) -> str:
    """Run the measurement and return it as text or JSON."""
    if args.updates < 1 or args.agent_steps < 1:
        raise UserError("--updates and --agent-steps must be at least 1")
    config = validated(args.config)
    result = measure(config, choose_device(config.device), args.updates, args.agent_steps)
    if args.json:
        return json.dumps(result)
    params = ", ".join(f"{name} {count:,}" for name, count in result["params"].items())
    rows = {name: value for name, value in result.items() if name != "params"}
    return "\n".join([f"params: {params}", *(f"{name}: {_readable(value)}" for name, value in rows.items())])


def measure(config: Config, device: str, updates: int, agent_steps: int) -> dict[str, Any]:
    """Time updates and agent steps of a configuration.

    `fraction_of_peak` is counted FLOPs (2 per multiply-add of matrix products) / (seconds x sgemm peak).
    """
    keep_freed_memory()
    torch.manual_seed(config.seed)
    import envs

    factory = make_factory(config)
    vector = envs.make_vector(factory, list(range(config.env.num_envs)), config.env.parallel)
    agent = Agent(config.agent, *spec_of(vector.single_observation_space, vector.single_action_space)).to(device)
    collector = Collector(agent, vector, list(range(config.env.num_envs)))
    step_seconds = _time_agent_steps(collector, agent_steps)
    vector.close()

    batch = random_batch(agent, config.loop.batch_size, config.loop.batch_length)
    peak = sgemm_gflops(agent.device)
    times = [_timed(lambda: agent.update(batch), agent.device) for _ in range(updates + 3)][3:]
    with FlopCounterMode(display=False) as counter:
        agent.update(batch)
    gflop = counter.get_total_flops() / 1e9
    peak = max(peak, sgemm_gflops(agent.device))
    seconds = median(times)
    counts = agent.parameter_counts()
    return {
        "task": config.task,
        "core": config.agent.dynamics.core,
        "size": config.size,
        "device": device,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "params": {"total": sum(counts.values()), **counts},
        "batch": [config.loop.batch_size, config.loop.batch_length],
        "seconds_per_update": seconds,
        "seconds_per_update_min_max": [min(times), max(times)],
        "gflop_per_update": gflop,
        "sgemm_gflops": peak,
        "fraction_of_peak": gflop / (seconds * peak),
        "seconds_per_agent_step": step_seconds,
        "env_steps_per_second": config.env.num_envs * config.env.repeat / step_seconds,
        "peak_rss_mb": peak_rss_mb(),
    }


def random_batch(agent: Agent, batch_size: int, length: int) -> Batch:
    """Random training sequences of the agent's shapes, each beginning with a new episode."""
    shape = (batch_size, length)
    no = torch.zeros(shape, dtype=torch.bool)
    is_first = no.clone()
    is_first[:, 0] = True
    return Batch(
        obs={key: torch.randn(*shape, size) for key, size in agent.obs_sizes.items()},
        prev_action=torch.rand(*shape, agent.action.dim) * 2 - 1,
        reward=torch.rand(shape),
        is_first=is_first,
        is_last=no,
        is_terminal=no,
        context=torch.zeros(batch_size, agent.world_model.core.packed_dim),
    ).to(agent.device)


def sgemm_gflops(device: torch.device, repeats: int = 5) -> float:
    """Best rate of a 2048 x 2048 x 2048 float32 matrix product, in GFLOP/s."""
    left, right = (torch.randn(SGEMM_SIZE, SGEMM_SIZE, device=device) for _ in range(2))
    torch.mm(left, right)
    return 2 * SGEMM_SIZE**3 / min(_timed(lambda: torch.mm(left, right), device) for _ in range(repeats)) / 1e9


def _time_agent_steps(collector: Collector, steps: int) -> float:
    """Median seconds to act, and step all environments, once."""
    collector.reset()

    def step() -> None:
        collector.act()
        collector.advance()

    return median([_timed(step, collector.agent.device) for _ in range(steps + 10)][10:])


def _timed(function: Any, device: torch.device) -> float:
    synchronize(device)
    begin = time.perf_counter()
    function()
    synchronize(device)
    return time.perf_counter() - begin


def _readable(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
