"""Trains a tiny model for a long time and watches from outside: memory, open files, threads and speed must stay flat.

`scripts/soak` runs this. Every part of a run is at work (environments, replay that wraps, updates, evaluations,
checkpoints, records); only updates are rare, so that 250,000 steps of the loop take minutes. Started again with the
same folder it goes on where it was. soak.json and soak.png go to `--out`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SETTINGS = {
    "task": "toy:copy",
    "env.num_envs": 4,
    "replay.capacity": 20_000,
    "loop.replay_ratio": 0.25,
    "loop.batch_size": 4,
    "loop.batch_length": 16,
    "loop.log_every": 1000,
    "loop.eval_every": 10_000,
    "loop.checkpoint_every": 5000,
}
SECONDS = 2.0


def watch(process: subprocess.Popen[bytes], metrics: Path, log: Path) -> None:
    """Append a sample of a process to `log` every two seconds until it ends."""
    proc = Path(f"/proc/{process.pid}")
    while process.poll() is None:
        try:
            status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
            sample = {
                "step": last_step(metrics),
                "rss_mb": int(status["VmRSS"].split()[0]) / 1024,
                "anonymous_mb": int(status["RssAnon"].split()[0]) / 1024,
                "threads": int(status["Threads"]),
                "files": len(os.listdir(proc / "fd")),
            }
        except (OSError, KeyError):  # it ends just now
            break
        with open(log, "a") as file:
            file.write(json.dumps(sample) + "\n")
        time.sleep(SECONDS)


def last_step(metrics: Path) -> int:
    """Step of the newest record."""
    if not metrics.exists():
        return 0
    with open(metrics, "rb") as file:
        file.seek(max(0, metrics.stat().st_size - 8192))
        lines = file.read().split(b"\n")
    return json.loads(lines[-2])["step"] if len(lines) > 1 else 0


def quarters(samples: list[dict[str, Any]], name: str, steps: int) -> tuple[float, float]:
    """Mean in the second quarter of the steps, and in the last one, without what is drawn and closed at the end."""

    def mean(low: float, high: float) -> float:
        values = [sample[name] for sample in samples if low * steps <= sample["step"] < high * steps]
        return sum(values) / max(1, len(values))

    return mean(0.25, 0.5), mean(0.75, 1.0)


def report(folder: Path, out: Path, steps: int) -> dict[str, Any]:
    """Write the figures and the plot."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    from dreamer.tracking import read
    from dreamer.tracking.plotting import PALETTE, STYLE

    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    records = [record for record in read(folder / "run" / "metrics.jsonl") if "time/env_steps_per_second" in record]
    for record in records:
        record["milliseconds"] = 1000 / max(record["time/env_steps_per_second"], 1e-9)
    shown = [
        ("anonymous_mb", samples, "memory without mapped files, MB"),
        ("files", samples, "open files"),
        ("threads", samples, "threads"),
        ("milliseconds", records, "milliseconds per environment step"),
    ]
    result: dict[str, Any] = {"steps": records[-1]["step"], "updates": records[-1]["updates"], "samples": len(samples)}
    out.mkdir(parents=True, exist_ok=True)
    with pyplot.rc_context(STYLE):
        figure, axes = pyplot.subplots(len(shown), 1, figsize=(8, 8), sharex=True, layout="constrained")
        for axis, (name, source, title) in zip(axes, shown, strict=True):
            axis.plot([row["step"] for row in source], [row[name] for row in source], color=PALETTE[0])
            axis.set_title(title, loc="left")
            axis.set_ylim(bottom=0)
            second, last = quarters(source, name, steps)
            result[name] = {"second_quarter": round(second, 3), "last_quarter": round(last, 3)}
        axes[-1].set_xlabel("environment steps")
        figure.savefig(out / "soak.png", dpi=100)
    (out / "soak.json").write_text(json.dumps(result, indent=1) + "\n")
    return result


def main() -> int:
    """The command line of `scripts/soak`."""
    from running import tiny_flags

    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__)
    parser.add_argument(
        "--steps", type=int, default=1_000_000, help="environment steps, 4 for each of the loop (default 1,000,000)"
    )
    parser.add_argument("--folder", type=Path, default=Path("runs/soak"), help="where it runs; again to go on")
    parser.add_argument("--out", type=Path, default=Path("docs/results/soak"), help="where the figures go")
    args = parser.parse_args()
    run = args.folder / "run"
    args.folder.mkdir(parents=True, exist_ok=True)
    begin = [*tiny_flags(**SETTINGS | {"steps": args.steps}), "--run-dir", str(run)]
    words = ["--resume", str(run), "--steps", str(args.steps)] if (run / "run.json").exists() else begin
    with subprocess.Popen([sys.executable, "-m", "dreamer", "train", *words], stdout=subprocess.DEVNULL) as process:
        watch(process, run / "metrics.jsonl", args.folder / "samples.jsonl")
    if process.returncode:
        return process.returncode
    print(json.dumps(report(args.folder, args.out, args.steps), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
