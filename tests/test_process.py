"""Standard streams in any state, signals of schedulers and lost terminals, suspension, and names that hide ours."""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import signal
import subprocess
import sys
import time
from multiprocessing import forkserver, resource_tracker

import pytest
from nursery import run_children, set_streams
from running import ROOT, dreamer_command, forked, newest, tiny_config, tiny_flags
from tiny import unchecked

import dreamer
import envs
from dreamer.cli.main import main
from dreamer.experiments.ablation import jobs
from dreamer.experiments.ablation.launchers import local
from dreamer.experiments.ablation.manifest import AblateArguments
from dreamer.runs.folder import create_run, open_run
from dreamer.system.files import read_json, write_atomically
from dreamer.tracking import read
from envs.process import LOST, STOP_SIGNALS, stop_signals, stopped_status
from envs.toy import Counting

FULL = "No space left on device"


@pytest.fixture(autouse=True, scope="module")
def without_type_checks():
    with unchecked():
        yield


# Runs to which something happens, all in the forks of one process


CONSOLES = {
    ("open", "closed", "open"): "",
    ("closed", "closed", "closed"): "",
    ("open", "full", "open"): f"standard output cannot be written: {FULL}; the run continues\n",
    ("open", "open", "full"): f"standard error cannot be written: {FULL}; the run continues\n",
    ("open", "unread", "unread"): "standard output cannot be written: Broken pipe; the run continues\n",
}
"""States of standard input, output and error, and a line that the run then leaves in its log."""
NUMBERS = [signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGXCPU]
REPLACED = "it was moved, replaced or cut while the run was using it"
CRIMES = {
    "truncate -s 1 run/replay/rows.bin": "rows.bin was cut while the run was using it",
    "truncate -s 1 run/replay/states.bin": "states.bin was cut while the run was using it",
    "rm -r run/replay": f"cannot write replay in run/replay: {REPLACED}",
    "rm run/metrics.jsonl": f"cannot write run/metrics.jsonl: {REPLACED}",
    "truncate -s 1 run/metrics.jsonl": f"cannot write run/metrics.jsonl: {REPLACED}",
    "mv run moved && cp -r moved run": f"cannot write replay in run/replay: {REPLACED}",
    "mv run moved": f"cannot write replay in run/replay: {REPLACED}",
}
"""Interference of another process in the middle of a training, and the line that it gets."""
LOG = "dreamer.training.loop:Trainer.log"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folder of each run, which is called `run` there, and what became of its process."""
    orders, folders = [], {}

    def order(name, injections, **changes):
        folders[name] = tmp_path_factory.mktemp("case")
        to_folder = ["dreamer.cli.main:open_streams", 1, "folder", str(folders[name])]
        words = ["train", *tiny_flags(**{"loop.replay_ratio": 0.05} | changes), "--run-dir", "run"]
        orders.append((words, [to_folder, *injections]))

    for states in CONSOLES:
        streams = ["dreamer.cli.main:open_streams", 1, "streams", *states]
        order(states, [streams], steps=24, **{"tracking.console": True})
    for number in NUMBERS:
        order(number, 2 * [[LOG, 2, "signal", number]], **{"loop.checkpoint_every": 1000})
    order("early", [["dreamer.training.state:RunState.begin", 1, "signal", signal.SIGUSR1]])
    for crime in CRIMES:
        order(crime, [[LOG, 3, "shell", crime]], **{"loop.eval_every": 1000})
    ended = run_children(*orders, folder=tmp_path_factory.mktemp("output"))
    return {name: (folder, child) for (name, folder), child in zip(folders.items(), ended, strict=True)}


@pytest.mark.parametrize("states", CONSOLES, ids="-".join)
def test_a_training_whose_console_fails_goes_on_and_its_log_says_so(runs, states):
    folder, ended = runs[states]
    assert ended.code == 0, ended
    assert newest(folder / "run")["step"] == 24 and "eval/return_mean" in read(folder / "run" / "metrics.jsonl")[-1]
    log = folder / "run" / "faults" / "console.log"
    assert log.exists() == bool(CONSOLES[states])
    if log.exists():
        assert log.read_text().count(CONSOLES[states]) == 1
    if states == ("open", "full", "open"):
        assert ended.errors.count(f"dreamer: {CONSOLES[states]}") == 1


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: number.name)
def test_a_scheduler_or_a_lost_terminal_makes_a_run_save_and_stop(runs, number):
    folder, ended = runs[number]
    assert ended.code == 75, ended
    assert ended.errors.count(f"{number.name} received: saving a checkpoint, then stopping\n") == 1
    assert newest(folder / "run")["step"] == 40


def test_a_signal_before_the_first_step_stops_a_run_that_can_be_resumed(runs):
    folder, ended = runs["early"]
    assert ended.code == 75 and newest(folder / "run")["step"] == 0, ended


@pytest.mark.parametrize("crime", CRIMES)
def test_a_file_that_is_cut_moved_or_replaced_while_training_is_one_line(runs, crime):
    _, ended = runs[crime]
    assert ended.code == 2 and ended.errors.count("\n") == 1, ended
    assert ended.errors.startswith("dreamer: ") and CRIMES[crime] in ended.errors


def test_a_folder_that_is_moved_while_training_is_resumed_where_it_is(runs):
    folder, _ = runs["mv run moved"]
    assert not (folder / "run").exists()
    assert dreamer.resume(folder / "moved").status == "finished"
    assert newest(folder / "moved")["step"] == 160 and not (folder / "run").exists()


# Streams


def in_streams(states, function):
    """Answer and exit code of a function in a process whose standard streams are in these states."""

    def answer():
        set_streams(None, *states)
        return str(function())

    return forked(answer)


@pytest.mark.parametrize(
    ("words", "states", "status"),
    [
        (["tasks"], ("open", "full", "open"), 2),
        (["tasks"], ("open", "unread", "open"), 0),
        (["tasks"], ("closed", "closed", "open"), 0),
        (["tasks", "zzz"], ("open", "open", "closed"), 2),
        (["tasks", "zzz"], ("open", "open", "full"), 2),
        (["--help"], ("open", "full", "open"), 2),
    ],
    ids=str,
)
def test_a_lost_output_is_an_error_unless_nobody_wants_it(words, states, status):
    def command():
        answer = main(words)
        closed = [number for number, state in enumerate(states) if state == "closed"]
        return answer, {os.readlink(f"/proc/self/fd/{number}") for number in closed} <= {"/dev/null"}

    assert in_streams(states, command) == (0, f"({status}, True)")


def test_the_help_has_an_output_too(capfd):
    def command():
        try:
            return main(["tasks", "--help"])
        except SystemExit as stop:
            return str(stop.code)

    assert in_streams(("open", "full", "open"), command) == (0, "2")
    assert capfd.readouterr().err == f"dreamer: cannot write standard output: {FULL}\n"


def test_from_python_a_lost_console_costs_nothing_either(run_dir, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    with monkeypatch.context() as patched, contextlib.suppress(OSError), open("/dev/full", "w") as full:
        patched.setattr(sys, "stderr", full)
        result = dreamer.train(tiny_config(steps=24, **{"tracking.console": True}), run_dir=run_dir)
    assert result.status == "finished"
    assert f"standard error cannot be written: {FULL}" in (run_dir / "faults" / "console.log").read_text()
    LOST.clear()


def test_what_the_machine_refuses_is_one_line(monkeypatch, capsys):
    for error, text in (
        (OSError(errno.EMFILE, "Too many open files", "x"), "[Errno 24] Too many open files: 'x'"),
        (MemoryError(), "MemoryError"),
    ):

        def refuse(argv, error=error):
            raise error

        monkeypatch.setattr("dreamer.cli.commands.tasks", refuse)
        assert main(["tasks"]) == 2 and capsys.readouterr().err == f"dreamer: {text}\n"
    monkeypatch.setattr("dreamer.cli.commands.tasks", lambda argv: os.kill(os.getpid(), signal.SIGINT) or time.sleep(5))
    assert main(["tasks"]) == 130 and capsys.readouterr().err == "" and not LOST


def test_processes_that_cannot_start_for_lack_of_descriptors_are_one_line(monkeypatch):
    def refuse(*_):
        raise EOFError

    monkeypatch.setattr("multiprocessing.context.ForkServerProcess.start", refuse)
    with pytest.raises(envs.UserError, match=r"cannot start a process for environments: it ended at once; `ulimit -a`"):
        envs.make_vector(counting, [0], parallel=True)


# Encodings


def test_a_report_under_an_ascii_locale(tmp_path):
    run = dreamer.train(tiny_config(steps=4), run_dir=tmp_path / "Kätzchen").path
    ascii_locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = dreamer_command("report", run, **ascii_locale)
    assert (done.returncode, done.stderr) == (0, "")
    assert "K\\xe4tzchen" in done.stdout and "Kätzchen" in (run / "report.html").read_text()


def test_a_name_that_is_no_text_can_be_written(tmp_path):
    """JSON that quotes it can be read again, which an escaped lone surrogate would prevent."""
    write_atomically(tmp_path / "file", json.dumps(os.fsdecode(b"caf\xe9"), ensure_ascii=False))
    assert read_json(tmp_path / "file", str) == "caf?"


# Signals


def test_each_stop_signal_reaches_its_handler_unless_it_is_ignored():
    received = []
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    try:
        with stop_signals(lambda number, frame: received.append(number)):
            for number in STOP_SIGNALS:
                os.kill(os.getpid(), number)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)
    assert set(received) == set(STOP_SIGNALS) - {signal.SIGHUP}
    assert (stopped_status(signal.SIGINT), stopped_status(signal.SIGTERM)) == (130, 75)


def test_an_ablation_passes_every_stop_signal_on(tmp_path, monkeypatch):
    children = []

    def start(order, env):
        children.append(subprocess.Popen(["sleep", "60"], stdin=subprocess.PIPE))
        return children[0]

    monkeypatch.setattr(local, "start_child", start)
    config = tiny_config()
    job, launcher = jobs.Job(None, tmp_path, tmp_path / "log", config), local.Local(AblateArguments(config))
    ended = []
    stopped_by = jobs.do_all(
        [job], launcher, lambda *_: os.kill(os.getpid(), signal.SIGUSR1), lambda *given: ended.append(given)
    )
    assert stopped_by == signal.SIGUSR1 and children[0].returncode == -signal.SIGTERM and not ended


def counting(index):
    return envs.prepare(Counting(), seed=0, index=index)


class Simulator(Counting):
    """Is drawn by a program that ends on SIGTERM."""

    def step(self, action):
        program = subprocess.Popen(["sleep", "60"])
        program.terminate()
        assert program.wait(20) == -signal.SIGTERM
        return super().step(action)


def simulator(index):
    return envs.prepare(Simulator(), seed=0, index=index)


def test_signals_to_all_processes_end_no_worker_and_no_helper():
    vector = envs.make_vector(simulator, [0], parallel=True)
    try:
        vector.reset()
        helpers = [
            forkserver._forkserver._forkserver_pid,
            resource_tracker._resource_tracker._pid,
        ]
        for process in [vector.processes[0].pid, *helpers]:
            for number in STOP_SIGNALS:
                os.kill(process, number)
        *_, info = vector.step(vector.action_space.sample())
        assert envs.failures(info) == {} and vector.processes[0].is_alive()
        assert [os.waitpid(helper, os.WNOHANG) for helper in helpers] == [(0, 0), (0, 0)]
    finally:
        vector.close()


# Suspension


class Suspended(Counting):
    """Suspends processes for longer than its time limit, in the first of five parts of its second step."""

    def __init__(self, pids):
        super().__init__()
        self.pids = pids

    def step(self, action):
        if self._step == 1:
            pids = " ".join(str(pid or os.getpid()) for pid in self.pids)
            subprocess.Popen(["sh", "-c", f"kill -STOP {pids}; sleep 1.5; kill -CONT {pids}"], start_new_session=True)
        for _ in range(5):
            time.sleep(0.1)
        return super().step(action)


def suspended(index, pids):
    return envs.prepare(Suspended(pids), seed=0, index=index)


@pytest.mark.parametrize("who", ["in process", "worker", "parent and worker"])
def test_the_time_of_a_suspension_does_not_count(who):
    pids = [0] if who == "worker" else [os.getpid()] if who == "in process" else [os.getpid(), 0]
    make_env = functools.partial(suspended, pids=pids)
    vector = envs.make_vector(make_env, [0], parallel=who != "in process", timeout=1.0)
    try:
        vector.reset()
        for _ in range(3):
            began = time.monotonic()
            *_, info = vector.step(vector.action_space.sample())
            assert envs.failures(info) == {}
        assert time.monotonic() - began < 10
    finally:
        vector.close()


# Names


def test_an_envs_folder_in_the_users_project_hides_nothing_from_a_command_and_is_named_elsewhere(tmp_path):
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs" / "__init__.py").touch()
    path = f"{tmp_path}{os.pathsep}{ROOT}"
    assert dreamer_command("tasks", "toy:copy", cwd=tmp_path, PYTHONPATH=path).stdout.startswith("toy:copy\n")
    done = dreamer_command("train", "--env-import", "envs.mine", cwd=tmp_path, PYTHONPATH=path)
    assert done.stderr == (
        "dreamer: --env-import envs.mine: No module named 'envs.mine'; "
        f"{tmp_path / 'envs'} is hidden by {ROOT / 'envs'}: give it another name\n"
    )
    script = [sys.executable, "-c", "import dreamer; dreamer.UserError"]
    done = subprocess.run(script, cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True)
    message = f"ImportError: dreamer needs its package {ROOT / 'envs'}, which {tmp_path / 'envs'} hides: "
    assert done.stderr.splitlines()[-1].startswith(message)


def test_a_script_without_a_main_guard_gets_the_advice_and_no_traceback_of_its_processes(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import functools, envs\n"
        "from envs.toy import Counting\n"
        "def make(index): return envs.prepare(Counting(), seed=0, index=index)\n"
        "try: envs.make_vector(make, [0, 1], parallel=True)\n"
        "except envs.UserError as error: print(error)\n"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, script], env=env, capture_output=True, text=True, timeout=100)
    assert done.stdout.startswith("a script that starts environments in processes must do so under `if __name__ == ")
    assert done.stderr == "" and done.stdout.count("\n") == 1


def test_runs_that_start_in_one_second_get_folders_of_their_own(tmp_path):
    config = tiny_config()
    made = [create_run(tmp_path / "run", config, "cpu", unique=True).path.name for _ in range(3)]
    assert made == ["run", "run_2", "run_3"]


def test_a_file_of_a_run_is_answered_with_the_name_of_its_folder(tmp_path, capsys):
    run = dreamer.train(tiny_config(steps=4), run_dir=tmp_path / "run").path
    file = max(run.glob("checkpoints/*.ckpt"))
    for words in (["train", "--from", str(file)], ["evaluate", str(file)], ["imagine", str(file.parent)]):
        assert main(words) == 2
        message = capsys.readouterr().err
        assert message.endswith(f"; name the run folder that it belongs to: {run}\n") and message.count("\n") == 1


def test_a_run_folder_may_have_a_name_that_is_not_utf8(tmp_path, monkeypatch):
    path = tmp_path / os.fsdecode(b"run\xff")
    monkeypatch.setattr("sys.argv", ["dreamer", "train", "--run-dir", str(path)])
    create_run(path, tiny_config(), "cpu")
    assert open_run(path).info["command"] == f"dreamer train --run-dir '{tmp_path}/run?'"
