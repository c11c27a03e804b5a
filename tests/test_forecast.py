"""How large replay will be: what is said and refused before a run, and what the files then take."""

import dataclasses

import pytest
from running import tiny_config
from tiny import unchecked

import dreamer
from dreamer.config import compose
from dreamer.errors import UserError
from dreamer.experience.layout import RowLayout
from dreamer.runs import forecast as module
from dreamer.runs.folder import open_run
from dreamer.runs.forecast import Forecast, forecast, require_room

IMAGE = {"image": (64, 64, 3)}
ROOMY = Forecast(row_bytes=10_000, image_bytes=8_000, rows=1_000_000)


def test_bytes_of_a_row():
    """Images take a byte a number; the state is stored twice in float32."""
    layout = RowLayout(IMAGE, action_dim=6, packed_dim=640)
    expected = forecast(compose("dmc_vision", "1m"), layout)
    assert layout.row_bytes == (12_288 + 24 + 4 + 4, 5_120)  # image, action, reward, flags with alignment
    assert (expected.row_bytes, expected.image_bytes) == (17_440, 12_288)
    assert str(expected).startswith("17.4 kB per row (images 12.3), ")


@pytest.mark.parametrize(
    ("changes", "rows"),
    [
        ({}, 16 * 17 * 4096),  # 1.1e6 steps in 16 environments, in blocks of 4,096 rows
        ({"env.repeat": 2}, 16 * 9 * 4096),
        ({"replay.capacity": 160_000}, 16 * (10_000 + 2 * (625 + 64))),  # and rows of two checkpoints
    ],
)
def test_rows_at_the_end(changes, rows):
    config = compose("dmc_vision", "1m", **changes)
    assert forecast(config, RowLayout(IMAGE, 6, 640)).rows == rows


def test_the_files_are_as_large_as_forecast(tmp_path):
    config = tiny_config("toy:push", **{"env.obs": "pixels", "env.image_size": (16, 16)})
    with unchecked():
        path = dreamer.train(config, run_dir=tmp_path / "run").path
    written = sum(file.stat().st_size for file in (path / "replay").iterdir())
    assert open_run(path).info["replay"]["bytes"] == written


@pytest.mark.parametrize(
    ("disk", "memory", "said"),
    [
        (9e9, 99e9, "9.0 GB are free on the disk of"),
        (99e9, 9e9, "9.0 GB is the memory of this machine"),
    ],
)
def test_a_replay_without_room_is_refused(tmp_path, monkeypatch, disk, memory, said):
    monkeypatch.setattr(module, "free_bytes", lambda path: disk)
    monkeypatch.setattr(module, "total_memory", lambda: memory)
    with pytest.raises(UserError, match=said) as error:
        require_room(ROOMY, tmp_path / "new" / "run")
    message = str(error.value)
    assert message.startswith("replay: 10.0 kB per row (images 8.0), 1,000,000 rows, 10.00 GB would not fit")
    assert "lower --replay.capacity (such as 100000), --steps, --size or --env.image-size" in message
    assert "\n" not in message
    require_room(dataclasses.replace(ROOMY, rows=800_000), tmp_path)
    monkeypatch.setattr(module, "free_bytes", lambda path: 5e6)
    with pytest.raises(UserError, match=r"; lower --steps, --size or --env.image-size$"):
        require_room(ROOMY, tmp_path)


def test_what_a_run_has_written_counts_as_room_when_it_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "free_bytes", lambda path: 0)
    expected = Forecast(row_bytes=10, image_bytes=0, rows=10)
    with pytest.raises(UserError):
        require_room(expected, tmp_path)
    (tmp_path / "replay").mkdir()
    (tmp_path / "replay" / "rows.bin").write_bytes(bytes(100))
    require_room(expected, tmp_path)


def test_a_run_is_refused_before_its_folder_exists(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "free_bytes", lambda path: 1000)
    with pytest.raises(UserError, match="would not fit"):
        dreamer.train(tiny_config(), run_dir=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_this_machine_has_memory():
    assert 1e8 < module.total_memory() < 1e14
