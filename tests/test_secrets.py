"""Secrets of the environment and of the command line reach nothing that a run leaves or prints."""

from __future__ import annotations

import json
import sys
from functools import partial

import pytest
from faulty import Faulty
from running import dreamer_command, tiny_config, tiny_flags

import dreamer
from dreamer.cli.main import main
from dreamer.runs.provenance import command_line
from dreamer.system.redaction import HIDDEN, redact, redact_command, redact_source, show

KEY = "0a1b2c3d4e" * 4
TOKENS = [
    "ghp_" + "a1B2" * 9,
    "github_pat_" + "a1B2_" * 6,
    "hf_" + "a1B2" * 8,
    "sk-proj-" + "a1B2" * 8,
    "AKIA" + "A1B2" * 4,
    "xoxb-1234567890-abcdef",
    "wandb_v1_" + "a1B2" * 8,
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJtZSJ9.c2lnbmF0dXJl",
]
INNOCENT = [
    "dreamer train --task dmc:cartpole_balance --run-dir runs/tokens/a --core rssm",
    "dreamer train --task gym:MySecretEnv-v0 --steps 3",
    "dreamer tasks token",
    "commit 0123456789abcdef0123456789abcdef01234567",
    "see https://example.org/a@b:c",
]


@pytest.mark.parametrize("token", TOKENS)
def test_tokens_are_known_by_their_shape(token):
    assert redact(f"before {token} after") == f"before {HIDDEN} after"
    assert token not in redact_command(f"dreamer train --task {token}")


@pytest.mark.parametrize("text", INNOCENT)
def test_other_words_are_left_alone(text):
    assert redact(text) == redact_command(text) == text


def test_values_of_secret_variables_are_known_and_short_ones_are_not(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("MY_DB_PASSWORD", "correct horse")
    monkeypatch.setenv("SHORT_TOKEN", "1234")
    assert redact(f"a {KEY} b correct horse c 1234") == f"a {HIDDEN} b {HIDDEN} c 1234"
    assert redact("https://me:hunter22@example.org/x") == f"https://{HIDDEN}@example.org/x"


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("x.py --api-key abcdefgh --steps 3", "x.py --api-key [secret] --steps 3"),
        ("x.py --hub.token='a b' y", "x.py --hub.token=[secret] y"),
        ("env MY_API_KEY=abc x.py", "env MY_API_KEY=[secret] x.py"),
    ],
)
def test_options_named_like_a_secret_lose_their_value(monkeypatch, command, shown):
    assert redact_command(command) == redact_command(redact_command(command)) == shown
    monkeypatch.setattr(sys, "argv", ["/bin/x.py", "--token", "abcdefgh"])
    assert command_line() == "x.py --token '[secret]'" or "abcdefgh" not in command_line()


@pytest.mark.parametrize(
    "words", [["--task", TOKENS[0]], ["--run-dir", KEY], ["--wandb-api-key", "abc"], [f"--x={KEY}"]]
)
def test_a_command_with_a_secret_is_refused_without_repeating_it(tmp_path, monkeypatch, capsys, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert main(["train", *words]) == 2
    output = capsys.readouterr()
    assert output.out == "" and not list(tmp_path.iterdir())
    assert output.err == "dreamer: a word of this command looks like a secret; leave it in the environment\n"


def test_a_configuration_with_a_secret_is_refused(tmp_path):
    config = tiny_config(**{"tracking.wandb_tags": ("fine", TOKENS[0])})
    with pytest.raises(dreamer.UserError, match=r"looks like a secret; leave it in the environment$") as caught:
        dreamer.train(config, run_dir=tmp_path / "run")
    assert TOKENS[0] not in str(caught.value) and not (tmp_path / "run").exists()


def test_a_run_leaves_and_prints_no_secret(tmp_path):
    """W&B has the key to log with, which it must not write down; a token that a run folder names is not repeated."""
    path = tmp_path / "run"
    secrets = {"WANDB_API_KEY": KEY, "GITHUB_TOKEN": TOKENS[0], "SOME_PASSWORD": "correct-horse-battery"}
    flags = tiny_flags(steps=4, **{"tracking.wandb": "offline", "tracking.close_seconds": 200.0})
    done = dreamer_command("train", *flags, "--run-dir", path, **secrets)
    assert done.returncode == 0, done.stderr
    info = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(json.dumps(info | {"command": f"dreamer train --token {TOKENS[1]}"}))
    reported = dreamer_command("report", tmp_path, **secrets)
    assert reported.returncode == 0, reported.stderr
    (path / "run.json").write_text(json.dumps(info))
    written = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    assert {"report.html", "run.json", "config.json"} <= {file.name for file in written}
    assert any(file.suffix == ".wandb" for file in written)
    printed = (done.stdout + done.stderr + reported.stdout + reported.stderr).encode()
    for secret in (*secrets.values(), TOKENS[1]):
        assert not [file for file, content in written.items() if secret.encode() in content]
        assert secret.encode() not in printed


def no_answer(answer):
    raise RuntimeError(f"no robot answers to {KEY}")


def test_what_an_environment_says_when_it_fails_is_kept_without_secrets(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ROBOT_TOKEN", KEY)
    flags = {"env.restarts": 100, "loop.eval_every": 10**6}
    path = dreamer.train(
        tiny_config("robot", steps=60, **flags), run_dir=tmp_path / "run", make_env=partial(Faulty, no_answer)
    ).path
    kept = (path / "faults" / "environments.log").read_text()
    told = capsys.readouterr().err
    assert f"no robot answers to {HIDDEN}" in kept and f"no robot answers to {HIDDEN}" in told
    assert KEY not in kept and KEY not in told


def test_a_secret_that_begins_with_another_one_is_hidden_whole(monkeypatch):
    monkeypatch.setenv("A_TOKEN", "abcdefgh")
    monkeypatch.setenv("B_TOKEN", "abcdefghijkl")
    assert redact("x abcdefghijkl y") == "x [secret] y"


def test_a_secret_of_several_lines_is_not_printed(monkeypatch, capsys):
    monkeypatch.setenv("SOME_PRIVATE_KEY", "BEGIN KEY\nfirst line\nsecond line")
    show(*["head", "BEGIN KEY", "first line", "second line", "tail"])
    assert capsys.readouterr().out == "head\\n[secret]\\ntail\n"


def test_secrets_in_changes_of_code_are_hidden_and_other_code_stays():
    key = "-----BEGIN RSA PRIVATE KEY-----\n+MIIEow\n+-----END RSA PRIVATE KEY-----"
    lines = {
        '+API_KEY = "abcdefgh"': "+API_KEY = [secret]",
        "+    'api_key': 'abcdefgh',": "+    'api_key': [secret],",
        "+password: hunter2hunter2": "+password: [secret]",
        "+export WANDB_API_KEY=0123456789abcdef": "+export WANDB_API_KEY=[secret]",
        f"+{key}": "+[secret]",
        "+f(token=tokens, x)": "+f(token=tokens, x)",
        "+def f(token: str) -> Token:": "+def f(token: str) -> Token:",
        "+x = 2": "+x = 2",
    }
    assert redact_source("\n".join(lines)) == "\n".join(lines.values())
