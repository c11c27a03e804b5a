"""The benchmark: counts that do not depend on the machine, and measurements that make sense."""

from __future__ import annotations

import json
import time

import pytest
import torch
from running import tiny_config, tiny_flags
from tiny import make_agent

from dreamer.agent import Agent
from dreamer.cli.main import main
from dreamer.experiments.bench import bench, costs
from dreamer.system.meters import peak_gpu_mb
from dreamer.training.graph import WARM_UP, GraphedUpdate
from dreamer.world_model.encoder import Encoder

KEYS = {
    "params",
    "seconds_per_update",
    "gflop_per_update",
    "product_gflops",
    "fraction_of_peak",
    "env_steps_per_second",
    "peak_rss_mb",
}


@pytest.fixture
def quick_peak(monkeypatch):
    """A smaller matrix product, where its rate is not what is tested."""
    monkeypatch.setitem(costs.PRODUCT_SIZES, "cpu", 128)


def measured(capsys, *words):
    assert main(["bench", *words, "--json"]) == 0
    text = capsys.readouterr().out
    assert text.count("\n") == 1
    return json.loads(text)


def test_one_json_object_says_it_all(quick_peak, capsys):
    result = measured(capsys, *tiny_flags(task="toy:copy"), "--updates", "2", "--agent-steps", "3")
    assert result.keys() >= KEYS | {"task", "core", "size", "device", "threads", "torch", "batch"}
    assert result["params"]["total"] == sum(count for name, count in result["params"].items() if name != "total")
    assert result["task"] == "toy:copy" and result["batch"] == [2, 4]
    assert result["product_type"] == "float32" and result["peak_gpu_mb"] is None
    least, most = result["seconds_per_update_min_max"]
    assert 0 < least <= result["seconds_per_update"] <= most
    expected = result["reference_gflop"] / (result["seconds_per_update"] * result["product_gflops"])
    assert result["fraction_of_peak"] == pytest.approx(expected)
    assert result["env_steps_per_second"] == pytest.approx(2 / result["seconds_per_agent_step"])
    parts, loop = result["parts_of_update"], result["parts_of_loop"]
    assert parts.keys() >= {"filter", "imagination", "actor_critic", "backward", "optimizer"}
    assert min(parts.values()) > 0 and sum(parts.values()) < 3 * most
    assert loop.keys() == {"acting", "environment", "append", "sample", "write_back"} and min(loop.values()) > 0
    assert sum(result["shares_of_loop"].values()) == pytest.approx(1)


def test_a_slow_part_takes_nothing_from_another(quick_peak, capsys, monkeypatch):
    """Images make the encoder the slowest part by far."""
    embed = Encoder.forward
    monkeypatch.setattr(Encoder, "forward", lambda *words: time.sleep(0.1) or embed(*words))
    parts = measured(capsys, *tiny_flags(task="toy:copy"), "--updates", "1", "--agent-steps", "1")["parts_of_update"]
    assert parts["encoder"] >= 0.1 and min(parts.values()) > 0


def test_shares_of_the_loop_follow_from_the_replay_ratio():
    """A row is trained on 4 times: an update of 8 rows after 2 rows, which is one step of 2 environments."""
    config = tiny_config("toy:copy", **{"loop.replay_ratio": 4.0})
    parts = {"acting": 1.0, "environment": 2.0, "append": 0.5, "sample": 0.25, "write_back": 0.25}
    shares = costs.shares_of_loop(config, parts, update=6.0)
    assert shares == {"environment": 0.2, "acting": 0.1, "replay": 0.1, "update": 0.6}


def test_settings_are_timed_in_turn(quick_peak, capsys):
    flags = [*tiny_flags(task="toy:copy"), "--updates", "3", "--agent-steps", "1"]
    result = measured(capsys, *flags, "--against", "--agent.imagination-horizon 40", "--cores", "ssm")["in_turn"]
    assert result.keys() == {"this", "against", "ssm"} and result["this"]["ratio"] == 1
    assert result["against"]["ratio"] > 1.5, "ten times the horizon"
    assert result["ssm"]["parameters"] != result["this"]["parameters"] == result["against"]["parameters"]


def test_a_second_setting_that_is_none(capsys):
    assert main(["bench", *tiny_flags(task="toy:copy"), "--against", "--agent.imagination-horizn 4"]) == 2
    assert "--agent.imagination-horizon" in capsys.readouterr().err


