"""Names, patterns and digests of files, and atomic writes."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from glob import escape, glob
from pathlib import Path

from physteer.errors import PhysteerError


@contextmanager
def atomic_write(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path in the same folder, which takes the final name when the block ends without an error.

    The content is on the disk before the file has its name, so that after a crash of the machine, too, a file is whole
    or not there. Its mode follows the process's umask. The folder is made if need be. After an error the temporary file
    is removed and an older file of that name stays. The temporary name ends in ``.tmp``: say the format to a library
    that takes it from a file's ending.

    Raises:
        PhysteerError: the folder cannot be made or written to, or the disk is full.
    """
    path = Path(path)
    temporary = temporary_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        to_disk(temporary)
        os.replace(temporary, path)
        with contextlib.suppress(OSError):  # the file is whole; only its name may be lost in a crash
            to_disk(path.parent)
    except OSError as error:
        raise PhysteerError(f"cannot write {path}: {reason(error)}") from error
    finally:
        with contextlib.suppress(OSError):  # the error that brought us here is the one to tell
            temporary.unlink(missing_ok=True)


def to_disk(path: Path | str) -> None:
    """Wait until the content of a file, or the names in a folder, are on the disk.

    Raises:
        OSError: there is no such file, or the disk is full or broken: some file systems tell only now.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):  # file systems that have no such operation
            raise
    finally:
        os.close(descriptor)


def matching_files(setting: str, patterns: Sequence[str]) -> list[str]:
    """Return the files that some names and patterns mean, each once.

    Args:
        setting: what the patterns were given as, for the error.
        patterns: names of files, or patterns in which ``*`` alone has a meaning.

    Raises:
        PhysteerError: one means no file.
    """
    all_files = []
    for pattern in patterns:
        # names of folders, and of a head's site, may have brackets
        files = [pattern] if Path(pattern).is_file() else sorted(glob(escape(pattern).replace("[*]", "*")))
        if not files:
            raise PhysteerError(f"{setting}: there is no file {pattern}")
        all_files += files
    return list(dict.fromkeys(all_files))


def home_expanded(text: str) -> str:
    """Return a path, or ``--setting=path``, whose ``~`` is the user's home; any other text unchanged.

    The shell does this for a word of the command line that is a path, but not for what YAML and ``--setting=~/…`` say.
    """
    setting, equals, value = text.partition("=") if text.startswith("--") else ("", "", text)
    return f"{setting}{equals}{os.path.expanduser(value)}" if value.startswith("~/") else text


def file_name(text: str) -> str:
    """Return a name (of a site, condition, variable or field) as part of a file's name: letters, digits and _ . + -."""
    return re.sub(r"[^\w.+-]+", "_", text).strip("_")


def file_digest(path: str | os.PathLike[str]) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 digest of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def temporary_name(path: Path) -> Path:
    """Return a new hidden name in the same folder.

    Its ending is not the file's, so that no search for ``*.hdf5`` finds what a killed process left behind.
    """
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def is_temporary(path: Path) -> bool:
    """Whether a name is one of `temporary_name`: such a file is left behind by a process that was killed."""
    return re.fullmatch(r"\..+\.[0-9a-f]{8}\.tmp", path.name) is not None


def reason(error: BaseException) -> str:
    """Return in a few words of one line why a file could not be read or written.

    HDF5 wraps the system's reason in its own account, the file's name and addresses in memory included.
    """
    if isinstance(error, KeyError) and error.args:
        text = str(error.args[0])  # str(KeyError) would be quoted
    else:
        text = str(getattr(error, "strerror", None) or error)
    inner = re.search(r"error message = '([^']+)'", text)
    return inner[1] if inner else " ".join(text.split()) or type(error).__name__
