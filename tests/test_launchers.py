"""Launchers: what each refuses, and runs that survive whatever a cluster does to them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import fake_slurm
import pytest
from running import ROOT, timeless, tiny_flags
from tiny import unchecked

import dreamer
from dreamer.cli.main import main
from dreamer.experiments.ablation.launchers import remote, slurm
from dreamer.runs.folder import locked, open_run

LONG = {"steps": 480, "loop.eval_every": 240}


def flags(folder, *given, **changes):
    """The words of `dreamer ablate` for tiny runs of one core with two seeds."""
    words = tiny_flags(**changes)
    at = words.index("--task")
    own = ["--tasks", "toy:copy", "--cores", "rssm", "--seeds", "2", "--jobs", "2", "--folder", str(folder)]
    return ["ablate", *words[:at], *words[at + 2 :], *own, *given]


def eventually(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def checkpoints(run_dir):
    return sorted((run_dir / "checkpoints").glob("*.ckpt"))


def equals_its_twin(run_dir, twins):
    with unchecked():
        twin = dreamer.train(open_run(run_dir).config, run_dir=twins / run_dir.name)
    return timeless(run_dir) == timeless(twin.path)


# What is refused


def without(name):
    return lambda patch, path: patch.setitem(sys.modules, name, None)


def without_commands(patch, path):
    patch.setitem(sys.modules, "submitit", types.ModuleType("submitit"))
    patch.setenv("PATH", str(path))


def without_controller(patch, path):
    without_commands(patch, path / "bin")
    fake_slurm.install(path / "bin")
    (path / "bin" / "squeue").write_text("#!/bin/sh\necho 'error: Unable to contact slurm controller' >&2\nexit 1\n")


def without_cluster(patch, path):
    patch.setitem(sys.modules, "ray", types.SimpleNamespace(is_initialized=lambda: False))


MISTAKES = {
    "--on k8s": (None, "--on k8s: there is no such launcher; choose from local, slurm, ray"),
    "--cluster.partition gpu": (None, "--cluster.partition does nothing with --on local; it is for --on slurm"),
    "--on slurm --cluster.address a:1": (None, "--cluster.address does nothing with --on slurm; it is for --on ray"),
    "--on ray --cluster.minutes 9": (None, "--cluster.minutes does nothing with --on ray; it is for --on slurm"),
    "--on slurm": (without("submitit"), "--on slurm needs submitit: pip install 'dreamer-torch-agent[slurm]'"),
    "--on ray": (without("ray"), "--on ray needs Ray: pip install 'dreamer-torch-agent[ray]'"),
    "--on slurm --cluster.cpus 2": (
        without_commands,
        "--on slurm: there is no sbatch here; give the command on a login node",
    ),
    "--on slurm --jobs 3": (without_controller, "Slurm does not answer: error: Unable to contact slurm controller"),
    "--on ray --cluster.address 127.0.0.1:1": (without_cluster, "--on ray: nothing answers at 127.0.0.1:1: "),
    "--on ray --cluster.address ray": (without_cluster, "--cluster.address ray: give HOST:PORT, such as 10.0.0.1:6379"),
}


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_costs_one_line_and_leaves_nothing(tmp_path, monkeypatch, capsys, words):
    prepare, message = MISTAKES[words]
    if prepare:
        prepare(monkeypatch, tmp_path)
    assert main(flags(tmp_path / "f", *words.split())) == 2
    output = capsys.readouterr()
    assert output.out == "" and output.err.startswith("dreamer: ") and output.err.count("\n") == 1
    assert message in output.err and not (tmp_path / "f").exists()


def test_a_dry_run_needs_no_cluster(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert main(flags(tmp_path / "f", "--on", "slurm", "--dry-run")) == 0
    assert "2 runs" in capsys.readouterr().out


# A child on another machine


def test_a_child_waits_until_no_other_process_trains_in_its_folder(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(remote, "start_child", lambda order, env: (order, env))
    monkeypatch.setattr(remote.time, "sleep", lambda _: (asked.append(1), held.close() if len(asked) == 2 else None))
    held = open_lock(tmp_path)
    order = types.SimpleNamespace(place=str(tmp_path.parent), run_dir=tmp_path.name)
    with unchecked():
        given = remote.started(order, 3, {"A": "b"})
    assert given == (order, {"A": "b", "OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "3"})
    assert len(asked) == 2


def open_lock(path):
    stack = contextlib.ExitStack()
    stack.enter_context(locked(path))
    return stack


# Slurm


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Commands of Slurm that run jobs on this machine; returns the folder of the queue."""
    pytest.importorskip("submitit")
    (tmp_path / "queue").mkdir()
    fake_slurm.install(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(tmp_path / "queue"))
    monkeypatch.setattr(slurm, "QUEUE_SECONDS", 0.2)
    monkeypatch.setattr(slurm, "LATE_SECONDS", 1.0)
    yield tmp_path / "queue"
    for path in (tmp_path / "queue").glob("*.group"):
        try:
            os.killpg(int(path.read_text()), signal.SIGKILL)
        except ProcessLookupError:
            continue


