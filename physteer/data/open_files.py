"""Well files open for reading: the layout of their fields, and the files that a process keeps open."""

from __future__ import annotations

import contextlib
import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import fsspec
import fsspec.asyn
import h5py
import numpy as np
from numpy.typing import NDArray
from the_well.data.utils import IO_PARAMS

from physteer.errors import PhysteerError
from physteer.files import reason

MOST_OPEN = 128
"""Largest number of files that a data set keeps open in a process; a folder of rollouts may have more files than the
system allows to open."""

_MOST_WITH_CHUNKS = 2
"""The latest files of which HDF5 keeps decompressed chunks, up to 8 MiB per field: windows that follow each other share
them. Of the other open files they are freed."""

# h5py raises any of these for a file that is truncated, lacks a group, or fails a checksum.
_BROKEN = (OSError, KeyError, ValueError, RuntimeError, TypeError, AttributeError, IndexError)


@dataclass(eq=False)
class StoredField:
    """One field of one file: [trajectory, time, *space, *components], without axes along which it is constant."""

    group: h5py.Group
    name: str
    order: int
    """0 scalar, 1 vector, 2 tensor: the number of component axes."""
    sample_varying: bool
    time_varying: bool
    dim_varying: tuple[bool, ...]
    """Per spatial axis."""
    _open: h5py.Dataset | None = None

    @property
    def dataset(self) -> h5py.Dataset:
        """The stored values."""
        if self._open is None:
            self._open = self.group[self.name]
        return self._open

    def free_chunks(self) -> None:
        """Let HDF5 free the chunks that it keeps; the next read opens the dataset again."""
        self._open = None

    def read(self, trajectory: int, frames: slice) -> NDArray[np.float32]:
        """Return [T, *space, *components]; an axis along which the field does not vary has one cell."""
        place = (trajectory,) * self.sample_varying + (frames,) * self.time_varying
        values: NDArray[np.float32] = np.asarray(self.dataset[place], dtype=np.float32)
        if values.ndim == self.time_varying + len(self.dim_varying) + self.order:  # also axes of one cell are stored
            return values if self.time_varying else values[None]
        stored = iter(values.shape)
        lead = (next(stored) if self.time_varying else 1, *(next(stored) if dim else 1 for dim in self.dim_varying))
        return values.reshape(*lead, *stored)


def text(value: Any) -> str:
    """Return a stored string of any of HDF5's kinds: variable or fixed length, Unicode or bytes, also an array of one.

    Raises:
        ValueError: There are several.
    """
    values = np.ravel(value)
    if len(values) != 1:
        raise ValueError(f"an attribute holds {len(values)} texts where there must be one")
    one = values[0]
    return (one.decode("utf-8", "replace") if isinstance(one, bytes) else str(one)).rstrip("\0 ")


def flag(value: Any) -> bool:
    """Return a stored truth value.

    Raises:
        ValueError: It is a text, of which "False" would count as true.
    """
    stored = np.asarray(value)
    if stored.dtype.kind not in "biu":
        raise ValueError(f"an attribute that is true or false holds {value!r:.40}")
    return bool(stored)


def texts(values: Any) -> list[str]:
    """Return an array of stored strings, or a single one, as a list (`text`)."""
    return [text(value) for value in np.atleast_1d(values)]


class OpenFile:
    """One Well file, whose layout is read once.

    Args:
        file: the file, open for reading.

    Raises:
        OSError, KeyError: The file is broken.
    """

    def __init__(self, file: h5py.File) -> None:
        self.file = file
        self.axes = tuple(texts(file["dimensions"].attrs["spatial_dims"]))
        self.fields = {name: field for order in range(3) for name, field in _stored_fields(file, order)}
        self._times = np.asarray(file["dimensions"]["time"][()])  # [T], or [N, T] where trajectories differ
        self._constant: dict[str, NDArray[np.float32]] = {}

    @property
    def parameters(self) -> dict[str, NDArray[Any]]:
        """Values by name: shape [], or [N] with one value per trajectory. They are read anew: an index keeps them."""
        return _parameters(self.file)

    def read(self, field: str, trajectory: int, frames: slice) -> NDArray[np.float32]:
        """Read a field as `StoredField.read` does; constant fields are read once and kept."""
        if field not in self.fields:
            raise KeyError(f"it has no field {field!r}")
        stored = self.fields[field]
        if stored.sample_varying or stored.time_varying:
            return stored.read(trajectory, frames)
        if field not in self._constant:
            self._constant[field] = stored.read(trajectory, frames)
        return self._constant[field]

    def times(self, trajectory: int) -> NDArray[np.floating]:
        """Return the times of a trajectory's frames, in the data set's unit."""
        return np.array(self._times if self._times.ndim == 1 else self._times[trajectory])

    def coordinates(self, axis: str) -> NDArray[np.floating]:
        """Return the cells' positions along an axis, [1, n], or [trajectories, n] where trajectories have their own."""
        positions = self.file["dimensions"][axis]
        if flag(positions.attrs.get("time_varying", False)):
            raise ValueError(f"its cells move along {axis} over time, and grids must stand still")
        stored = np.asarray(positions[()])
        return stored if flag(positions.attrs["sample_varying"]) else stored[None]

    def close(self) -> None:
        """Close the file."""
        self.file.close()


