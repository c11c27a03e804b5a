"""What every test stands on: no account, no network for W&B, and hypothesis without a clock."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# A shared machine makes single examples slow at random, and a test must say the same thing every time.
settings.register_profile("repository", deadline=None, derandomize=True, database=None)
settings.load_profile("repository")

# A metric without a definition is an error in the tests, in their child processes too. Users get a warning.
os.environ["DREAMER_STRICT_METRICS"] = "1"


@pytest.fixture(autouse=True, scope="session")
def isolated_wandb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep W&B offline and away from the account, settings and caches of whoever runs the tests."""
    home = tmp_path_factory.mktemp("wandb-home")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("WANDB_API_KEY", raising=False)
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_SILENT", "true")
        patch.setenv("NETRC", str(home / "netrc"))
        for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
            folder = home / name.removesuffix("_DIR").lower()
            folder.mkdir()
            patch.setenv(name, str(folder))
        yield


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run folder that does not exist yet."""
    return tmp_path / "run"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Home of a user who has never heard of W&B, on a machine whose only network is itself."""
    home = tmp_path / "home"
    home.mkdir()
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("NETRC", str(home / ".netrc"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    return home


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that slow.txt names: those measured to take seconds, alone or with all their parameters.

    Files with many of them come first, so that the processes of a parallel run end together.
    """
    slow = set((Path(__file__).parent / "slow.txt").read_text().split())
    heavy = Counter(name.partition("::")[0] for name in slow)
    items.sort(key=lambda item: -heavy[item.path.name])
    for item in items:
        file, _, name = item.nodeid.removeprefix("tests/").partition("::")
        if file in slow or f"{file}::{name.partition('[')[0]}" in slow:
            item.add_marker(pytest.mark.slow)
