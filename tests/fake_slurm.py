"""Slurm's commands for one machine, under their names in a folder on PATH; $FAKE_SLURM keeps the queue.

A job is the file ID with the comment of its script; ID.group is its process group, ID.requeue asks for another start.
"""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

HERE = Path(os.environ.get("FAKE_SLURM", "."))
COMMANDS = ("sbatch", "squeue", "scancel", "scontrol", "srun")


def install(folder: Path) -> None:
    """Make the commands in a new folder."""
    folder.mkdir()
    for name in COMMANDS:
        path = folder / name
        path.write_text(f'#!/bin/sh\nexec {sys.executable} {__file__} {name} "$@"\n')
        path.chmod(0o755)


def sbatch(script: str) -> None:
    text = Path(script).read_text()
    [comment] = re.findall(r"^#SBATCH --comment=(.*)$", text, re.M)
    tasks = re.findall(r"^#SBATCH --array=0-(\d+)", text, re.M)
    number = next(number for number in itertools.count(1) if not list(HERE.glob(f"{number}*")))
    names = [f"{number}_{task}" for task in range(int(tasks[0]) + 1)] if tasks else [str(number)]
    for name in names:
        (HERE / name).write_text(comment.strip("'\""))
        silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.Popen([sys.executable, __file__, "run", name, script], start_new_session=True, **silent)
    print(f"Submitted batch job {number}")


def run(name: str, script: str) -> None:
    number, _, task = name.partition("_")
    own = {"SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": task} if task else {}
    while True:
        with open(HERE / f"{name}.out", "ab") as out:
            job = subprocess.Popen(
                ["bash", "-c", 'trap : USR2 TERM; . "$0"', script],  # Slurm signals what srun starts, not the script
                env=os.environ | {"SLURM_JOB_ID": name} | own,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        (HERE / f"{name}.group").write_text(str(job.pid))
        job.wait()
        if not (HERE / f"{name}.requeue").exists():
            break
        (HERE / f"{name}.requeue").unlink()
    (HERE / name).unlink()


def squeue(*_: str) -> None:
    for path in HERE.iterdir():
        if not path.suffix:
            print(f"{path.name}|{path.read_text()}")


def scancel(name: str, number: int = signal.SIGTERM) -> None:
    if (HERE / name).exists():
        os.killpg(int((HERE / f"{name}.group").read_text()), number)


def scontrol(_: str, name: str) -> None:
    (HERE / f"{name}.requeue").touch()


def srun(*words: str) -> None:
    command = list(itertools.dropwhile(lambda word: word != sys.executable, words))
    os.execv(command[0], command)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
