"""CUDA graphs without a GPU: what happens around capture and replay, with the driver's part replaced."""

from __future__ import annotations

import contextlib
import shutil
import sysconfig
import warnings

import pytest
import torch
from tiny import make_agent, make_batch

from dreamer.errors import UserError
from dreamer.system import device as devices
from dreamer.training import accelerate
from dreamer.training.accelerate import AcceleratedUpdate, accelerated, obstacle_to_compilation
from dreamer.training.graph import WARM_UP, GraphedUpdate


class Stream:
    def __init__(self, device=None):
        self.device = device

    def wait_stream(self, other):
        self.waited_for = other


@pytest.fixture
def driver(monkeypatch):
    """A driver whose capture fails."""
    captures = []

    @contextlib.contextmanager
    def capture(graph, capture_error_mode):
        captures.append(capture_error_mode)
        torch.rand(5)  # as an update draws random numbers before the capture fails
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore lines")
        yield

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: torch.get_rng_state())
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: torch.set_rng_state(state))
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda mode: None)
    return captures


def losses(agent, update, count):
    torch.manual_seed(7)
    return [update(make_batch(agent, seed=number))[0]["loss/total"].item() for number in range(count)]


def test_a_run_whose_capture_fails_goes_on_without_a_graph(driver, capsys):
    agent, twin = make_agent(), make_agent()
    update = GraphedUpdate(agent, AcceleratedUpdate(agent, compiled=False))
    assert losses(agent, update, WARM_UP + 3) == losses(twin, AcceleratedUpdate(twin, compiled=False), WARM_UP + 3)
    assert driver == ["thread_local"], "one attempt, which leaves other threads alone"
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and said[0].endswith("operation not permitted when stream is capturing")


def test_an_update_that_waits_for_the_gpu_is_not_captured(driver, capsys):
    agent = make_agent()
    plain = agent.actor_critic.update_slow_critic

    def waiting():
        warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        plain()

    agent.actor_critic.update_slow_critic = waiting
    update = GraphedUpdate(agent, AcceleratedUpdate(agent, compiled=False))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        losses(agent, update, WARM_UP + 2)
    assert driver == []
    assert (
        "waits for the GPU" in (said := capsys.readouterr().err) and "test_graph.py:" in said and said.count("\n") == 1
    )


def test_a_graph_that_is_asked_for_needs_a_gpu(capsys):
    agent = make_agent()
    assert isinstance(accelerated(agent, "off", 1, "on"), AcceleratedUpdate)
    assert capsys.readouterr().err == "no CUDA graph: the device is cpu\n"
    accelerated(agent, "off", 1, "auto")
    assert capsys.readouterr().err == ""


def test_compilation_on_a_gpu_needs_triton_a_compiler_and_headers(monkeypatch, tmp_path):
    cuda = torch.device("cuda")
    monkeypatch.setattr(accelerate, "has_triton", lambda: False)
    assert "Triton" in obstacle_to_compilation(cuda)
    monkeypatch.setattr(accelerate, "has_triton", lambda: True)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "C compiler" in obstacle_to_compilation(cuda)
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/gcc")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    assert "headers" in obstacle_to_compilation(cuda)
    (tmp_path / "Python.h").touch()
    assert obstacle_to_compilation(cuda) is None
    assert "mps" in obstacle_to_compilation(torch.device("mps"))


def test_a_gpu_is_chosen_by_its_number(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert devices.choose_device("auto") == "cuda" and devices.choose_device("cuda:1") == "cuda:1"
    assert chosen == ["cuda:1"]
    with pytest.raises(UserError, match="--device cuda:9 is not available here; available: cuda, cuda:0, cuda:1, cpu"):
        devices.choose_device("cuda:9")
