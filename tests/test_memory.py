"""Memory of the machine and of the container that the process runs in."""

import pytest

from dreamer.system import memory

ROOM = 10**6
"""Bytes that are left in the pretended container."""
VERSIONS = {
    "2": ("anon 3000000\nfile 9000000\n", 0),
    "1": ("cache 9000000\nrss 1000000\ntotal_rss 3000000\n", 1),
}


def contain(monkeypatch, folder, version, limit):
    text, place = VERSIONS[version]
    (folder / "limit").write_text(f"{limit}\n")
    (folder / "stat").write_text(text)
    name = memory.CGROUPS[place][2]
    monkeypatch.setattr(memory, "CGROUPS", ((folder / "limit", folder / "stat", name), (folder / "no", folder, name)))


@pytest.mark.parametrize("version", VERSIONS)
def test_the_limit_of_a_container_counts(monkeypatch, tmp_path, version):
    """Memory of processes counts as used, the page cache does not; under both versions of cgroups."""
    contain(monkeypatch, tmp_path, version, 3_000_000 + ROOM)
    assert memory.total_memory() == 3_000_000 + ROOM
    assert memory.available_memory() == ROOM


@pytest.mark.parametrize(("version", "limit"), [("2", "max"), ("1", 2**63 - 4096)])
def test_a_container_without_a_limit_has_the_memory_of_the_machine(monkeypatch, tmp_path, version, limit):
    monkeypatch.setattr(memory, "CGROUPS", ())
    machine = memory.total_memory()
    monkeypatch.undo()
    contain(monkeypatch, tmp_path, version, limit)
    assert memory.total_memory() == machine
    assert memory.available_memory() > 0


def test_a_container_that_is_full_has_nothing_left(monkeypatch, tmp_path):
    contain(monkeypatch, tmp_path, "2", 1_000_000)
    assert memory.available_memory() == 0
