"""Several processes that train one agent: what they exchange, and that they agree."""

from __future__ import annotations

import os
import pickle
import socket
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny import make_agent, make_batch, mode_latents, unchecked

from dreamer.agent import Agent
from dreamer.batch import Batch
from dreamer.behavior.returns import ReturnNormalizer
from dreamer.nn.optim import LaProp, OptimizerConfig
from dreamer.system import ranks
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
    answers = [pickle.loads(reader.read()) for reader in readers]
    for child in children:
        os.waitpid(child, 0)
    return answers


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
