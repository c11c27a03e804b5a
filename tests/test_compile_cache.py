"""A cache of torch.compile that another process left damaged, and compilers that fail."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import filelock
import pytest
import torch
from test_accelerate import updated
from tiny import awaken, make_agent

from dreamer.system.compile_cache import is_complete, remove_half_written
from dreamer.training import accelerate

LIBRARY = next(Path(torch.__file__).parent.glob("lib/libtorch_global_deps.*"))


@pytest.mark.skipif(LIBRARY.suffix != ".so", reason="the check reads ELF files, which only Linux has")
@pytest.mark.parametrize("kept", [0, 3, 63, 64, 0.3, 0.9, -1])
def test_the_beginning_of_a_library_is_not_a_library(tmp_path, kept):
    data = LIBRARY.read_bytes()
    (tmp_path / "cut.so").write_bytes(data[: int(kept * len(data)) if isinstance(kept, float) else kept])
    assert is_complete(LIBRARY) and not is_complete(tmp_path / "cut.so")
    assert is_complete(tmp_path / "gone.so"), "another process has deleted it"


@pytest.mark.skipif(LIBRARY.suffix != ".so", reason="the check reads ELF files, which only Linux has")
def test_only_what_a_dead_compiler_left_is_removed(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    for folder in ("aa", "locks", "precompiled_headers/locks", "precompiled_headers/x.h_CxxBuild"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(LIBRARY, tmp_path / "aa" / "whole.main.so")
    left = ["aa/half.main.so", "aa/isa.so", "aa/half.main.o", "precompiled_headers/x.h.gch"]
    for name in [*left, "aa/writing.main.so", "precompiled_headers/whole.h.gch"]:
        (tmp_path / name).write_bytes(b"\x7fELF")
    with filelock.FileLock(tmp_path / "locks" / "writing.lock"):
        remove_half_written()
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*") if path.suffix in (".so", ".o", ".gch")}
    assert files == {"aa/whole.main.so", "aa/writing.main.so", "precompiled_headers/whole.h.gch"}
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("torch.compile: removed half-written files (4) from its cache, such as ")


@pytest.mark.compiled
@pytest.mark.parametrize("failing", [0, 1])
def test_an_update_whose_steps_cannot_be_compiled_is_done_plainly(failing, capsys):
    """The first steps are compiled in the first update, others after the vision stage."""

    def broken(graph, inputs):
        raise OSError("main.so: file too short")

    changes = {"dynamics.core": "gru", "dynamics.gru.vision_updates": failing, "world_model.standardize": True}
    plain = make_agent(changes)
    awaken(plain)
    other = copy.deepcopy(plain)
    update = accelerate.AcceleratedUpdate(other, True, broken)
    expected, found = updated(plain, plain.update), updated(other, update)
    assert not update.compiled and capsys.readouterr().err.count("torch.compile fails, so the plain code runs: ") == 1
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value, rtol=1e-4, atol=1e-6)
    assert expected[0][1].keys() == found[0][1].keys()
    torch._dynamo.reset()
