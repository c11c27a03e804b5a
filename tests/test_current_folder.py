"""Nothing in the current folder, which may be a run folder of somebody else's, gets a key or chooses what runs."""

from __future__ import annotations

import base64
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading

import pytest
from running import ROOT, dreamer_command, tiny_config
from test_tracking import find, inspect

import dreamer
from dreamer.tracking import destination
from dreamer.tracking.config import TrackingConfig
from dreamer.tracking.destination import foreign, own_settings

KEY = "0a1b2c3d4e" * 4
SENT = base64.b64encode(f"api:{KEY}".encode()).decode()


class Server:
    """A local server that keeps all that it is sent, and answers with an error."""

    def __init__(self):
        self.seen = seen = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                seen.append(str(self.headers) + body.decode(errors="replace"))
                self.send_response(400)
                self.end_headers()

            do_GET = do_PUT = do_POST

            def log_message(self, *words):
                """Say nothing."""

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def server():
    """A server of somebody else's."""
    it = Server()
    yield it
    it.http.shutdown()
    it.http.server_close()


@pytest.fixture
def user(home, monkeypatch):
    """A user who is logged in to W&B by a variable."""
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    return home


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    """A run of four steps that logs to W&B when it is resumed; copy it before changing it."""
    path = tmp_path_factory.mktemp("small") / "run"
    dreamer.train(tiny_config("toy:copy", steps=4), run_dir=path)
    config = json.loads((path / "config.json").read_text())
    config["tracking"] |= {"wandb": "auto", "close_seconds": 5.0}
    (path / "config.json").write_text(json.dumps(config))
    return path


def settings(url):
    return f"[default]\nbase_url = {url}\napi_key = {'f' * 40}\nentity = thief\nproject = loot\n"


@pytest.mark.parametrize("words", [("track", ".", "--wandb"), ("train", "--resume", ".", "--steps", "8")])
def test_a_folder_cannot_have_the_key_sent_to_its_server(small_run, tmp_path, server, user, words):
    run = shutil.copytree(small_run, tmp_path / "run")
    for folder in ("wandb", ".wandb"):
        (run / folder).mkdir(exist_ok=True)
        (run / folder / "settings").write_text(settings(server.url))
    (run / ".env").write_text(f"WANDB_BASE_URL={server.url}\n")
    for name in (".netrc", "_netrc"):
        (run / name).write_text(f"machine {server.url.removeprefix('http://')} login user password {KEY}\n")
    done = dreamer_command(*words, cwd=run)
    assert server.seen == []
    (line,) = [line for line in done.stderr.splitlines() if "server" in line]
    assert (
        f"names the server {server.url}, but you are logged in to https://" in line and "Traceback" not in done.stderr
    )
    assert done.returncode == (2 if words[0] == "track" else 0)


def test_the_users_own_server_gets_the_key_and_no_entity_that_the_folder_names(small_run, tmp_path, server, user):
    run = shutil.copytree(small_run, tmp_path / "run")
    (user / ".config" / "wandb").mkdir(parents=True)
    (user / ".config" / "wandb" / "settings").write_text(f"[default]\nbase_url = {server.url}\n")
    done = dreamer_command("track", ".", "--wandb", cwd=run)
    assert any(SENT in request for request in server.seen), done.stderr
    assert "offline (no connection" in done.stdout
    server.seen.clear()
    (run / "wandb").mkdir(exist_ok=True)
    (run / "wandb" / "settings").write_text(f"[default]\nbase_url = {server.url}\nentity = thief\n")
    for state in run.glob("wandb_track.json"):
        state.unlink()
    done = dreamer_command("track", ".", "--wandb", cwd=run)
    assert server.seen == [] and done.returncode == 2
    assert "names the entity thief; WANDB_ENTITY chooses an entity" in done.stderr


def with_tracking(run, **changes):
    config = json.loads((run / "config.json").read_text())
    config["tracking"] |= changes
    (run / "config.json").write_text(json.dumps(config))


def test_a_folder_alone_chooses_no_entity_and_no_project(small_run, tmp_path, server, user, monkeypatch):
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    run = shutil.copytree(small_run, tmp_path / "run")
    with_tracking(run, wandb_entity="thief", wandb_project="loot")
    done = dreamer_command("track", run, "--wandb")
    assert done.returncode == 2 and server.seen == []
    assert done.stderr.endswith("if you trust it, add --wandb-entity thief --wandb-project loot\n")
    done = dreamer_command("train", "--resume", run, "--steps", "8")
    assert done.returncode == 0 and server.seen == []
    assert "to agree, resume with --tracking.wandb-entity thief --tracking.wandb-project loot" in done.stderr
    (kept,) = run.glob("wandb/offline-run-*")
    (logged,) = find(inspect(kept), "run")
    assert logged["project"] == "dreamer" and not logged.get("entity")
    words = ("--tracking.wandb-entity", "thief", "--tracking.wandb-project", "loot")
    done = dreamer_command("train", "--resume", run, "--steps", "12", *words)
    assert any("thief" in request and "loot" in request for request in server.seen), done.stderr


