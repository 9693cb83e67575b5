"""Files of `torch.save` that others wrote: checked by their description, then read by torch itself."""

from __future__ import annotations

import io
import warnings
import zipfile
from pathlib import Path
from typing import IO, Any

import torch

from physteer.errors import PhysteerError
from physteer.untrusted.pickles import Described, RefusedPickleError, Storage, check_opcodes

ZIP = b"PK\x03\x04"
"""How a file of `torch.save` begins since torch 1.6."""
TORCH_MAGIC = 0x1950A86A20F9469CFC6C
"""The first pickle in an older one."""


def load_tensors(path: Path, kind: str) -> Any:
    """Return what a file of `torch.save` holds, tensors and plain data, memory-mapped where its format allows it.

    Args:
        path: of the file.
        kind: of file that it should be, for the error.

    Raises:
        PhysteerError: There is no such file, it is not whole, or it holds more than tensors and plain data. The message
            says what was met; nothing in the file is executed, and nothing larger than the file is made.
    """
    try:
        with path.open("rb") as file:
            check_torch_file(file)
        return read_torch(path)
    except RefusedPickleError as error:
        raise PhysteerError(f"{path} holds more than tensors and was not opened: {error}") from None
    except MemoryError:
        raise PhysteerError(f"{path} does not fit into this machine's memory") from None
    except Exception as error:  # a damaged pickle may raise anything, says pickle's documentation
        raise PhysteerError(f"{path} is not a whole {kind}: {in_short(error)}") from None


def load_storage(content: bytes) -> Any:
    """Return the storage that lies as bytes of the older format in a pickle, as pickled tensors have them.

    Raises:
        RefusedPickleError: It is something else.
        Exception: It is damaged.
    """
    if content[: len(ZIP)] == ZIP:
        raise RefusedPickleError("it has a storage that is an archive")
    check_torch_file(io.BytesIO(content))
    storage = _torch_load(io.BytesIO(content), mapped=False)
    if not isinstance(storage, torch.storage.TypedStorage):
        raise RefusedPickleError(f"it has a storage that is a {type(storage).__name__}")
    return storage


def read_torch(path: Path) -> Any:
    """Return what a file holds that `check_torch_file` has passed."""
    with path.open("rb") as file:
        is_archive = file.read(len(ZIP)) == ZIP  # as torch tells its formats apart; only archives can be mapped
    return _torch_load(path, mapped=is_archive)


def check_torch_file(file: IO[bytes]) -> None:
    """Check that a file of `torch.save` holds tensors and plain data only, whose sizes fit the file's.

    Raises:
        RefusedPickleError: It holds more; the message says what.
        Exception: Any, from a damaged file.
    """
    size = file.seek(0, 2)
    file.seek(0)
    if not size:
        raise ValueError("it is empty")
    zipped = file.read(len(ZIP)) == ZIP
    file.seek(0)
    if zipped:
        _check_archive(file, size)
    else:
        _check_sequence(file, size)


def in_short(error: BaseException) -> str:
    """Return the first line of an error; of torch's own refusals nothing, which end in the advice to run the code."""
    text = (str(error) or type(error).__name__).splitlines()[0][:200]
    return "torch refuses it" if "weights_only" in text else text


def _torch_load(file: Path | io.BytesIO, mapped: bool) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's doubts about pickle protocols: it opens a file or refuses it
        return torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)


def _check_archive(file: IO[bytes], size: int) -> None:
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        if len(entries) != len(archive.infolist()):
            raise RefusedPickleError("two of its records have one name")
        top = next(iter(entries), "").partition("/")[0]
        if f"{top}/constants.pkl" in entries:
            raise RefusedPickleError("it is a TorchScript program")
        if any(entry.compress_type != zipfile.ZIP_STORED or entry.file_size > size for entry in entries.values()):
            raise RefusedPickleError("it has a compressed record, which no file of torch.save has")
        if f"{top}/data.pkl" not in entries:
            raise ValueError("it is a zip archive, but not of torch.save")
        _, storages = _described(io.BytesIO(archive.read(f"{top}/data.pkl")), size)
        for storage in storages:
            record = entries.get(f"{top}/data/{storage.key}")
            if record is None or record.file_size < storage.numbers * storage.item_bytes:
                raise RefusedPickleError(f"its storage {storage.key} has {storage.numbers} numbers that are not there")


def _check_sequence(file: IO[bytes], size: int) -> None:
    """Check the format before torch 1.6: four pickles, of which the fourth has the data; the storages come behind."""
    if _described(file, size)[0] != TORCH_MAGIC:
        raise ValueError("it is a pickle, but not of torch.save")
    _described(file, size)  # the version of the format
    _described(file, size)  # what the machine was
    _, storages = _described(file, size)
    declared = sum(storage.numbers * storage.item_bytes for storage in storages)
    if declared > size - file.tell():
        raise RefusedPickleError(f"its storages have {declared} bytes, and the file has {size}")


def _described(file: IO[bytes], size: int) -> tuple[Any, list[Storage]]:
    """Return what the pickle at the file's position holds, and its storages; leave the file behind the pickle."""
    start = file.tell()
    check_opcodes(file, size)
    end = file.tell()
    file.seek(start)
    reader = Described(file)
    tree = reader.tree()
    file.seek(end)  # the reader may have read ahead
    return tree, [*reader.storages.values()]
