"""Windows of a Well-format data set, addressed by (file, trajectory, start, stride)."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from types import TracebackType
from typing import Any

import fsspec
import h5py
import numpy as np
import torch
from the_well.data import WellDataset
from torch.utils.data import Dataset

from physteer.data.batch import Channels, Grid, Origin, Sample, Window
from physteer.data.fields import channel_sources, stored_parameters
from physteer.errors import PhysteerError, did_you_mean


@dataclass(frozen=True)
class WindowSpec:
    """Which windows of each trajectory a data set yields."""

    n_input: int
    """Frames of context."""
    n_output: int
    """Frames that follow the context."""
    strides: tuple[int, ...] = (1,)
    """Stored frames from one frame of a window to the next; each stride gives windows of its own."""
    first: int = 0
    """Index of the earliest start."""
    every: int | None = 1
    """Frames between starts; None for one window per trajectory."""
    trajectories: tuple[int, ...] | None = None
    """Indices of the trajectories to use in every file; None for all."""

    @property
    def n_frames(self) -> int:
        """Frames in a window."""
        return self.n_input + self.n_output

    def starts(self, n_stored: int, stride: int) -> range:
        """Return the starts that fit a trajectory of ``n_stored`` frames."""
        last = n_stored - 1 - stride * (self.n_frames - 1)
        if self.every is None:
            last = min(last, self.first)
        return range(self.first, last + 1, self.every or 1)


@dataclass
class _Handles:
    """Open HDF5 files of one process: a forked worker opens its own."""

    well: WellDataset
    pid: int = field(default_factory=os.getpid)
    files: dict[int, h5py.File] = field(default_factory=dict)

    def __getitem__(self, index: int) -> h5py.File:
        if self.pid != os.getpid():  # inherited through fork: not ours to use or to close
            self.pid, self.files = os.getpid(), {}
        if index not in self.files:
            path = self.well.files_paths[index]
            local = "file" in np.atleast_1d(self.well.fs.protocol)
            try:
                self.files[index] = h5py.File(path if local else self.well.fs.open(path, "rb"), "r")
            except OSError as error:
                raise PhysteerError(f"cannot read {path}: {error}") from error
        return self.files[index]

    def close(self) -> None:
        if self.pid == os.getpid():
            for file in self.files.values():
                file.close()
        self.files = {}

    def __getstate__(self) -> dict[str, Any]:  # handles stay behind when a worker is spawned
        return {"well": self.well, "pid": -1, "files": {}}


class WindowDataset(Dataset[Sample]):
    """Windows of the HDF5 files in one folder, read through ``the_well``.

    Fields come as the network takes them: scalars, then vector and tensor components, then constant fields;
    two-dimensional Cartesian data are inflated to three components (the new ones 0) and three axes (one of one cell).

    Args:
        path: the folder of one split, local or any fsspec address (``hf://…``, ``memory://…``).
        spec: which windows to yield.
        include: use only files whose name contains one of these.
        exclude: leave out files whose name contains one of these.
        fields: stored name → vocabulary name, where they differ; a new name that begins with ``log10_`` takes the
            logarithm of the stored values, ``zeros_like_…`` puts zeros in their place.
        storage_options: passed to fsspec.

    Raises:
        PhysteerError: no such folder, no file left by the filters, a broken file, or trajectories that are too short.
    """

    def __init__(
        self,
        path: str,
        spec: WindowSpec,
        *,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        fields: Mapping[str, str] | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.path, self.spec = path, spec
        self.well = _open_well(path, spec, include, exclude, storage_options)
        self.files = [PurePosixPath(p).stem for p in self.well.files_paths]
        self._handles = _Handles(self.well)
        self._caches: list[dict[str, Any]] = [{} for _ in self.files]
        grid = self._read_grid()
        channels = Channels(tuple(channel_sources(self.well.metadata, grid.axes, fields or {})))
        self.origin = Origin(self.well.dataset_name, path, channels, grid)
        self.parameters = [stored_parameters(self._handles[i]) for i in range(len(self.files))]
        self.windows = list(self._all_windows())
        if not self.windows:
            longest = max(self.well.n_steps_per_trajectory)
            raise PhysteerError(
                f"no window fits {path}: one needs {spec.n_input} + {spec.n_output} frames, {min(spec.strides)} apart, "
                f"from frame {spec.first}; trajectories have up to {longest} frames (trajectories asked for: "
                f"{'all' if spec.trajectories is None else list(spec.trajectories)})"
            )

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> Sample:
        return self.read(self.windows[index])

    def read(self, window: Window, n_frames: int | None = None) -> Sample:
        """Read one window.

        Args:
            window: its address.
            n_frames: how many frames; the data set's own number when None.

        Raises:
            PhysteerError: no such file, a broken file, or values that are not finite.
        """
        if window.file not in self.files:
            raise PhysteerError(f"no file {window.file!r} in {self.path}{did_you_mean(window.file, self.files)}")
        number = self.files.index(window.file)
        file, n_frames = self._handles[number], n_frames or self.spec.n_frames
        where = (file, self._caches[number], window.trajectory, window.start, n_frames, window.stride)
        try:
            varying, constant = self.well._reconstruct_fields(*where)
        except OSError as error:
            raise PhysteerError(f"cannot read {self.well.files_paths[number]}: {error}") from error
        values = {
            name: data
            for by_order in (varying, constant)
            for named in by_order.values()
            for name, data in named.items()
        }
        fields = torch.zeros(n_frames, len(self.origin.channels.sources), *self.well.size_tuple)  # [T, C, *space]
        for channel, source in zip(fields.unbind(1), self.origin.channels.sources, strict=True):
            source.fill(channel, values)
        fields = fields.reshape(*fields.shape[:2], *self.origin.grid.shape)
        if not torch.isfinite(fields).all():
            broken = [
                name
                for name, f in zip(self.origin.channels.names, fields.unbind(1), strict=True)
                if not f.isfinite().all()
            ]
            raise PhysteerError(f"{window} of {self.path}: {', '.join(broken)} has values that are not finite")
        times = file["dimensions"]["time"]
        times = times[window.trajectory] if times.attrs["sample_varying"] else times[:]
        stop = window.start + window.stride * n_frames
        return Sample(
            fields=fields,
            window=window,
            parameters={
                name: float(np.ravel(values)[window.trajectory if np.size(values) > 1 else 0])
                for name, values in self.parameters[number].items()
            },
            times=torch.as_tensor(times[window.start : stop : window.stride]),
        )

    def close(self) -> None:
        """Close this process's HDF5 files; a later read opens them again."""
        self._handles.close()

    def __enter__(self) -> WindowDataset:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _all_windows(self) -> Iterator[Window]:
        for number, name in enumerate(self.files):
            stored = range(self.well.n_trajectories_per_file[number])
            chosen = stored if self.spec.trajectories is None else [t for t in self.spec.trajectories if t in stored]
            for trajectory, stride in itertools.product(chosen, self.spec.strides):
                for start in self.spec.starts(self.well.n_steps_per_trajectory[number], stride):
                    yield Window(name, trajectory, start, stride)

    def _read_grid(self) -> Grid:
        file = self._handles[0]
        dimensions = file["dimensions"]
        axes = tuple(str(axis) for axis in dimensions.attrs["spatial_dims"])
        coordinates = [torch.as_tensor(dimensions[axis][:]).reshape(-1)[-dimensions[axis].shape[-1] :] for axis in axes]
        codes = self.well._padding_bcs(file, {}, 0, 0, 1, 1).int().tolist()
        absent = 3 - len(axes)
        boundaries = tuple(tuple(ends) for ends in codes) + ((2, 2),) * absent
        padded = tuple(coordinates) + (torch.zeros(1),) * absent
        return Grid(padded, boundaries, axes, str(file.attrs["grid_type"]))  # type: ignore[arg-type]


def _open_well(
    path: str,
    spec: WindowSpec,
    include: Sequence[str],
    exclude: Sequence[str],
    storage_options: Mapping[str, Any] | None,
) -> WellDataset:
    """Let ``the_well`` index a folder, with its assertions turned into errors that name the folder or the file."""
    options = dict(storage_options or {})
    fs, root = fsspec.url_to_fs(path, **options)
    found = sorted(fs.glob(f"{root}/*.h5") + fs.glob(f"{root}/*.hdf5"))
    if not found:
        raise PhysteerError(f"no HDF5 files in {path}{_siblings(fs, root)}")
    kept = [f for f in found if not include or any(part in f for part in include)]
    kept = [f for f in kept if not any(part in f for part in exclude)]
    if not kept:
        raise PhysteerError(
            f"the filters leave none of the {len(found)} files in {path}, such as {PurePosixPath(found[0]).name}: "
            f"include {list(include)}, exclude {list(exclude)}"
        )
    try:
        return WellDataset(
            path=path,
            include_filters=list(include),
            exclude_filters=list(exclude),
            n_steps_input=1,  # the windows are ours; the_well only needs one frame to be there
            n_steps_output=0,
            return_grid=False,
            storage_options=options,
        )
    except AssertionError as error:
        raise PhysteerError(f"{path}: {error}") from error
    except (OSError, KeyError) as error:
        raise PhysteerError(f"{_first_broken(fs, kept)} is not a readable Well file: {error}") from error


def _siblings(fs: fsspec.AbstractFileSystem, root: str) -> str:
    """Name the splits that do exist beside a missing one."""
    parent = str(PurePosixPath(root).parent)
    if not fs.isdir(parent):
        return f"; {parent} does not exist"
    splits = sorted(PurePosixPath(p).name for p in fs.ls(parent, detail=False) if fs.isdir(p))
    return f"; {parent} has {', '.join(splits) or 'no folders'}"


def _first_broken(fs: fsspec.AbstractFileSystem, paths: Sequence[str]) -> str:
    for path in paths:
        try:
            with fs.open(path, "rb") as stream, h5py.File(stream, "r") as file:
                _ = (
                    file.attrs["n_trajectories"],
                    file["dimensions"]["time"],
                    file["scalars"],
                    file["boundary_conditions"],
                )
        except (OSError, KeyError):
            return path
    return paths[0]
