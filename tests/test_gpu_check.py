"""`scripts/gpu_check` with tiny models on the CPU: its stages work here, and a stage that fails stops no other."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import gpu_check
import pytest
import torch
from running import ROOT

STAGES = ("device", "gradients", "captured", "time 1m pixels", "quick")
"""The cheapest stages; `scripts/gpu_check --toy` runs all."""


def checked(*words):
    command = [sys.executable, str(ROOT / "tests" / "gpu_check.py"), *words]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=900)


@pytest.mark.slow
def test_stages_pass_on_the_cpu(tmp_path):
    done = checked("--toy", "--only", ",".join(STAGES), "--json", str(tmp_path / "lines.jsonl"))
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stdout
    assert [line["stage"] for line in lines] == list(STAGES) and all(line["passed"] for line in lines)
    assert (tmp_path / "lines.jsonl").read_text() == done.stdout
    found = {line["stage"]: line for line in lines}
    skipping = [stage for stage in STAGES if "skipped" in found[stage]]
    assert skipping == ["device", "gradients", "captured", "time 1m pixels"], "quick needs no GPU"
    differences = found["gradients"]["differences"]
    assert differences["rssm"]["pixels float32"] == {"loss": 0, "gradient": 0, "entry": 0}
    assert all(0 < kinds["state bfloat16"]["gradient"] < 0.05 for kinds in differences.values())
    assert found["captured"]["staged"]["largest_difference"] < 1e-3
    assert found["time 1m pixels"]["seconds_per_update"] > found["time 1m pixels"]["seconds_acting_1"] > 0


def test_a_stage_that_fails_or_is_late_gets_a_line_and_stops_no_other(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--toy", "--only", "device,gradients,runs"])
    monkeypatch.setattr(gpu_check, "MINUTES", 0.2 / 60)
    assert gpu_check.main() == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["stage"] for line in lines] == ["device", "gradients", "runs"]
    assert not any(line["passed"] for line in lines)
    assert all(line["error"].startswith("not finished within ") for line in lines)


def test_a_difference_is_found():
    gradient = [torch.tensor([1.0, 2.0]), torch.tensor([[4.0]])]
    other = [torch.tensor([1.0, 2.0]), torch.tensor([[4.4]])]
    found = gpu_check.differences((2.0, other), (2.5, gradient))
    assert found == pytest.approx({"loss": 0.2, "gradient": 0.4 / 21**0.5, "entry": 0.1})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--toy", "--only", "captured,nosuch"), "no stage nosuch; choose from device, gradients, captured"),
        (("--device", "cuda:77"), "--device cuda:77 is not available here; available: "),
    ],
)
def test_a_mistake_gets_one_line(words, said, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu_check", *words])
    with pytest.raises(SystemExit) as ended:
        gpu_check.main()
    assert ended.value.code == 2 and said in capsys.readouterr().err.splitlines()[-1]
