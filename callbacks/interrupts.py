"""Ctrl+C and SIGTERM between two steps instead of anywhere."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence, Sized
from contextlib import contextmanager
from typing import Any

import lightning as L
from lightning.fabric.utilities.rank_zero import rank_zero_only

from physteer.callbacks.base import RolloutCallback
from physteer.errors import Terminated
from physteer.run_folder import leave

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_GRACE = 20.0
"""Seconds after SIGTERM until a process ends that has no step, or waits for another: less than SLURM waits (30)."""
_listening: list[Interrupts] = []


class Interrupts(RolloutCallback):
    """Stop a run at the end of the step in which Ctrl+C was pressed or SIGTERM came, or at once at a second Ctrl+C.

    Python raises KeyboardInterrupt wherever it is. Inside a library's clean-up it is swallowed and the run goes on;
    inside HDF5 it breaks a file that is being closed. After the last step of ``predict``, ``validate`` and ``test`` no
    HDF5 is written any more: while tables and figures are made, a run stops at once. 20 seconds after SIGTERM the
    process ends in any case; nothing that it writes is ever half a file under its name. The command line adds this
    callback to every run.
    """

    needs_rollouts = False

    def __init__(self) -> None:
        self.asked: signal.Signals | None = None
        """The first signal, from the moment at which the process has got it."""
        self._to_raise: type[KeyboardInterrupt] | None = None
        self._at_once = False
        self._terminate_at: float | None = None

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Listen to signals while the context is open, and raise at its end what nothing has raised before.

        Only a process's main thread can listen.
        """
        before = {signum: signal.getsignal(signum) for signum in _SIGNALS}
        if threading.current_thread() is not threading.main_thread() or None in before.values():
            yield
            return
        waking, woken = socket.socketpair()
        waking.setblocking(False)
        old_descriptor = signal.set_wakeup_fd(waking.fileno(), warn_on_full_buffer=False)
        watch = threading.Thread(target=self._watch, args=(woken,), daemon=True, name="physteer-signals")
        watch.start()
        self._listen()
        _listening.append(self)
        try:
            yield
            self._stop_if_asked()
        finally:
            _listening.remove(self)
            for signum, handler in before.items():
                signal.signal(signum, handler)  # Lightning, too, leaves them changed
            signal.set_wakeup_fd(old_descriptor)
            waking.close()
            watch.join()
            woken.close()

    def error(self) -> KeyboardInterrupt:
        """Return what ends a run that was asked to stop."""
        return (self._to_raise or KeyboardInterrupt)()

    def _listen(self, *args: Any, **kwargs: Any) -> None:
        for signum in _SIGNALS:
            signal.signal(signum, self._ask)

    def _ask(self, signum: int, frame: Any) -> None:
        again = self._to_raise is not None
        if not again:
            self.asked = signal.Signals(signum)
            self._to_raise = Terminated if signum == signal.SIGTERM else KeyboardInterrupt
        if signum == signal.SIGTERM:
            # `timeout` and `scancel` end the processes that load data, too: torch would raise an error within a step
            signal.signal(signal.SIGCHLD, _nothing)
        if self._at_once or (again and signum == signal.SIGINT):
            raise self._to_raise  # type: ignore[misc]
        if not again:
            hint = "; Ctrl+C again stops at once" if signum == signal.SIGINT else ""
            _say(f"stopping after this step{hint}")

    def _watch(self, woken: socket.socket) -> None:
        """Learn of signals also while the main thread is inside a library and runs no Python."""
        while True:
            left = None if self._terminate_at is None else max(0.0, self._terminate_at - time.monotonic())
            if not select.select([woken], [], [], left)[0]:
                _say("stopped by SIGTERM")
                leave(128 + signal.SIGTERM)
            signals = woken.recv(64)
            if not signals:  # the other end is closed
                return
            for signum in _SIGNALS:
                if signum in signals and self.asked is None:
                    self.asked = signum
            if signal.SIGTERM in signals and self._terminate_at is None:
                self._terminate_at = time.monotonic() + _GRACE

    def _stop_if_asked(self, *args: Any, **kwargs: Any) -> None:
        """Raise where it is safe."""
        if self._to_raise is not None:
            raise self._to_raise

    def _start(self, *args: Any, **kwargs: Any) -> None:
        self._listen()  # Lightning's own handler of SIGTERM would wait for other processes inside of it
        self._stop_if_asked()
        self._at_once = False

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Listen; with no window left, only tables and figures are made."""
        self._start()
        loaders = trainer.predict_dataloaders
        self._at_once = all(map(_is_empty, loaders if isinstance(loaders, list) else [loaders]))

    def _batch_ended(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Stop if asked; from the last batch of the command on, at once. ``fit`` goes on after its validation."""
        self._stop_if_asked()
        command = "" if trainer.state.fn is None else trainer.state.fn.value
        n_batches = {"predict": "num_predict_batches", "validate": "num_val_batches", "test": "num_test_batches"}
        numbers = getattr(trainer, n_batches[command]) if command in n_batches else ()
        self._at_once = _is_last(numbers, batch_idx, dataloader_idx)

    on_predict_batch_end = on_validation_batch_end = on_test_batch_end = _batch_ended
    on_train_batch_end = on_rollout_step = on_sanity_check_end = _stop_if_asked
    on_fit_start = on_train_start = on_validation_start = on_test_start = _start


def _is_empty(loader: Any) -> bool:
    """Return whether a loader has nothing to load; its own length is at least 1 (`physteer.data.module`)."""
    sampler = getattr(loader, "batch_sampler", None)
    return isinstance(sampler, Sized) and len(sampler) == 0


def _is_last(n_batches: Sequence[float], batch_idx: int, dataloader_idx: int) -> bool:
    return dataloader_idx + 1 == len(n_batches) and batch_idx + 1 == n_batches[dataloader_idx]


def _nothing(*args: Any) -> None:
    pass


def _say(text: str) -> None:
    if not getattr(rank_zero_only, "rank", None):
        with contextlib.suppress(OSError):  # `print` must not be called while it is at work
            os.write(2, f"physteer: {text}\n".encode())


def _in_child() -> None:
    """In a forked process, such as one that loads data: it ends by SIGTERM, and Ctrl+C is the parent's."""
    if _listening:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _listening.clear()


os.register_at_fork(after_in_child=_in_child)
