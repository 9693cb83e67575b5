"""The processes of one run on one machine: when one is lost, the others end, and one of them says why."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

from physteer.callbacks import Interrupts
from physteer.errors import PhysteerError, ProcessEnded
from physteer.run_folder import leave

_FIRST_PROCESS = "PHYSTEER_FIRST_PROCESS"
"""In the environment of a launched process: the number of the process that has launched it."""
_LOST = re.compile(
    r"Connection (closed|reset) by peer|Broken pipe|recvValue failed|[Ss]ocket closed|remote process exited"
    r"|communicator was aborted"
)
"""How gloo, NCCL and torch's store tell that another process is gone."""
_LOADER_ENDED = re.compile(r"DataLoader worker .*(killed by signal|exited unexpectedly)")
_INTERVAL = 0.2  # seconds between looks
_OWN_WORDS = 5.0  # seconds in which this process may fail for the same reason as another and say so itself


def another_has_ended(error: BaseException) -> bool:
    """Whether an error was raised because another process of the run is gone, and for no reason of its own."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    lost = any(isinstance(one, RuntimeError) and _LOST.search(str(one)) for one in chain)
    return lost and not any(isinstance(one, PhysteerError) for one in chain)


@contextmanager
def stopped_as_asked(trainer: L.Trainer, interrupts: Interrupts) -> Iterator[None]:
    """Turn all ways in which a run may end after Ctrl+C or SIGTERM into one.

    Raises:
        KeyboardInterrupt: on the first process of the run; `Terminated` after SIGTERM.
        SystemExit: on others, which say nothing.
    """
    try:
        with interrupts.installed():
            yield
    except (KeyboardInterrupt, SystemExit) as end:
        if isinstance(end, SystemExit) and not trainer.interrupted and interrupts.asked is None:
            raise
    except Exception as error:
        if interrupts.asked is None or not (another_has_ended(error) or _LOADER_ENDED.match(str(error))):
            raise
    else:
        return
    raise interrupts.error() if trainer.is_global_zero else SystemExit(128 + (interrupts.asked or signal.SIGINT))


class Processes:
    """The processes that a run has on this machine, seen from one of them.

    Lightning's launcher kills the first process, without a word, within five seconds after one that it has launched has
    failed; a launched process whose first process was killed waits for ever. Here a thread looks for both.

    Args:
        trainer: of this process, before it runs.
        stopping: whether the run was asked to stop, so that processes may end.
    """

    def __init__(self, trainer: L.Trainer, stopping: Callable[[], bool]) -> None:
        self._stopping = stopping
        self._rank = trainer.local_rank
        self._ended = threading.Event()
        self._telling = threading.Lock()
        self._launched: list[subprocess.Popen[bytes]] = []
        self._first = int(os.environ.get(_FIRST_PROCESS) or 0)
        """Number of the process that has launched this one; 0 where this is the first or others launch processes."""
        launcher = trainer.strategy.launcher
        if type(launcher) is _SubprocessScriptLauncher:
            settings = launcher.cluster_environment, launcher.num_processes, launcher.num_nodes
            trainer.strategy._launcher = _Launcher(self._watch_launched, *settings)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """End this process when another of the run is lost in the block.

        Raises:
            ProcessEnded: another has ended, which this process has noticed in the block.
        """
        if self._first:
            threading.Thread(target=self._watch_first, daemon=True, name="physteer-processes").start()
        try:
            yield
        except BaseException as error:
            with self._telling:  # or the thread ends this process now
                self._ended.set()
            try:
                if not self._stopping() and another_has_ended(error):
                    raise self._why() from error
                raise
            finally:
                self._kill_launched()  # they would wait for this process
        finally:
            self._ended.set()

    def _why(self) -> BaseException:
        """Return what to raise when a library has noticed that another process is gone."""
        deadline = time.monotonic() + _OWN_WORDS
        while time.monotonic() < deadline:
            if (ended := self._ended_process()) is not None:
                return ended
            if self._first and os.getppid() != self._first:
                return _first_ended() if self._rank == 1 else SystemExit(1)
            time.sleep(_INTERVAL)
        if self._rank > 1 or self._first:
            return SystemExit(1)  # the first process tells
        return ProcessEnded("another process of this run has ended; its own message says why, if it was not killed")

    def _ended_process(self) -> ProcessEnded | None:
        """Return what to tell of the processes that this one has launched, if one has failed."""
        for number, process in enumerate(self._launched, 1):
            status = process.poll()
            if status is not None and status < 0:
                return ProcessEnded(
                    f"process {number} of this run was killed by {signal.Signals(-status).name} (out of memory?), so "
                    "the others end too; start it again and it goes on",
                    128 - status,
                )
            if status == 128 + signal.SIGTERM:
                return ProcessEnded(f"process {number} of this run was stopped by SIGTERM; the others end too", status)
            if status:
                return ProcessEnded(f"process {number} of this run has failed; its own message says why", status)
        return None

    def _watch_launched(self, processes: list[subprocess.Popen[bytes]]) -> None:
        self._launched = processes
        threading.Thread(target=self._look, daemon=True, name="physteer-processes").start()

    def _look(self) -> None:
        while not self._ended.wait(_INTERVAL):
            ended = None if self._stopping() else self._ended_process()
            if ended is None:
                continue
            if ended.status < 128:  # it has spoken, and this process may be about to say the same
                self._ended.wait(_OWN_WORDS)
            self._leave(ended)
            return

    def _watch_first(self) -> None:
        while not self._ended.wait(_INTERVAL):
            if os.getppid() != self._first:
                self._leave(_first_ended(), self._rank == 1)
                return

    def _leave(self, error: PhysteerError, speaks: bool = True) -> None:
        with self._telling:
            if self._ended.is_set():
                return
            if speaks and not self._stopping():
                os.write(2, f"physteer: error: {error}\n".encode())
            self._kill_launched()
            leave(error.status)

    def _kill_launched(self) -> None:
        for process in self._launched:
            process.kill()


class _Launcher(_SubprocessScriptLauncher):
    """Lightning's launcher, without its own look at the processes."""

    def __init__(self, started: Callable[[list[subprocess.Popen[bytes]]], None], *args: Any) -> None:
        super().__init__(*args)
        self._started = started
        self._processes: list[subprocess.Popen[bytes]] = []

    def _call_children_scripts(self) -> None:
        os.environ[_FIRST_PROCESS] = str(os.getpid())
        try:
            super()._call_children_scripts()
        finally:
            del os.environ[_FIRST_PROCESS]
        self._processes, self.procs = self.procs, []  # Lightning looks at the latter
        self._started(self._processes)

    def kill(self, signum: int) -> None:
        """Send a signal to the launched processes."""
        for process in self._processes:
            process.send_signal(signum)


def _first_ended() -> ProcessEnded:
    return ProcessEnded("the first process of this run was killed (out of memory?), so the others end too", 1)
