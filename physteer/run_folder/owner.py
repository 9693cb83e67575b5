"""Who holds a lock: a process on a machine, and whether it still runs."""

from __future__ import annotations

import os
import secrets
import socket
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Owner:
    """Who holds a lock."""

    command: str
    host: str
    pid: int
    machine: str
    """Of which process numbers are: a start of a machine and, in it, a container; empty where this is not known."""
    process_start: str
    """Tells the process from a later one with the same number; empty where this is not known."""
    job: str | None
    """Of SLURM."""
    restarts: int
    """How often SLURM has put the job back in the queue."""
    started: float
    """Seconds since 1970."""
    token: str
    """Of this lock and no other."""

    def __str__(self) -> str:
        job = f", SLURM job {self.job}" if self.job else ""
        return f"`physteer {self.command}` (process {self.pid} on {self.host}{job}, {age(time.time() - self.started)})"


def this_process(command: str) -> Owner:
    """Return this process as the holder of a lock, for a command."""
    return Owner(
        command=command,
        host=socket.gethostname(),
        pid=os.getpid(),
        machine=_machine(),
        process_start=_status(os.getpid())[1],
        job=os.environ.get("SLURM_JOB_ID"),
        restarts=int(os.environ.get("SLURM_RESTART_COUNT") or 0),
        started=time.time(),
        token=secrets.token_hex(8),
    )


def _machine() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + " " + os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def runs(owner: Owner) -> bool:
    """Whether a process of this machine is still the one that made a lock."""
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    state, start = _status(owner.pid)
    return state not in ("Z", "X") and start in ("", owner.process_start)


def _status(pid: int) -> tuple[str, str]:
    """Return a process's state and time of start as Linux tells them; empty where it does not."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return fields[0], fields[19]
    except (OSError, IndexError):
        return "", ""


def age(seconds: float) -> str:
    """Return a time span in words, such as ``for 12 s``."""
    minutes = max(0.0, seconds) / 60
    if minutes < 2:
        return f"for {max(0.0, seconds):.0f} s"
    return f"for {minutes:.0f} min" if minutes < 120 else f"for {minutes / 60:.0f} h"
