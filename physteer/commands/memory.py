"""Settings of the memory allocator."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # their numbers in glibc's malloc.h
_LARGEST_MMAP_THRESHOLD = 32 * 2**20


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next step of this process; other allocators are not changed.

    By default glibc returns freed memory to the system. At the next step it gets the memory back, zeroed page by page:
    10 to 20 % of the time of a step on a CPU with the model that ships with physteer. The amount varies, so that one
    more small activation can cost 5 %. The peak memory of a process stays the same.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # other C libraries lack it
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)  # fixed; setting the other alone would fix it at 128 KiB
