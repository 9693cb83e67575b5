"""The lock of a folder: one process at a time writes to it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

from physteer.errors import PhysteerError
from physteer.files import reason, temporary_name
from physteer.run_folder.owner import Owner, age, runs, this_process

LOCK = "physteer.lock"
"""In a folder that a process is writing to: who that is, as JSON."""
_SIGN_OF_LIFE = 20.0  # seconds
_LEFT_BEHIND = 300.0  # seconds without a sign of life; NFS shows one up to a minute late
_held: dict[Path, Owner] = {}


@contextmanager
def locked(folder: Path, command: str) -> Iterator[None]:
    """Keep every other process from writing to a folder while the block runs.

    The lock is a file, made exclusively, which holds on network file systems too. A lock that was left behind is told
    and taken over: its process was on this machine and has ended; or it is of an earlier start of the same SLURM job;
    or it has shown no sign of life for five minutes (a running process shows one every 20 seconds).

    Args:
        folder: made if need be, and removed again if it is empty in the end.
        command: what the lock is for, to be told to others.

    Raises:
        PhysteerError: another process holds the lock; names it, and the file to delete if it has ended. Or the folder
            cannot be written to.
    """
    path = folder.absolute() / LOCK
    owner = this_process(command)
    made = [parent for parent in (path.parent, *path.parent.parents) if not parent.exists()]
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PhysteerError(f"cannot make the folder {folder}: {reason(error)}") from error
        try:
            _acquire(path, owner)
        except OSError as error:
            raise PhysteerError(f"cannot write {path}: {reason(error)}") from error
        _held[path] = owner
        ended = threading.Event()
        threading.Thread(target=_show_life, args=(path, owner, ended), daemon=True, name="physteer-lock").start()
        try:
            yield
        finally:
            ended.set()
            _release(path)
    finally:
        with contextlib.suppress(OSError):  # it is not empty
            for parent in made:
                parent.rmdir()


def leave(status: int) -> NoReturn:
    """End this process at once, whatever its other threads wait for; its locks are released."""
    for path in list(_held):
        _release(path)
    os._exit(status)


def _acquire(path: Path, owner: Owner) -> None:
    for _ in range(50):
        if _create(path, owner):
            return
        held = _read(path)
        if held is None:
            continue  # it was released meanwhile
        other, silent = held
        if (why := _left_behind(other, silent, owner)) is None:
            raise PhysteerError(_refusal(path, other, silent))
        if _take_over(path, other, owner):
            print(f"physteer: taking over {path.parent} from {other or 'a run'}: {why}", file=sys.stderr, flush=True)
            return
        time.sleep(0.1)
    raise PhysteerError(f"{path} is made and removed again and again; are several runs started in {path.parent}?")


def _left_behind(other: Owner | None, silent: float, owner: Owner) -> str | None:
    """Return how it is known that a lock is nobody's; None where it may be somebody's."""
    if other is not None and (other.host, other.machine) == (owner.host, owner.machine):
        return None if runs(other) else "that process has ended"
    if other is not None and owner.job is not None and other.job == owner.job and owner.restarts > other.restarts:
        return "it was an earlier start of this job"
    if silent > _LEFT_BEHIND:
        return f"it has shown no sign of life {age(silent)}"
    return None


def _refusal(path: Path, other: Owner | None, silent: float) -> str:
    seen = ""
    if other is None or other.host != socket.gethostname():
        seen = (
            f"; its last sign of life is {silent:.0f} s old, and from {_LEFT_BEHIND:.0f} s on it would count as ended"
        )
    return (
        f"{path.parent} is in use by {other or 'another run'}{seen}; wait for it or choose another folder, or delete "
        f"{path} if it has ended"
    )


def _create(path: Path, owner: Owner) -> bool:
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileExistsError:
        return False
    try:
        with open(descriptor, "w") as file:
            file.write(json.dumps(asdict(owner)) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return True


def _take_over(path: Path, other: Owner | None, owner: Owner) -> bool:
    """Replace a lock, unless another process does so at the same time."""
    claim = path.with_name(f".{LOCK}.claim")
    with contextlib.suppress(FileNotFoundError):
        if _now(path.parent) - claim.stat().st_mtime > 60:
            claim.unlink()  # its process was killed within an instant
    if not _create(claim, owner):
        return False
    held = _read(path)
    if held is None or held[0] != other:
        claim.unlink()
        return False
    os.replace(claim, path)
    return True


def _read(path: Path) -> tuple[Owner | None, float] | None:
    """Return who holds a lock (None: not written yet, or not ours) and the seconds since the last sign of life."""
    try:
        silent = _now(path.parent) - path.stat().st_mtime
        content = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    try:
        return Owner(**json.loads(content)), silent
    except (ValueError, TypeError):
        return None, silent


def _now(folder: Path) -> float:
    """Return the time by the clock of the file system, which is a server's where the folder is on a network."""
    probe = temporary_name(folder / LOCK)
    try:
        probe.touch()
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def _show_life(path: Path, owner: Owner, ended: threading.Event) -> None:
    while not ended.wait(_SIGN_OF_LIFE):
        with contextlib.suppress(OSError):
            held = _read(path)
            if held is None:
                continue  # somebody has deleted it
            if held[0] is not None and held[0].token != owner.token:
                print(f"physteer: {path.parent} was taken over by {held[0]}; stopping", file=sys.stderr, flush=True)
                _held.pop(path, None)
                os.kill(os.getpid(), signal.SIGTERM)
                return
            os.utime(path)


def _release(path: Path) -> None:
    owner = _held.get(path)
    if owner is None or owner.pid != os.getpid():  # in a child process
        return
    del _held[path]
    with contextlib.suppress(OSError):
        held = _read(path)
        if held is not None and held[0] is not None and held[0].token == owner.token:
            path.unlink()
