"""Checks of everything that only a GPU can show: one child process, one time limit and one JSON line a stage.

`scripts/gpu_check` runs this. A stage that fails or takes too long does not keep the others from running. `--toy` does
the same with tiny models on the CPU, to test the checks themselves. A line there names as `skipped` what needs a GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

TOLERANCES = {"float32": 1e-3, "bfloat16": 0.05}
"""Largest accepted difference from the CPU in float32, relative to the loss and to the gradient."""
UPDATES = 12
"""Updates in which captured and compiled ones are compared with plain ones."""
TIMED = {
    "1m": ("dmc_proprio", "1m"),
    "12m": ("dmc_proprio", "12m"),
    "50m": ("dmc_proprio", "50m"),
    "200m": ("dmc_proprio", "200m"),
    "1m pixels": ("dmc_vision", "1m"),
    "12m pixels": ("dmc_vision", "12m"),
    "200m pixels": ("dmc_vision", "200m"),
}
"""Updates that are timed: name -> preset and size."""


def skipped(device: str, what: str) -> dict[str, str]:
    """What a stage leaves out on another device than a GPU, for its line."""
    return {} if device.startswith("cuda") else {"skipped": f"{what}: the device is {device}"}


def device_stage(device: str, toy: bool) -> dict[str, Any]:
    """Devices, driver and compilers."""
    from dreamer.experiments.bench.doctor import compilers, devices

    return {"device": device, "lines": [*devices(), compilers()]} | skipped(device, "the GPU's name and memory")


def loss_and_gradients(agent: Any, batch: Any) -> tuple[float, list[Any], Any]:
    """Loss, gradients and the state of a filter step; the noise is drawn on the CPU."""
    import torch

    generator = torch.Generator().manual_seed(3)

    def drawn(draw: Callable[..., Any], like: Any) -> Any:
        return draw(like.shape, generator=generator).to(like)

    noise = {"rand_like": partial(drawn, torch.rand), "randn_like": partial(drawn, torch.randn)}
    with mock.patch.multiple(torch, **noise), agent.autocast():
        total, _, _ = agent.loss(batch)
        core = agent.world_model.core
        embed = agent.world_model.embed({key: value[:, 0] for key, value in batch.obs.items()})
        state = core.observe_step(core.initial_state(len(embed)), batch.prev_action[:, 0], embed)
    parameters = [param for param in agent.parameters() if param.requires_grad]
    gradients = torch.autograd.grad(total, parameters, materialize_grads=True)
    return total.item(), [gradient.float().cpu() for gradient in gradients], state


def differences(found: tuple[float, list[Any]], known: tuple[float, list[Any]]) -> dict[str, float]:
    """Relative differences of the loss, of the whole gradient, and of the entry of a gradient that differs most."""
    import torch

    (loss, gradients), (expected, expectations) = found, known
    largest = max(float(gradient.abs().max()) for gradient in expectations)
    pairs = list(zip(gradients, expectations, strict=True))
    whole, other = (torch.cat([gradient.flatten() for gradient in every]) for every in (gradients, expectations))
    entries = [float((a - b).abs().max() / b.abs().max().clamp(min=1e-4 * largest)) for a, b in pairs]
    norm = float((whole - other).norm() / other.norm())
    return {"loss": abs(loss - expected) / abs(expected), "gradient": norm, "entry": max(entries)}


def gradients_stage(device: str, toy: bool) -> dict[str, Any]:
    """Every core, from state and from pixels, against the CPU in float32; no update of it waits for the GPU.

    In bfloat16 latents are Gaussian, because a categorical sample can flip. Convolutions do without TF32.
    """
    import torch
    from tiny import CORES, OBS, PIXELS, make_agent, make_batch

    from dreamer.dynamics import LATENTS
    from dreamer.training.graph import synchronizations

    torch.backends.cudnn.allow_tf32 = False
    found: dict[str, dict[str, dict[str, float]]] = {}
    problems: list[str] = []
    for core in CORES:
        kinds = {"state": OBS} if toy and core != "rssm" else {"state": OBS, "pixels": PIXELS}
        for kind, obs in kinds.items():
            for precision, tolerance in TOLERANCES.items():
                changes = {"dynamics.core": core, "precision": precision}
                if precision == "bfloat16" and "gaussian" in LATENTS[core]:
                    changes["dynamics.latent"] = "gaussian"
                agent = make_agent(changes, obs=obs)
                batch, twin = make_batch(agent), make_agent(changes | {"precision": "float32"}, obs=obs)
                known = loss_and_gradients(twin, batch)
                agent, batch = agent.to(device), batch.to(torch.device(device))
                loss, gradients, state = loss_and_gradients(agent, batch)
                off = differences((loss, gradients), known[:2])
                name = f"{core} from {kind} in {precision}"
                found.setdefault(core, {})[f"{kind} {precision}"] = off
                checked = off.values() if precision == "float32" else (off["loss"], off["gradient"])
                if not max(checked) <= tolerance:
                    problems.append(f"{name} differs by {off}")
                stored = [field.name for field in fields(state) if field.metadata["stored"]]
                types = {getattr(state, name).dtype for name in stored}
                if types != {torch.float32}:
                    problems.append(f"{name}: the types of its state are {types}")
                if device.startswith("cuda"):
                    agent.update(batch)
                    with synchronizations() as waits:
                        agent.update(batch)
                    problems += [f"{name}: an update waits for the GPU in {wait}" for wait in waits[:1]]
    assert not problems, "; ".join(problems)
    return {"differences": found} | skipped(device, "waiting for the GPU")


def compared(changes: dict[str, Any], device: str, make: Callable[[Any], Any], repeats: int) -> dict[str, Any]:
    """Losses of plain updates and of others from the same random numbers, through a rollback and steps of acting.

    `repeats` more updates must not take memory.
    """
    import torch
    from tiny import make_agent, make_batch

    from dreamer.runs.checkpoint import snapshot

    plain, other = make_agent(changes).to(device), make_agent(changes).to(device)
    update, worst, saved = make(other), 0.0, []
    for number in range(UPDATES):
        batch = make_batch(plain, seed=number).to(torch.device(device))
        losses = []
        for call in (plain.update, update):
            torch.manual_seed(number)
            losses.append(call(batch)[0]["loss/total"].item())
        worst = max(worst, abs(losses[1] - losses[0]) / abs(losses[0]))
        assert worst <= TOLERANCES["float32"], f"update {number}: the loss is {losses[1]} instead of {losses[0]}"
        if number == 5:
            saved = [snapshot(agent.learner_state()) for agent in (plain, other)]
        if number == 8:
            for agent, state in zip((plain, other), saved, strict=True):
                agent.load_learner_state(state)
        if number == 10:
            for agent in (plain, other):
                agent.step({key: value[:, 0] for key, value in batch.obs.items()}, batch.is_first[:, 0],
                           agent.initial_carry(len(batch.reward)))  # fmt: skip
    used = torch.cuda.memory_allocated if device.startswith("cuda") else lambda: 0
    before = used()
    for _ in range(repeats):
        update(batch)
    grown = used() - before
    assert grown <= 0, f"{repeats} updates took {grown} bytes of memory"
    return {"largest_difference": worst}


def captured_stage(device: str, toy: bool) -> dict[str, Any]:
    """Captured updates against plain ones, also where vision is trained first, and without waiting for the GPU."""
    from dreamer.training.accelerate import accelerated
    from dreamer.training.graph import GraphedUpdate

    staged = {"dynamics.core": "gru", "dynamics.gru.vision_updates": 4}
    results: dict[str, Any] = {}
    for name, changes in (("joint", {}), ("staged", staged)):
        made: list[Any] = []

        def make(agent: Any, made: list[Any] = made) -> Any:
            made.append(accelerated(agent, "off", 0))
            return made[0]

        results[name] = compared({**changes, "precision": "float32"}, device, make, 3 if toy else 200)
        if device.startswith("cuda"):
            assert isinstance(made[0], GraphedUpdate) and made[0].graph is not None, f"{name}: nothing was captured"
    return results | skipped(device, "capture, and memory of replays")


def compiled_stage(device: str, toy: bool) -> dict[str, Any]:
    """Compiled updates against plain ones; with `toy` torch.compile traces them, without a compiler."""
    from dreamer.training.accelerate import AcceleratedUpdate

    def make(agent: Any) -> Any:
        made.append(AcceleratedUpdate(agent, True, "eager" if toy else "inductor"))
        return made[0]

    made: list[Any] = []
    result = compared({"precision": "float32"}, device, make, 0)
    assert made[0].compiled, "torch.compile has failed"
    return result


def launches(update: Callable[[], Any]) -> dict[str, int]:
    """Kernels and graphs that the host launches in an update."""
    import torch

    with torch.profiler.profile() as profile:
        update()
    counts = {event.key: event.count for event in profile.key_averages()}
    return {
        what: sum(count for key, count in counts.items() if key.startswith(names))
        for what, names in {"kernels": ("cudaLaunchKernel", "cuLaunchKernel"), "graphs": ("cudaGraphLaunch",)}.items()
    }


def timing_stage(device: str, toy: bool, name: str) -> dict[str, Any]:
    """Seconds, launches and memory of an update, and seconds of acting in 1, 16 and 64 environments."""
    import torch

    import dreamer
    from dreamer.experiments.bench.costs import PRODUCT_SIZES, Subject, product_dtype, product_gflops, timed
    from dreamer.system.meters import peak_gpu_mb

    preset, size = ("debug", "100k") if toy else TIMED[name]
    pixels = name.endswith("pixels")
    changes: dict[str, Any] = {"env.parallel": "off", "env.num_envs": 1, "env.obs": "pixels" if pixels else "state"}
    if toy:
        changes |= {"env.image_size": (16, 16), "agent.world_model.image.depth": 2}
        changes |= {"loop.batch_size": 2, "loop.batch_length": 8}
        PRODUCT_SIZES["cpu"] = 256
    task = "toy:push" if pixels else "toy:copy" if toy else "dmc:walker_walk"
    subject = Subject(dreamer.compose(preset, size=size, task=task, **changes), device)
    subject.vector.close()
    agent, count = subject.agent, 3 if toy else 20
    subject.warm_up(3)
    result: dict[str, Any] = {"params": sum(agent.parameter_counts().values())}
    result |= {"peak_gpu_mb": peak_gpu_mb(agent.device)}  # before the matrix products
    times = [timed(subject.update, agent.device) for _ in range(count)]
    peak = product_gflops(agent.device, product_dtype(agent))
    result |= {"seconds_per_update": median(times), "seconds_min_max": [min(times), max(times)]}
    result |= {"product_type": str(product_dtype(agent)), "product_gflops": peak}
    result |= {"fraction_of_peak": subject.reference_gflop() / (median(times) * peak)}
    result |= {"launches": launches(subject.update), "launches_plain": launches(lambda: agent.update(subject.batch))}
    obs = {key: value[:1, 0] for key, value in subject.batch.obs.items()}
    for envs in (1, 2) if toy else (1, 16, 64):
        rows = {key: value.repeat(envs, *[1] * (value.ndim - 1)) for key, value in obs.items()}
        first, carry = torch.zeros(envs, dtype=torch.bool, device=device), agent.initial_carry(envs)
        act = partial(agent.step, rows, first, carry)
        act()
        result[f"seconds_acting_{envs}"] = median(timed(act, agent.device) for _ in range(count))
    return result | skipped(device, "launches and peak memory")


def runs_stage(device: str, toy: bool) -> dict[str, Any]:
    """A debug run twice, and once more killed with SIGKILL and resumed: the same bit for bit."""
    from running import assert_same_run, tiny_flags

    steps = {"steps": 240, "loop.eval_every": 120, "loop.checkpoint_every": 20, "device": device}
    flags = tiny_flags(task="toy:copy", **steps, **{"loop.video": "never"})
    command = [sys.executable, "-m", "dreamer", "train"]
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, name) for name in ("killed", "first", "second")]
        killed = subprocess.Popen([*command, *flags, "--run-dir", str(paths[0])], stdout=subprocess.DEVNULL)
        while killed.poll() is None and len(list(paths[0].glob("checkpoints/step_*.ckpt"))) < 2:
            time.sleep(0.005)
        killed.send_signal(signal.SIGKILL)
        assert killed.wait() == -signal.SIGKILL, "the run ended before it could be killed"
        step = max(path.stem for path in paths[0].glob("checkpoints/step_*.ckpt"))
        subprocess.run([*command, "--resume", str(paths[0])], stdout=subprocess.DEVNULL, check=True)
        for path in paths[1:]:
            subprocess.run([*command, *flags, "--run-dir", str(path)], stdout=subprocess.DEVNULL, check=True)
        for path in paths[:2]:
            assert_same_run(path, paths[2])
    return {"killed_after": step}


def quick_stage(device: str, toy: bool) -> dict[str, Any]:
    """The preset `quick` to its end."""
    import dreamer

    changes: dict[str, Any] = {"device": device, "tracking.wandb": "off", "tracking.console": False}
    changes |= {"loop.video": "never", "loop.imagine_every": 0, "env.parallel": "off"}
    if toy:
        changes |= {"steps": 60, "loop.learning_starts": 8, "loop.batch_length": 4, "env.repeat": 1}
        changes |= {"loop.eval_episodes": 1, "task": "toy:copy", "env.time_limit": 10, "loop.replay_ratio": 2.0}
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        result = dreamer.train(dreamer.compose("quick", **changes), run_dir=Path(folder, "run"))
        return {"minutes": (time.perf_counter() - began) / 60, "return": result.evaluation["eval/return_mean"]}


def profile_stage(device: str, toy: bool) -> dict[str, Any]:
    """The most expensive operations of an update at size 12m."""
    import torch

    import dreamer
    from dreamer.experiments.bench.costs import Subject

    preset, size, task = ("debug", "100k", "toy:copy") if toy else ("dmc_proprio", "12m", "dmc:walker_walk")
    changes = {"env.parallel": "off", "env.num_envs": 1}
    subject = Subject(dreamer.compose(preset, size=size, task=task, **changes), device)
    subject.vector.close()
    subject.agent.update(subject.batch)
    with torch.profiler.profile() as profile:
        subject.agent.update(subject.batch)
    kind = "self_device_time_total" if device.startswith("cuda") else "self_cpu_time_total"
    events = sorted(profile.key_averages(), key=lambda event: -float(getattr(event, kind)))[:15]
    return {"microseconds": {event.key: [round(getattr(event, kind)), event.count] for event in events}}


STAGES: dict[str, tuple[Callable[..., dict[str, Any]], int]] = {
    "device": (device_stage, 60),
    "gradients": (gradients_stage, 90),
    "captured": (captured_stage, 90),
    "compiled": (compiled_stage, 120),
    "runs": (runs_stage, 120),
    "profile": (profile_stage, 60),
    **{f"time {name}": (partial(timing_stage, name=name), 90) for name in TIMED},
    "quick": (quick_stage, 300),
}
"""Stage -> its function and its limit in seconds."""
MINUTES = 8
"""Limit of all stages together."""
TOY_PATIENCE = 3
"""Factor of all limits with `--toy`, on CPUs that others use too."""


def child(name: str, device: str, toy: bool) -> int:
    """Do a stage and print its result as the last line."""
    import torch

    from dreamer.system.device import choose_device

    if toy:
        torch.set_num_threads(1)
    print("\n" + json.dumps(STAGES[name][0](choose_device(device), toy)), flush=True)
    return 0


def check(name: str, device: str, toy: bool, limit: float) -> dict[str, Any]:
    """Do a stage in a child process; returns its result, or its error and the end of what it wrote."""
    command = [sys.executable, __file__, "--stage", name, "--device", device, *["--toy"] * toy]
    began = time.monotonic()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    late = False
    try:
        said, errors = process.communicate(timeout=max(limit, 0))
    except subprocess.TimeoutExpired:
        late = True
    finally:  # also the runs that a stage has started
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    if late:
        said, errors = process.communicate()
    passed = not late and process.returncode == 0
    result = {"stage": name, "passed": passed, "seconds": round(time.monotonic() - began, 1)}
    if passed:
        return result | json.loads(said.splitlines()[-1])
    last = f"not finished within {limit:.0f} seconds" if late else (errors.strip() or "no message").splitlines()[-1]
    return result | {"error": last, "log": errors[-3000:]}


def main() -> int:
    """The command line of `scripts/gpu_check`; returns 1 when a stage failed."""
    parser = argparse.ArgumentParser(prog="scripts/gpu_check", description=__doc__)
    parser.add_argument("--toy", action="store_true", help="tiny models on the CPU")
    parser.add_argument("--device", help="device to check (default cuda, or cpu with --toy)")
    parser.add_argument("--only", default=",".join(STAGES), help="stages, separated by commas")
    parser.add_argument("--json", type=Path, help="file to which the lines are also appended")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    device = args.device or ("cpu" if args.toy else "cuda")
    if args.stage:
        return child(args.stage, device, args.toy)
    wanted = args.only.split(",")
    if unknown := set(wanted) - set(STAGES):
        parser.error(f"no stage {', '.join(sorted(unknown))}; choose from {', '.join(STAGES)}")
    if device != "cpu" or not args.toy:
        from dreamer.errors import UserError
        from dreamer.system.device import choose_device

        try:
            device = choose_device(device)
        except UserError as error:
            parser.error(str(error))
    patience = TOY_PATIENCE if args.toy else 1
    end, failed = time.monotonic() + 60 * MINUTES * patience, False
    for name in wanted:
        result = check(name, device, args.toy, min(STAGES[name][1] * patience, end - time.monotonic()))
        failed |= not result["passed"]
        line = json.dumps(result)
        print(line, flush=True)
        if args.json:
            with open(args.json, "a", encoding="utf-8") as file:
                file.write(line + "\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
