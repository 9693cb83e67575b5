"""HDF5 files for writing that can be closed when the disk is full."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py


class DiskFile(io.FileIO):
    """The bytes under an HDF5 file. The first write that fails is remembered, and later ones are dropped.

    HDF5 cannot close a file that it cannot write to: it keeps the file open, reports errors for every object that is
    freed, and crashes the process at exit. The failure is therefore hidden from HDF5; the writer calls `check`, and
    discards the file.
    """

    failure: OSError | None = None

    def write(self, data: Any) -> int:
        """Write everything; after a failure, drop everything."""
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while self.failure is None and len(rest):
                rest = rest[super().write(rest) or 0 :]
        except OSError as error:
            self.failure = error
        return size

    def truncate(self, size: int | None = None) -> int:
        """Set the size."""
        try:
            if self.failure is None:
                return super().truncate(size)
        except OSError as error:
            self.failure = error
        return size or 0

    def check(self) -> None:
        """Raise the error of the first failed write, if any."""
        if self.failure is not None:
            raise self.failure


@contextmanager
def new_hdf5(path: Path) -> Iterator[tuple[h5py.File, DiskFile]]:
    """Yield an empty HDF5 file and the bytes under it; both are closed when the block ends.

    Raises:
        OSError: The file cannot be made or written.
    """
    with DiskFile(path, "w+b") as disk:
        with h5py.File(disk, "w") as file:
            yield file, disk
        disk.check()
