"""Memory that a step frees and the next one needs again."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # their numbers in glibc's malloc.h


def keep_freed_memory() -> None:
    """Let glibc keep what is freed, for this process's next step; other systems' allocators are left alone.

    By default glibc returns freed memory to the system, and takes it again, zeroed page by page, at the next step: 10
    to 20 % of a step on a CPU with the model that ships with physteer. How much is chance, so that one more small
    activation can cost 5 %. Tensors of 32 MiB and more, a mapping each whatever its threshold, are no longer mapped:
    every activation at width 1408 is one, and a pass takes a tenth less time. The most memory a process ever holds grew
    there by a quarter in forward passes and by 2 % in training, and it is held until the process ends.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # other C libraries lack it
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_MMAP_MAX, 0)