def start(*words):
    """`dreamer ablate` in a process of its own."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([sys.executable, "-m", "dreamer", *words], cwd=ROOT, **pipes)


def jobs_in(queue: Path) -> set[str]:
    return {path.name for path in queue.iterdir() if not path.suffix}


@pytest.mark.slow
def test_jobs_of_slurm_are_stopped_found_again_and_requeued(tmp_path, cluster, capsys):
    folder = tmp_path / "f"
    first, second = (folder / "toy_copy" / "rssm" / f"seed{seed}" for seed in (0, 1))
    words = flags(folder, "--on", "slurm", "--cluster.minutes", "60", **LONG)
    parent = start(*words)
    eventually(lambda: checkpoints(first) and checkpoints(second))
    parent.send_signal(signal.SIGTERM)
    output, _ = parent.communicate(timeout=60)
    assert parent.returncode == 75 and "toy:copy rssm seed 0  as Slurm job 1_0  output in" in output
    assert f"stopped; resume with: dreamer ablate --folder {folder} --on slurm --cluster.minutes 60\n" in output
    assert not jobs_in(cluster) and "saving a checkpoint" in (folder / "logs" / "toy_copy_rssm_seed0.log").read_text()
    saved = [checkpoints(run_dir)[-1].name for run_dir in (first, second)]

    parent = start(*words)
    eventually(lambda: '"2_1"' in (folder / "logs" / "slurm" / "jobs.json").read_text())
    parent.kill()  # the jobs go on
    parent.communicate()
    eventually(lambda: checkpoints(first)[-1].name > saved[0])
    fake_slurm.HERE = cluster
    fake_slurm.scancel("2_0", signal.SIGUSR2)  # as at the time limit of a job
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "toy:copy rssm seed 0  as Slurm job 2_0" in printed and printed.count("finish ") in (1, 2)
    assert not jobs_in(cluster)
    assert len(open_run(first).info["resumed"]) == 2 and len(open_run(second).info["resumed"]) == 1
    assert all(equals_its_twin(run_dir, tmp_path / "twins") for run_dir in (first, second))


def test_a_job_that_slurm_has_lost_is_a_failed_run(tmp_path, cluster, capsys):
    (tmp_path / "bin" / "sbatch").write_text("#!/bin/sh\necho Submitted batch job 7\n")
    assert main(flags(tmp_path / "f", "--on", "slurm")) == 1
    assert "seed 1: Slurm job 7_1 ended before its run; what it printed is in" in capsys.readouterr().out


def test_jobs_that_slurm_refuses_cost_one_line(tmp_path, cluster, capsys):
    (tmp_path / "bin" / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: invalid partition: x' >&2\nexit 1\n")
    assert main(flags(tmp_path / "f", "--on", "slurm", "--cluster.partition", "x")) == 2
    error = capsys.readouterr().err
    assert "dreamer: --on slurm: Slurm refuses the jobs: sbatch: error: invalid partition: x\n" in error


# Ray


@pytest.fixture
def ray(monkeypatch):
    """A cluster of Ray on this machine."""
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield ray
    ray.shutdown()


@pytest.mark.slow
def test_a_task_of_ray_whose_process_dies_resumes_from_its_checkpoint(tmp_path, ray, capsys, monkeypatch):
    psutil = pytest.importorskip("psutil")
    folder = tmp_path / "f"
    first, second = (folder / "toy_copy" / "rssm" / f"seed{seed}" for seed in (0, 1))
    killed = []

    def wait(*given, **options):
        if not killed and checkpoints(first):
            [worker] = [
                one.parent() for one in psutil.Process().children(recursive=True) if one.cmdline()[-1:] == [str(first)]
            ]
            worker.kill()
            killed.append(worker.pid)
        return original(*given, **options)

    original = ray.wait
    monkeypatch.setattr(ray, "wait", wait)
    assert main(flags(folder, "--on", "ray", **LONG)) == 0
    assert killed and capsys.readouterr().out.count("finish ") == 2
    assert len(open_run(first).info["resumed"]) == 1 and "resumed" not in open_run(second).info
    assert all(equals_its_twin(run_dir, tmp_path / "twins") for run_dir in (first, second))
