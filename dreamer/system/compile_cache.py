"""Repair of the cache of torch.compile, which all processes of a user share.

A compiler that is killed leaves a part of its output, and torch.compile uses whatever exists. In every later run, a cut
library of a step fails to load, and a cut library of the test for vector instructions turns these off.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from dreamer.system.redaction import warn

UNFINISHED = "_CxxBuild"
"""End of the name of the folder that a compilation has beside its output until it is complete."""
ELF_HEADER = 64
"""Bytes of the header of a library or object file of Linux on a 64-bit machine."""


def remove_half_written() -> None:
    """Delete incomplete output of compilers from the cache, except what is being written now."""
    from filelock import FileLock, Timeout  # torch.compile depends on it
    from torch._inductor.codecache import get_lock_dir
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    cache, removed = Path(cache_dir()), []
    damaged = [path for kind in ("so", "o") for path in cache.glob(f"*/*.{kind}") if not is_complete(path)]
    for folder in cache.glob(f"*/*{UNFINISHED}"):
        damaged += [Path(str(folder).removesuffix(UNFINISHED) + kind) for kind in (".so", ".o", ".gch")]
    for path in dict.fromkeys(damaged):
        own = path.parent / "locks"  # precompiled headers have theirs
        lock = (own if own.is_dir() else Path(get_lock_dir())) / f"{path.name.partition('.')[0]}.lock"
        try:
            with FileLock(lock, timeout=0):
                path.unlink()
            removed.append(path)
        except (OSError, Timeout):
            continue
    if removed:
        warn(f"torch.compile: removed half-written files ({len(removed)}) from its cache, such as {removed[0]}")


def is_complete(path: Path) -> bool:
    """True for a whole ELF file. The table of its sections is its end, and its header is written last.

    So is a file that cannot be read, such as one that another process has just deleted.
    """
    try:
        with open(path, "rb") as file:
            header, size = file.read(ELF_HEADER), os.fstat(file.fileno()).st_size
    except OSError:
        return True
    if sys.platform != "linux":
        return size > 0

    def number(start: int, end: int) -> int:
        return int.from_bytes(header[start:end], "little")

    end = number(40, 48) + number(58, 60) * number(60, 62)
    return header[:4] == b"\x7fELF" and ELF_HEADER < end <= size
