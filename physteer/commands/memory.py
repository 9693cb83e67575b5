"""Settings of the memory allocator."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # their numbers in glibc's malloc.h


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next step of this process; other allocators are not changed.

    By default glibc returns freed memory to the system. At the next step it gets the memory back, zeroed page by page:
    10 to 20 % of the time of a step on a CPU with the model that ships with physteer. The amount varies, so that one
    more small activation can cost 5 %. Tensors of 32 MiB and more, which glibc otherwise maps one by one, are kept too:
    every activation at width 1408 is one, and a pass takes a tenth less time. Peak memory at that width grew by
    28 % in forward passes of one window and by 2 % in training, and is held until the process ends.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # other C libraries lack it
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_MMAP_MAX, 0)