def test_scaling_is_measured_and_drawn(quick_peak, monkeypatch, tmp_path, capsys):
    for name, values in {"BATCHES": (2, 16), "LENGTHS": (4,), "HORIZONS": (3,), "SIZES": ("100k",)}.items():
        monkeypatch.setattr(bench, name, values)
    flags = [*tiny_flags(task="toy:copy"), "--updates", "2", "--agent-steps", "1", "--scaling", str(tmp_path / "s")]
    found = measured(capsys, *flags)["scaling"]
    assert json.loads((tmp_path / "s" / "scaling.json").read_text()) == found
    assert (tmp_path / "s" / "scaling.png").stat().st_size > 1000
    small, large = found["batch_size"]
    assert large["reference_gflop"] == pytest.approx(8 * small["reference_gflop"])
    assert found["size"][0]["parameters"] != small["parameters"]


def test_the_flops_of_an_update_grow_with_the_batch(quick_peak):
    gflop = [
        bench.measure(tiny_config("toy:copy", **{"loop.batch_size": size}), "cpu", 1, 1)["gflop_per_update"]
        for size in (2, 4, 8)
    ]
    assert gflop[0] > 0
    assert gflop[1] == pytest.approx(2 * gflop[0], rel=0.02) and gflop[2] == pytest.approx(4 * gflop[0], rel=0.02)


def test_a_reader_gets_lines(quick_peak, capsys):
    assert main(["bench", *tiny_flags(task="toy:copy"), "--updates", "1", "--agent-steps", "1"]) == 0
    lines = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert lines.keys() >= KEYS and "encoder" in lines["params"]


def test_the_peak_is_the_best_of_several_products(monkeypatch):
    monkeypatch.setitem(costs.PRODUCT_SIZES, "cpu", 64)
    seconds = iter([9.0, 3.0, 2.0, 5.0, 4.0])
    monkeypatch.setattr(costs, "timed", lambda function, device: next(seconds))
    assert costs.product_gflops(torch.device("cpu"), torch.float32) == 2 * 64**3 / 2.0 / 1e9


def test_the_product_has_the_type_of_the_update():
    for precision, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        assert costs.product_dtype(make_agent({"precision": precision})) == dtype


def test_a_gpu_is_timed_by_its_events(monkeypatch):
    """The host's own time, which includes the wait before and after, does not count."""
    done = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            done.append("event")

        def elapsed_time(self, end):
            return 1500.0  # ms

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(costs, "synchronize", lambda device: done.append("wait"))
    assert costs.timed(lambda: done.append("call"), torch.device("cuda")) == 1.5
    assert done == ["wait", "event", "call", "event", "wait"]
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 3 * 2**20)
    assert peak_gpu_mb(torch.device("cuda")) == 3 and peak_gpu_mb(torch.device("cpu")) is None


def test_threads_are_those_of_a_run(quick_peak, capsys, monkeypatch):
    """A small model has one; `--threads` sets the number, also that of one of two settings."""
    before, seen, plain = torch.get_num_threads(), [], Agent.update

    def update(agent, batch):
        seen.append(torch.get_num_threads())
        return plain(agent, batch)

    monkeypatch.setattr(Agent, "update", update)
    flags = [*tiny_flags(task="toy:copy"), "--updates", "1", "--agent-steps", "1"]
    torch.set_num_threads(4)
    try:
        assert measured(capsys, *flags)["threads"] == 1 and set(seen) == {1}
        assert measured(capsys, *flags, "--threads", "3", "--against", "--threads 2")["threads"] == 3
        assert set(seen) == {1, 2, 3} and seen[-1] == 2 and torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)


def test_a_graph_is_captured_before_anything_is_timed():
    class Graphed(GraphedUpdate):
        def __init__(self):
            self.done = 0

        def __call__(self, batch):
            self.done += 1

    subject = costs.Subject(tiny_config("toy:copy"), "cpu")
    subject.vector.close()
    subject.accelerated = graphed = Graphed()
    subject.warm_up()
    assert graphed.done == WARM_UP + 1, "the last one is captured"


@pytest.mark.slow
def test_walker_walk_at_size_1m(capsys):
    words = ["--task", "dmc:walker_walk", "--size", "1m", "--compile", "off"]  # see scripts/test
    result = measured(capsys, *words, "--updates", "1", "--agent-steps", "1")
    assert result["params"] == {
        "total": 640_867,
        "encoder": 10_112,
        "dynamics": 364_416,
        "decoder": 51_096,
        "reward": 57_663,
        "continue": 41_153,
        "actor": 50_316,
        "critic": 66_111,
    }
    assert result["batch"] == [16, 64] and result["size"] == "1m"
    # 15.8 billion multiply-adds, counted by hand from the shapes.
    assert result["reference_gflop"] == pytest.approx(31.6, rel=0.01)
    assert 20 < result["gflop_per_update"] < 40
    assert 0 < result["fraction_of_peak"] < 1 and result["peak_rss_mb"] > 100
