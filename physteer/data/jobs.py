"""Writing many files at a time, so that an interruption leaves none half-written."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed

Progress = Callable[[int], object]
"""Called with the number of frames just stored."""


def run_jobs(jobs: Sequence[Callable[[Progress], None]], threads: int, progress: Progress) -> None:
    """Run jobs that write files, several at a time; an error or an interruption stops all of them.

    They run in threads even where there is one: Python raises KeyboardInterrupt in the main thread alone, and inside
    HDF5 it would break a file.

    Args:
        jobs: each is called with a function that takes the number of frames just stored, and which raises where the job
            is to end.
        threads: how many run at a time.
        progress: called in turn, for all jobs.
    """
    lock, stop = threading.Lock(), threading.Event()

    def report(done: int) -> None:
        if stop.is_set():
            raise CancelledError
        with lock:
            progress(done)

    with ThreadPoolExecutor(threads) as pool:
        try:
            for done in as_completed([pool.submit(job, report) for job in jobs]):
                done.result()
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
