"""Settings of the process that make updates cheaper on this machine."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h
NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let glibc's allocator keep what is freed instead of returning it to the system; whether that was possible.

    An update frees and allocates the same large tensors again and again. By default each of them is mapped anew and
    every page of it is a fault, which costs a CPU more time than filling it. What the process holds is its peak.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library
        return False
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, NEVER))
