"""Settings of the process that make updates cheaper on this machine."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h
NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Make glibc's allocator keep freed memory instead of returning it to the system; return False if it cannot.

    An update frees and allocates the same large tensors again and again. By default the allocator maps each of them
    again, and every page costs a page fault, which takes a CPU longer than filling it. With this setting the process
    holds as much memory as it has needed at its peak.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library
        return False
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, NEVER))
