"""Memory that a step frees and the next one needs again."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # their numbers in glibc's malloc.h
_LARGEST_MMAP_THRESHOLD = 32 * 2**20


def keep_freed_memory() -> None:
    """Let glibc keep what is freed, for this process's next step; other systems' allocators are left alone.

    By default glibc returns freed memory to the system, and takes it again, zeroed page by page, at the next step: 10
    to 20 % of a step on a CPU with the model that ships with physteer. How much is chance, so that one more small
    activation can cost 5 %. The most memory a process ever holds stays the same.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # other C libraries lack it
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)  # fixed; setting the other alone would fix it at 128 KiB
