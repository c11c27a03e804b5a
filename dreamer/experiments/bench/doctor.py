"""`dreamer doctor`: versions, devices, compilers, rendering, W&B login and disk space of this machine."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sysconfig
from pathlib import Path

import torch

import envs
from dreamer.runs.provenance import VERSIONED, commit, package_version
from dreamer.system.device import choose_device
from dreamer.system.memory import GB, free_bytes
from dreamer.training.accelerate import obstacle_to_compilation

DRIVER = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]


def frame_rates() -> str:
    """Return the frames of 64x64 pixels per second of every rendering backend; call it before a backend is selected."""
    from envs.rendering import candidates, frames_per_second

    found = []
    for backend in candidates():
        fast = frames_per_second(backend, shadows=False)
        full = fast and frames_per_second(backend, shadows=True)
        rates = f"{full:.0f} frames/s, {fast:.0f} without shadows" if fast and full else "draws nothing"
        found.append(f"{backend.name} {rates}")
    return "; ".join(found)


def driver() -> str:
    """Return the version of NVIDIA's driver, or "none"."""
    try:
        done = subprocess.run(DRIVER, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return "none"
    return next(iter(done.stdout.split()), "none")


def devices() -> list[str]:
    """Return a line about the device that `auto` takes and one about every CUDA device."""
    built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    found = [f"device      auto takes {choose_device('auto')}; torch is built {built}; NVIDIA driver {driver()}"]
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        about, free = torch.cuda.get_device_properties(number), torch.cuda.mem_get_info(number)[0]
        bf16 = "bfloat16" if about.major >= 8 else "no bfloat16"
        memory = f"{about.total_memory / GB:.1f} GB, {free / GB:.1f} free"
        found.append(f"{f'cuda:{number}':<12}{about.name}, capability {about.major}.{about.minor}, {memory}, {bf16}")
    return found


def compilers() -> str:
    """Return what torch.compile finds: on a CPU it needs a C++ compiler; on a GPU Triton, a C compiler and headers."""
    device = torch.device(choose_device("auto"))
    triton = package_version("triton") if importlib.util.find_spec("triton") else "none"
    c, cxx = (shutil.which(os.environ.get(name, usual)) or "none" for name, usual in (("CC", "gcc"), ("CXX", "g++")))
    headers = "found" if Path(sysconfig.get_path("include"), "Python.h").exists() else "missing"
    verdict = obstacle_to_compilation(device) or f"can be used on {device.type}"
    verdict = verdict if verdict.startswith("torch.compile") else f"torch.compile: {verdict}"
    return f"compiler    {verdict}; C {c}, C++ {cxx}, Python.h {headers}, Triton {triton}"


def doctor() -> list[str]:
    """Return lines about versions, devices, compilers, rendering, W&B and disk space."""
    from dreamer.tracking.wandb_session import choose_mode
    from envs.rendering import missing_gl_message, select_backend

    drawn = frame_rates()
    backend = select_backend()
    versions = ", ".join(f"{name} {package_version(name)}" for name in VERSIONED)
    try:
        mode, reason = choose_mode("auto")
        logging = f"{mode}: {reason}" if reason else mode
    except ValueError as error:
        logging = f"refused: {error}"
    return [
        f"python      {platform.python_version()} on {platform.platform()}",
        f"packages    {versions}",
        f"code        {commit()}",
        f"cores       {envs.cores()}, torch uses {torch.get_num_threads()} threads",
        *devices(),
        compilers(),
        f"rendering   {f'takes {backend}: {drawn}' if backend else missing_gl_message()}",
        f"W&B         {logging}",
        f"disk        {free_bytes(Path('.')) / GB:.1f} GB free here",
    ]
