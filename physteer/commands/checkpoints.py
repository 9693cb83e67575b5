"""Checkpoints of `physteer fit`: written whole or not at all, and what ``--ckpt_path last`` means."""

from __future__ import annotations

import os
import struct
import sys
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.plugins.io import TorchCheckpointIO

from physteer.commands.user_errors import check_checkpoint
from physteer.errors import PhysteerError
from physteer.files import atomic_write

_FOLDER_MARKS = (".metadata", "meta.pt", "latest")
"""In a checkpoint that is a folder, what a sharded strategy (FSDP, DeepSpeed) writes after everything else."""


class WholeCheckpoints(TorchCheckpointIO):
    """Lightning's files, written beside the one they replace, which is replaced when they are on the disk.

    Lightning writes to the system's temporary folder and moves the file from there. Between file systems that is a
    copy: a process that is killed, or a full disk, leaves half a file in place of a whole one. Its mode is 0600, too.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Raises:
            PhysteerError: it cannot be written, for example because the disk is full; an older file stays.
        """
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        with atomic_write(Path(path)) as temporary, temporary.open("wb") as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:  # torch's own error hides that of the disk
                raise _system_error(error) or error from None


def _system_error(error: BaseException) -> OSError | None:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    return cause


def damage(path: Path) -> str:
    """Return in a few words why a file cannot be a whole checkpoint; nothing where it can.

    Only the end of the file, where an archive has its table of contents, and the small part without tensors are read.
    """
    try:
        if path.is_dir():
            return "" if any((path / mark).exists() for mark in _FOLDER_MARKS) else "it has no table of contents"
        if path.stat().st_size == 0:
            return "it is empty"
        with zipfile.ZipFile(path) as archive:
            if any(part.header_offset + part.compress_size > archive.start_dir for part in archive.infolist()):
                return "it is shorter than its table of contents says"
            names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            for name in names:
                archive.read(name)  # checks the digest
            return "" if names else "it holds no checkpoint"
    except zipfile.BadZipFile:
        return "it ends early or is damaged"
    except (OSError, EOFError, ValueError, struct.error, NotImplementedError) as error:
        return getattr(error, "strerror", None) or str(error) or type(error).__name__


def last_checkpoint(run_folder: Path, others: Iterable[Path]) -> Path | None:
    """Return the newest whole checkpoint, whichever callback wrote it, and say where it is not simply the newest.

    Files that are not whole are left as they are.

    Args:
        run_folder: searched with its folders, but for those that are run folders themselves.
        others: further folders that callbacks write checkpoints to; only they themselves are searched.

    Returns:
        The checkpoint; None where there is none at all.

    Raises:
        PhysteerError: there are checkpoints, and none is whole.
    """
    paths = {path.resolve(): path for path in _checkpoints(run_folder)}
    paths |= {path.resolve(): path for folder in others for path in folder.glob("*.ckpt") if path.exists()}
    newest_first = sorted(paths.values(), key=lambda p: (p.stat().st_mtime_ns, p.name.startswith("last")), reverse=True)
    broken: list[str] = []
    for path in newest_first:
        if why := damage(path):
            broken.append(f"{path} is not whole ({why})")
        else:
            if broken or not path.name.startswith("last"):
                _say("; ".join([*broken, f"using {path}"]))
            return path
    if broken:
        raise PhysteerError(f"ckpt_path last: {'; '.join(broken)}, and there is no other; delete it to begin anew")
    return None


def resolve_last(command: str, run_folder: Path, others: Iterable[Path]) -> str | None:
    """Return what Lightning is to load for ``--ckpt_path last``, and say what is not as expected.

    Args:
        command: ``fit`` begins anew where there is no checkpoint, because a cluster's job is given the same words each
            time; others need one.
        run_folder: see `last_checkpoint`.
        others: see `last_checkpoint`.

    Raises:
        PhysteerError: there is no checkpoint, or none that is whole and of Lightning.
    """
    folders = list(others)
    path = last_checkpoint(run_folder, folders)
    if path is not None:
        if path.is_file():
            check_checkpoint(str(path))
        return str(path)
    places = [run_folder, *(folder for folder in folders if run_folder.absolute() not in folder.absolute().parents)]
    nothing = f"there is no checkpoint in {' or '.join(map(str, places))}"
    if command != "fit":
        raise PhysteerError(f"ckpt_path last: {nothing}")
    _say(f"{nothing}; training begins")
    return None


def _checkpoints(run_folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(run_folder):
        for name in [*files, *folders]:
            path = Path(place, name)
            if name.endswith(".ckpt") and path.exists():  # not a link to nothing
                yield path
        folders[:] = [
            name
            for name in folders
            if not name.endswith((".ckpt", ".zarr", ".partial")) and not Path(place, name, "environment.json").exists()
        ]


def _say(text: str) -> None:
    if not getattr(rank_zero_only, "rank", None):
        print(f"physteer: ckpt_path last: {text}", file=sys.stderr, flush=True)
