"""The benchmark: counts that do not depend on the machine, and measurements that make sense."""

from __future__ import annotations

import json

import pytest
import torch
from running import tiny_config, tiny_flags

from dreamer.cli import main
from dreamer.experiments import bench

KEYS = {
    "params",
    "seconds_per_update",
    "gflop_per_update",
    "sgemm_gflops",
    "fraction_of_peak",
    "env_steps_per_second",
    "peak_rss_mb",
}


@pytest.fixture
def quick_peak(monkeypatch):
    """A smaller matrix product, where its rate is not what is tested."""
    monkeypatch.setattr(bench, "SGEMM_SIZE", 128)


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
    least, most = result["seconds_per_update_min_max"]
    assert 0 < least <= result["seconds_per_update"] <= most
    expected = result["gflop_per_update"] / (result["seconds_per_update"] * result["sgemm_gflops"])
    assert result["fraction_of_peak"] == pytest.approx(expected)
    assert result["env_steps_per_second"] == pytest.approx(2 / result["seconds_per_agent_step"])


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
    monkeypatch.setattr(bench, "SGEMM_SIZE", 64)
    seconds = iter([9.0, 3.0, 2.0, 5.0, 4.0])
    monkeypatch.setattr(bench, "_timed", lambda function, device: next(seconds))
    assert bench.sgemm_gflops(torch.device("cpu")) == 2 * 64**3 / 2.0 / 1e9


@pytest.mark.slow
def test_walker_walk_at_size_1m(capsys):
    result = measured(capsys, "--task", "dmc:walker_walk", "--size", "1m", "--updates", "1", "--agent-steps", "1")
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
    assert 20 < result["gflop_per_update"] < 40
    assert 0 < result["fraction_of_peak"] < 1 and result["peak_rss_mb"] > 100