def test_what_the_users_own_places_name_is_no_secret_choice(tmp_path, user, monkeypatch):
    tracking = TrackingConfig(wandb_entity="team", wandb_project="work")
    assert foreign(tracking) == {"wandb-entity": "team", "wandb-project": "work"}
    assert foreign(tracking, ["wandb-entity=team", "work"]) == {"wandb-project": "work"}
    assert foreign(TrackingConfig()) == {}
    monkeypatch.setenv("WANDB_ENTITY", "team")
    (user / ".config" / "wandb").mkdir(parents=True)
    (user / ".config" / "wandb" / "settings").write_text("[default]\nproject = work\nentity = other\n")
    assert foreign(tracking) == {} and own_settings() == {"entity": "team", "project": "work"}
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    (tmp_path / "settings").write_text("no settings at all")
    assert foreign(tracking) == {"wandb-project": "work"}
    assert destination.flags({"wandb-project": "a b"}) == " --tracking.wandb-project 'a b'"


EVIL = "open({!r}, 'a').write(__name__)\nraise ImportError('evil')\n"
TAKEN = (
    *("multiprocessing", "mujoco", "matplotlib", "wandb", "torch", "numpy", "tensorboard", "imageio", "gymnasium"),
    *("tyro", "rich", "cloudpickle", "moviepy", "pandas", "sitecustomize", "usercustomize", "dreamer", "envs", "json"),
)


def hostile(folder, ran):
    """A folder with modules that are called like those of libraries, and with settings for libraries."""
    for name in TAKEN:
        (folder / f"{name}.py").write_text(EVIL.format(str(ran)))
    (folder / "matplotlibrc").write_text("backend: module://evil\ntext.usetex: True\nfont.size: 77\n")
    (folder / "MUJOCO_LOG.TXT").touch()


COMMAND = """
import sys
from dreamer.cli.main import main
if __name__ == "__main__":
    sys.exit(main())
"""
"""Start-up script of the command `dreamer`, as installers write it."""
LINES = {
    "train": ("--resume", ".", "--steps", "8"),
    "report": (".",),
    "evaluate": (".", "--episodes", "1", "--film", "x.mp4"),
}


@pytest.mark.parametrize("verb", LINES)
def test_no_module_of_the_current_folder_is_imported(small_run, tmp_path, verb):
    """Not by the command `dreamer`, and not by the processes that it starts: workers and probes of what draws."""
    run, ran = shutil.copytree(small_run, tmp_path / "run"), tmp_path / "ran"
    with_tracking(run, wandb="off")
    info = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(info | {"parallel": {"on": True}}))
    hostile(run, ran)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "dreamer").write_text(COMMAND)
    command = [sys.executable, tmp_path / "bin" / "dreamer", verb, *LINES[verb]]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    environment.pop("MUJOCO_GL", None)
    done = subprocess.run(command, cwd=run, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert not ran.exists(), ran.read_text()


def test_python_m_dreamer_takes_no_library_from_the_current_folder(tmp_path):
    """But for the modules that `python -m` itself looks for, `dreamer` among them."""
    hostile(tmp_path, tmp_path / "ran")
    for name in ("dreamer", "sitecustomize", "usercustomize"):
        (tmp_path / f"{name}.py").unlink()
    done = dreamer_command("tasks", "toy:copy", cwd=tmp_path)
    assert done.stdout.startswith("toy:copy\n") and not (tmp_path / "ran").exists(), done.stderr


def test_matplotlib_takes_no_settings_from_the_current_folder(tmp_path):
    hostile(tmp_path, tmp_path / "ran")
    script = (
        "from dreamer.system.isolation import ignore_current_folder; import os; ignore_current_folder();"
        "import matplotlib; print(matplotlib.rcParams['font.size'], matplotlib.rcParams['text.usetex'], os.getcwd())"
    )
    command = [sys.executable, "-P", "-c", script]
    done = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.stdout == f"10.0 False {tmp_path}\n", done.stderr
    assert not (tmp_path / "ran").exists()


def test_the_current_folder_joins_the_path_for_a_module_that_is_nowhere_else(tmp_path, monkeypatch):
    from envs.factory import import_module

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    (tmp_path / "only_here.py").touch()
    (tmp_path / "colorsys.py").write_text("raise SystemExit")
    import_module("colorsys")
    assert "" not in sys.path
    import_module("only_here")
    assert sys.path[-1] == ""
    with pytest.raises(dreamer.UserError, match=r"--env-import no_such_module: No module named 'no_such_module'"):
        import_module("no_such_module")
