"""Ctrl+C between two steps instead of anywhere."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from physteer.callbacks.base import RolloutCallback


class Interrupts(RolloutCallback):
    """Stop a run at the end of the step in which Ctrl+C was pressed, or at once when it is pressed again.

    Python raises KeyboardInterrupt wherever it is. Inside a library's clean-up it is swallowed and the run goes on;
    inside HDF5 it breaks a file that is being closed. The command line adds this callback to every run.
    """

    needs_rollouts = False

    def __init__(self) -> None:
        self._asked = False

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Listen to Ctrl+C while the context is open; only a process's main thread can."""
        before = signal.getsignal(signal.SIGINT)
        listening = threading.current_thread() is threading.main_thread() and before is not None
        if listening:
            signal.signal(signal.SIGINT, self._ask)
        try:
            yield
        finally:
            if listening:
                signal.signal(signal.SIGINT, before)  # Lightning, too, leaves it changed

    def _ask(self, *args: Any) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True
        print("physteer: stopping after this step; Ctrl+C again stops at once", file=sys.stderr, flush=True)

    def _stop_if_asked(self, *args: Any, **kwargs: Any) -> None:
        """Raise where it is safe."""
        if self._asked:
            raise KeyboardInterrupt

    on_train_batch_end = on_validation_batch_end = on_test_batch_end = on_predict_batch_end = _stop_if_asked
    on_rollout_step = on_sanity_check_end = on_train_start = on_predict_start = _stop_if_asked
