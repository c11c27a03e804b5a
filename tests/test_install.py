"""Installation: the wheel outside the checkout, the control suite without labmaze, and the documentation site."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from running import ROOT, tiny_flags

import dreamer

PACKAGED = ("dreamer", "envs", "pyproject.toml", "README.md", "LICENSE")
WITHOUT_LABMAZE = """
import sys
from importlib.abc import MetaPathFinder

class Hide(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] == "labmaze":
            raise ModuleNotFoundError("No module named 'labmaze'", name="labmaze")

sys.meta_path.insert(0, Hide())
import gymnasium
import envs

env = envs.make("dmc:walker_walk", seed=1)
env.reset()
assert env.step(env.action_space.sample())[1] >= 0
print(len(envs.tasks()["dmc"]))

gymnasium.register("Walls-v0", "dm_control.locomotion.arenas:WallsCorridor")
for factory in (
    envs.EnvFactory("dmc:walker_walk", 0, imports=("dm_control.locomotion.arenas",)),
    envs.EnvFactory("gym:Walls-v0", 0),
):
    try:
        factory(0)
    except envs.UserError as error:
        print(error)
"""


def run(*words: str | Path, cwd: Path, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command away from the checkout."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | environment
    done = subprocess.run([str(word) for word in words], cwd=cwd, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 or not check, done.stdout[-2000:] + done.stderr[-2000:]
    return done


def test_the_control_suite_works_without_labmaze_and_locomotion_says_what_is_missing(tmp_path: Path) -> None:
    done = run(sys.executable, "-c", WITHOUT_LABMAZE, cwd=tmp_path, PYTHONPATH=str(ROOT))
    number, *errors = done.stdout.splitlines()
    assert int(number) > 40
    missing = "No module named 'labmaze'; locomotion tasks of dm_control need labmaze, which has no wheel"
    assert [error.partition(": ")[2] for error in errors] == [f"{missing} for Python 3.13 and later"] * 2


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the source distribution."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    run("cp", "-r", *(ROOT / name for name in PACKAGED), source, cwd=folder)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, source, cwd=folder)
    [wheel] = folder.glob("*.whl")
    return wheel


def test_the_wheel_has_every_file_of_the_packages(wheel: Path) -> None:
    files = {
        path.relative_to(ROOT).as_posix()
        for name in ("dreamer", "envs")
        for path in (ROOT / name).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name} == files


def test_the_wheel_trains_and_reports_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    """In a virtual environment of its own, which finds the dependencies in that of the tests."""
    run(sys.executable, "-m", "venv", "--without-pip", "venv", cwd=tmp_path)
    venv = tmp_path / "venv"
    [site] = venv.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    pip = ("-m", "pip", "--python", venv / "bin" / "python", "install", "-q", "--no-index", "--no-deps")
    run(sys.executable, *pip, "--ignore-installed", wheel, cwd=tmp_path)

    command = venv / "bin" / "dreamer"
    assert "usage: dreamer COMMAND" in run(command, "--help", cwd=tmp_path).stdout
    words = [["tasks", "dmc:"], ["train", *tiny_flags(steps=40), "--run-dir", "run"], ["report", "run"]]
    script = f"import dreamer; from dreamer.cli.main import main; print([main(words) for words in {words}], dreamer)"
    done = run(venv / "bin" / "python", "-c", script, cwd=tmp_path)
    assert "dmc:walker_walk" in done.stdout
    assert done.stdout.splitlines()[-1].startswith(f"[0, 0, 0] <module 'dreamer' from '{site}")
    assert "<html" in (tmp_path / "run" / "report.html").read_text()


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    """MkDocs and scripts/site check links, anchors and the navigation; strict builds fail on warnings."""
    build = (sys.executable, "-m", "mkdocs", "build", "--config-file", ROOT / "mkdocs.yml", "--site-dir", tmp_path)
    done = run(*build, cwd=ROOT, PYTHONPATH=str(ROOT), NO_MKDOCS_2_WARNING="1")
    assert "WARNING" not in done.stderr
    settings = (tmp_path / "reference" / "settings" / "index.html").read_text()
    assert "--agent.imagination-horizon" in settings and "Transitions per imagined rollout." in settings
    commands = (tmp_path / "reference" / "commands" / "index.html").read_text()
    assert "runs/&lt;task&gt;_&lt;core&gt;_&lt;size&gt;_seed&lt;seed&gt;_&lt;time&gt;" in commands
    package = (tmp_path / "reference" / "dreamer" / "index.html").read_text()
    names = [*dreamer.__all__, "agent.Agent.act", "queries.Queries.observe", "queries.Imagination.rewards"]
    assert [name for name in names if f'id="dreamer.{name}"' not in package] == []
    notebook = (tmp_path / "examples" / "1_train_and_look_inside" / "index.html").read_text()
    assert "agent.imagine" in re.sub("<[^>]+>", "", notebook) and "data:image/png" in notebook
    assert (tmp_path / "results" / "ablation" / "report.html").exists()
