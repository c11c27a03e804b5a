"""Several processes that train one agent: what they exchange, and that they agree."""

from __future__ import annotations

import os
import pickle
import socket
from collections.abc import Callable
from typing import Any

import pytest
import torch
from running import assert_same_run, differences, dreamer_command, newest, timeless, tiny_config, tiny_flags
from tiny import make_agent, make_batch, mode_latents, unchecked

import dreamer
from dreamer.agent import Agent
from dreamer.batch import Batch
from dreamer.behavior.returns import ReturnNormalizer
from dreamer.config import GuardConfig
from dreamer.errors import UserError
from dreamer.nn.optim import LaProp, OptimizerConfig
from dreamer.runs.folder import create_run
from dreamer.system import device, ranks
from dreamer.training.guard import Guard
from dreamer.training.loop import Trainer
from dreamer.world_model.standardize import Standardizer

FAST = {"world_model.standardize": True, "optimizer.warmup": 0, "optimizer.learning_rate": 1e-3}
FAST |= {"optimizer.epsilon": 1e-4}  # without it a gradient of pure rounding is scaled to a whole step


def of_ranks(function: Callable[[int], Any], count: int = 2) -> list[Any]:
    """What `function` returns in each of several ranks, copies of this process; an exception as its text."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    readers, children = [], []
    for number in range(count):
        reader, writer = os.pipe()
        if (child := os.fork()) == 0:
            os.environ |= {"TORCHELASTIC_RUN_ID": "test", "RANK": str(number), "WORLD_SIZE": str(count)}
            os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": port}
            try:
                ranks.join("cpu")
                answer = function(number)
                ranks.leave()
            except BaseException as error:
                answer = f"{type(error).__name__}: {error}"
            with open(writer, "wb") as file:
                pickle.dump(answer, file)
            os._exit(0)
        os.close(writer)
        readers.append(open(reader, "rb"))  # noqa: SIM115
        children.append(child)
    read = [reader.read() for reader in readers]
    for child in children:
        os.waitpid(child, 0)
    return [pickle.loads(data) if data else None for data in read]


def share(batch: Batch, number: int, count: int = 2) -> Batch:
    """The rows of one rank."""
    rows = slice(number * len(batch.reward) // count, (number + 1) * len(batch.reward) // count)
    fields = {name: getattr(batch, name)[rows] for name in ("prev_action", "reward", "is_first", "is_last")}
    fields |= {"is_terminal": batch.is_terminal[rows], "context": batch.context[rows]}
    return Batch(obs={key: value[rows] for key, value in batch.obs.items()}, **fields)


def learner(**changes: Any) -> Agent:
    """An agent without random numbers in its updates: latents and actions are modes."""
    agent = make_agent(FAST | changes)
    policy = agent.actor_critic.policy
    agent.actor_critic.policy = lambda sample: policy(False)  # type: ignore[method-assign]
    return agent


def numbers(agent: Agent) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in agent.state_dict().items()}


def test_two_ranks_learn_what_one_process_learns_from_the_joint_batch():
    """Parameters and statistics: bit-identical between ranks, and equal to one process within rounding."""
    batches = [make_batch(learner(), batch=4, time=5, seed=seed) for seed in range(6)]

    def train(number: int, of: int = 2) -> tuple[dict[str, torch.Tensor], list[float]]:
        agent, norms = learner(), list[float]()
        with unchecked(), mode_latents():
            for batch in batches:
                metrics, _ = agent.update(share(batch, number, of))
                norms.append(float(metrics["optim/grad_norm"]))
        return numbers(agent), norms

    (left, left_norms), (right, right_norms) = of_ranks(train)
    joint, joint_norms = train(0, 1)
    assert left_norms == right_norms and left_norms == pytest.approx(joint_norms, rel=1e-5)
    started = numbers(learner())
    for name, value in joint.items():
        assert torch.equal(left[name], right[name]), name
        torch.testing.assert_close(
            left[name], value, rtol=1e-5, atol=2e-6, msg=lambda text, name=name: f"{name}: {text}"
        )
    moved = [name for name in joint if not torch.equal(joint[name], started[name])]
    assert {"actor_critic.normalizer.high", "world_model.standardizer.variance"} <= set(moved)


def test_percentiles_are_those_of_the_returns_of_all_ranks():
    returns = torch.randn(2, 40, generator=torch.Generator().manual_seed(0)) * torch.tensor([[1.0], [5.0]])

    def scale(number: int) -> list[float]:
        normalizer = ReturnNormalizer(rate=1.0)
        normalizer.update(returns[number])
        return [float(normalizer.low), float(normalizer.high)]

    expected = torch.quantile(returns, torch.tensor([0.05, 0.95])).tolist()
    assert of_ranks(scale) == [pytest.approx(expected)] * 2


def test_statistics_are_those_of_the_rows_of_all_ranks():
    rows = torch.randn(2, 30, 2) * torch.tensor([1.0, 3.0]) + torch.tensor([[[0.0, 9.0]], [[4.0, -9.0]]])

    def statistics(number: int) -> list[list[float]]:
        standardizer = Standardizer({"position": (2,)})
        standardizer.update({"position": rows[number]})
        return [standardizer.mean.tolist(), standardizer.variance.tolist()]

    variance, mean = torch.var_mean(rows.flatten(0, 1), 0, correction=0)
    for found in of_ranks(statistics):
        assert found == [pytest.approx(mean.tolist(), rel=1e-5), pytest.approx(variance.tolist(), rel=1e-5)]


@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_a_loss_that_is_not_finite_in_one_rank_skips_the_update_in_all(broken: str):
    def step(number: int) -> list[float]:
        param = torch.nn.Parameter(torch.ones(3))
        optimizer = LaProp([param], OptimizerConfig(warmup=0))
        wrong = number == 1
        param.grad = torch.full((3,), torch.nan if wrong and broken == "gradient" else 1.0)
        loss = torch.tensor(torch.inf if wrong and broken == "loss" else 1.0)
        skipped = optimizer.step(loss)["skipped"]
        param.grad = torch.full((3,), 1.0 + number)
        return [float(skipped), *param.tolist(), float(optimizer.step(loss.nan_to_num())["grad_norm"])]

    assert of_ranks(step) == [[1.0, 1.0, 1.0, 1.0, pytest.approx(1.5 * 3**0.5)]] * 2


def test_each_rank_keeps_its_batch_of_a_skipped_update(tmp_path, capfd):
    def skip(number: int) -> None:
        Guard(GuardConfig(), tmp_path).skip(7, {"batch": torch.full((1,), number)})

    assert of_ranks(skip) == [None, None]
    kept = {path.name: int(torch.load(path)["batch"]) for path in tmp_path.iterdir()}
    assert kept == {"batch_000000007.pt": 0, "batch_000000007_rank_1.pt": 1}
    assert "batch_000000007.pt` and the batches of the other processes beside it" in capfd.readouterr().err


def test_words_and_counts_are_agreed():
    def agree(number: int) -> list[Any]:
        with ranks.alone():
            own = ranks.average(torch.tensor([float(number)])).item()
        copied = torch.full((2,), float(number))
        ranks.copy_from_first(copied)
        return [own, *ranks.largest(number, -number), *ranks.total(number, 5), ranks.first(number), ranks.each(number),
                copied.tolist()]  # fmt: skip

    assert of_ranks(agree) == [[number, 1, 0, 1, 10, 0, [0, 1], [0.0, 0.0]] for number in range(2)]


def test_a_rank_that_dies_ends_the_wait_of_the_others_with_one_line():
    def die(number: int) -> None:
        if number == 1:
            raise KeyboardInterrupt  # its process ends
        ranks.average(torch.zeros(4))

    lost, _ = of_ranks(die)
    assert lost == "LostRank: rank 0: another process of this run has ended; resume the run from its newest checkpoint"


def test_without_torchrun_nothing_is_exchanged():
    tensor = torch.rand(3)
    ranks.join("cpu")
    assert (ranks.number(), ranks.count(), ranks.started()) == (0, 1, 1)
    assert ranks.average(tensor) is tensor and torch.equal(ranks.gather(tensor)[0], tensor)
    assert ranks.largest(3) == ranks.total(3) == [3] and ranks.first("a") == "a" and ranks.each("a") == ["a"]


# Runs

PAIR = {"devices": 2, "env.num_envs": 4, "loop.batch_size": 4, "loop.learning_starts": 16, "tracking.console": False}


def parameters_at_end(run: Callable[[], Any], die_at: int = 0) -> Callable[[int], Any]:
    """Status of a run and the learner at its end, in one rank; rank 1 dies at a step if that is given."""

    def train(number: int) -> Any:
        seen = []
        advance, end = Trainer._advance, Trainer._end

        def advanced(trainer: Trainer) -> None:
            if number == 1 and 0 < die_at <= trainer.progress.step:
                os._exit(1)
            advance(trainer)

        def ended(trainer: Trainer) -> Any:
            seen.append(numbers(trainer.agent))
            return end(trainer)

        Trainer._advance, Trainer._end = advanced, ended  # type: ignore[method-assign]
        with unchecked():
            result = run()
        return result.status, seen[0]

    return train


@pytest.mark.slow
def test_a_run_of_two_ranks_that_one_of_them_ends_resumes_as_if_nothing_had_happened(tmp_path):
    config = tiny_config(**PAIR)
    twins = of_ranks(parameters_at_end(lambda: dreamer.train(config, run_dir=tmp_path / "twin")))
    assert [status for status, _ in twins] == ["finished"] * 2 and not differences(twins[0][1], twins[1][1])
    last = [record for record in timeless(tmp_path / "twin") if "replay/rows" in record][-1]
    assert last["replay/rows"] == last["step"] == 160 and last["loop/episodes"] == 12  # of 10 steps, in 4 environments

    path = tmp_path / "run"
    lost, _ = of_ranks(parameters_at_end(lambda: dreamer.train(config, run_dir=path), die_at=120))
    assert lost.startswith("LostRank: rank 0: another process of this run has ended")
    with pytest.raises(UserError, match="is trained by 2 processes, not by 1; `dreamer train --resume"):
        dreamer.resume(path)
    resumed = of_ranks(parameters_at_end(lambda: dreamer.resume(path)))
    assert not differences(resumed[0][1], twins[0][1]) and not differences(resumed[1][1], twins[1][1])
    assert_same_run(path, tmp_path / "twin")
    left, right = newest(path / "rank_1"), newest(tmp_path / "twin" / "rank_1")
    assert not differences(left["collector"], right["collector"]) and not differences(left["rng"], right["rng"])
    assert left["replay"]["rng"] == right["replay"]["rng"] != newest(path)["replay"]["rng"]
    assert timeless(path / "rank_1") == timeless(tmp_path / "twin" / "rank_1")


@pytest.mark.slow
def test_a_value_that_is_not_finite_in_one_rank_returns_all_to_their_checkpoint(tmp_path):
    def train(number: int) -> Any:
        collect, calls = Trainer.collect, []

        def broken(trainer: Trainer) -> None:
            calls.append(trainer.progress.step)
            if number == 1 and trainer.progress.step == 60 and calls.count(60) == 1:
                raise dreamer.errors.NotFinite("broken")
            collect(trainer)

        Trainer.collect = broken  # type: ignore[method-assign]
        with unchecked():
            dreamer.train(tiny_config(**PAIR | {"steps": 80}), run_dir=tmp_path / "run")
        return calls

    assert of_ranks(train) == [[*range(0, 64, 4), *range(40, 80, 4)]] * 2


@pytest.mark.parametrize("changes", [{"env.num_envs": 3}, {"env.num_envs": 1}, {"loop.batch_size": 3}])
def test_shares_are_equal(changes):
    ((name, number),) = changes.items()
    flag = "--" + name.replace("_", "-")
    with pytest.raises(UserError, match=f"{flag} {number} has no equal shares for --devices 2; use a multiple of 2"):
        tiny_config(**PAIR | changes)
    share = tiny_config(**PAIR).share
    assert (share.env.num_envs, share.loop.batch_size, share.replay.capacity * 2) == (
        2,
        2,
        tiny_config().replay.capacity,
    )


def test_each_process_has_its_own_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda name: None)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert device.choose_device("auto", 2) == device.choose_device("cuda", 2) == "cuda:1"
    assert device.choose_device("cpu", 8) == "cpu"
    with pytest.raises(UserError, match="--devices 3 needs 3 GPUs on this machine, which has 2; use --devices 2"):
        device.choose_device("auto", 3)
    with pytest.raises(UserError, match="--device cuda:1 is one device; with --devices 2 use cuda or cpu"):
        device.choose_device("cuda:1", 2)


def test_several_processes_are_started_by_the_command_or_torchrun(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="--devices 2 needs as many processes, and there are 1: use"):
        dreamer.train(tiny_config(**PAIR), run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
    monkeypatch.setenv("WORLD_SIZE", "3")
    path = create_run(tmp_path / "run", tiny_config(**PAIR), "cpu").path
    with pytest.raises(UserError, match="is trained by 2 processes, not by 3; .* without torchrun starts 2 processes"):
        dreamer.resume(path)
    with pytest.raises(UserError, match="--env.num-envs 4 has no equal shares for --devices 3"):
        dreamer.train(tiny_config(**{"env.num_envs": 4}), run_dir=tmp_path / "other")


@pytest.mark.slow
def test_devices_starts_the_processes_and_a_mistake_is_one_line(tmp_path):
    flags = tiny_flags(**PAIR | {"steps": 40})
    run = dreamer_command("train", *flags, "--run-dir", tmp_path / "run")
    assert run.returncode == 0 and "final evaluation" in run.stdout, run.stderr
    assert dreamer.read_metrics(tmp_path / "run")[-1]["step"] == 40
    wrong = dreamer_command("train", *flags, "--run-dir", tmp_path / "run")
    assert wrong.returncode == 2 and not wrong.stdout
    assert wrong.stderr.startswith(f"dreamer: {tmp_path / 'run'} already exists") and wrong.stderr.count("\n") == 1