def _stored_fields(file: h5py.File, order: int) -> Iterator[tuple[str, StoredField]]:
    group = file[f"t{order}_fields"]
    for name in texts(group.attrs["field_names"]):
        flags = group[name].attrs
        varying = tuple(map(flag, np.atleast_1d(flags["dim_varying"])))
        yield name, StoredField(group, name, order, flag(flags["sample_varying"]), flag(flags["time_varying"]), varying)


def _parameters(file: h5py.File) -> dict[str, NDArray[Any]]:
    """Return the numbers among the root attributes in ``simulation_parameters``, and the scalars that are constant."""
    parameters: dict[str, NDArray[Any]] = {}
    for name in texts(file.attrs.get("simulation_parameters", ())):
        value = np.asarray(file.attrs.get(name))
        if value.ndim == 0 and np.issubdtype(value.dtype, np.number):
            parameters[name] = value
    for name, scalar in file["scalars"].items():
        per_trajectory = flag(scalar.attrs["sample_varying"])
        plain = scalar.size == (scalar.shape[0] if per_trajectory and scalar.shape else 1)  # no vectors
        if plain and np.issubdtype(scalar.dtype, np.number) and not flag(scalar.attrs["time_varying"]):
            parameters[name] = np.reshape(scalar[()], (-1,) if per_trajectory else ())
    return parameters


class OpenFiles:
    """The open files of a data set in this process: the `MOST_OPEN` most recently used ones, each open once.

    A process that was forked or spawned opens its own files: HDF5 handles, and the connections of many remote file
    systems, do not work in two processes.

    Args:
        paths: of all files, in the file system's own form.
        url: the folder as set by the user; it determines the file system.
        storage_options: passed to fsspec.
    """

    def __init__(self, paths: Sequence[str], url: str, storage_options: Mapping[str, Any]) -> None:
        self.paths = paths
        self._url, self._options = url, dict(storage_options)
        self._files: OrderedDict[int, OpenFile] = OrderedDict()
        self._pid = os.getpid()

    @contextmanager
    def reading(self, number: int) -> Iterator[OpenFile]:
        """Yield a file for the block; it is opened if necessary.

        Raises:
            PhysteerError: The file cannot be opened, or reading from it in the block fails.
        """
        try:
            yield self._get(number)
        except _BROKEN as error:
            raise PhysteerError(f"cannot read {self.paths[number]}: {reason(error)}") from error

    def _get(self, number: int) -> OpenFile:
        if self._pid != os.getpid():  # inherited through fork: handles of the parent process
            self._files, self._pid = OrderedDict(), os.getpid()
        if number in self._files:
            self._files.move_to_end(number)
            self._free_chunks()
            return self._files[number]
        while len(self._files) >= MOST_OPEN:
            self._files.popitem(last=False)[1].close()
        thread = fsspec.asyn.iothread[0]
        if thread is not None and not thread.is_alive():  # the thread is one of the parent process
            fsspec.asyn.reset_lock()
        fs, _ = fsspec.url_to_fs(self._url, **self._options)  # fsspec keeps one per process
        path = self.paths[number]
        local = "file" in np.atleast_1d(fs.protocol)
        source = path if local else fs.open(path, "rb", **IO_PARAMS["fsspec_params"])
        with contextlib.ExitStack() as stack:
            file = OpenFile(stack.enter_context(h5py.File(source, "r")))
            stack.pop_all()
        self._files[number] = file
        self._free_chunks()
        return file

    def _free_chunks(self) -> None:
        """Free the chunks of the file that has just ceased to be one of the latest."""
        if len(self._files) > _MOST_WITH_CHUNKS:
            for field in list(self._files.values())[-_MOST_WITH_CHUNKS - 1].fields.values():
                field.free_chunks()

    def close(self) -> None:
        """Close the files of this process; reading opens them again."""
        files, self._files = self._files, OrderedDict()
        if self._pid == os.getpid():
            for file in files.values():
                file.close()

    def __getstate__(self) -> dict[str, Any]:  # handles stay behind when a worker is spawned
        return {**self.__dict__, "_files": OrderedDict()}
