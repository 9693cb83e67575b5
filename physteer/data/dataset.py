"""Windows of a Well-format data set, addressed by (file, trajectory, start, stride)."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from physteer.data.batch import Boundaries, Channels, Grid, Sample, SplitMetadata, Window, common_grid
from physteer.data.fields import channel_sources
from physteer.data.file_record import FileRecord
from physteer.data.fingerprint import fingerprint, modification
from physteer.data.finite import Filled, Frames, NonFinite, refused
from physteer.data.hub_cache import cached_where_unreachable
from physteer.data.open_files import OpenFiles, text
from physteer.data.well_index import EmptySplitError, open_well
from physteer.errors import PhysteerError, did_you_mean
from physteer.metrics.geometry import same_positions


@dataclass(frozen=True)
class WindowSpec:
    """The windows of each trajectory in a data set; trajectories that are too short have none."""

    n_input: int
    """Frames of context."""
    n_output: int
    """Frames that follow the context."""
    strides: tuple[int, ...] = (1,)
    """Stored frames from one frame of a window to the next; every stride gives separate windows."""
    first: int = 0
    """Index of the earliest start."""
    every: int | None = 1
    """Frames between starts; None for one window per trajectory."""
    trajectories: tuple[int, ...] | None = None
    """Indices of the trajectories to use in every file; None for all."""
    share: tuple[float, float] = (0.0, 1.0)
    """Use trajectories from the first to the second fraction of the largest number of trajectories in a file. A
    trajectory index is therefore inside or outside in all files."""

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

    def chosen(self, n_most: int) -> list[int]:
        """Return the trajectories to use.

        Args:
            n_most: largest number of trajectories in a file.

        Raises:
            EmptySplitError: A selected trajectory is in no file, or none is left.
        """
        asked = range(n_most) if self.trajectories is None else sorted(set(self.trajectories))
        absent = [t for t in asked if t not in range(n_most)]
        if absent:
            raise EmptySplitError(f"there is no trajectory {absent[0]}; files have up to {n_most}, counted from 0")
        inside = range(*(round(n_most * fraction) for fraction in self.share))
        chosen = [t for t in asked if t in inside]
        if not chosen:
            raise EmptySplitError(
                f"no trajectory is left: those from {self.share[0]:.0%} to {self.share[1]:.0%} of {n_most} are "
                f"{list(inside)}, asked for are {list(asked)}"
            )
        return chosen


class WindowDataset(Dataset[Sample]):
    """Windows of the HDF5 files in one folder, which ``the_well`` indexes.

    Fields are in the order of the network's input: scalars, then vector and tensor components, then constant fields.
    Two-dimensional Cartesian data are inflated to three components (the new ones 0) and three axes (one of one cell).
    Values equal those of ``the_well.data.WellDataset``; files stay open between samples.

    Args:
        path: the folder of one split, local or any fsspec address (``hf://…``, ``memory://…``).
        spec: which windows to yield.
        include: use only files whose name contains one of these.
        exclude: leave out files whose name contains one of these.
        fields: stored name → vocabulary name, where they differ (`physteer.data.fields.channel_sources`).
        storage_options: passed to fsspec.
        non_finite: what is done about values that are not finite (`physteer.data.finite`).

    Raises:
        EmptySplitError: No such folder, no file left by the filters, no such trajectory, or trajectories that are too
            short.
        PhysteerError: A broken file, or files of different data sets.
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
        non_finite: NonFinite = refused,
    ) -> None:
        self.path, self.spec, self._non_finite = path, spec, non_finite
        location = cached_where_unreachable(path, storage_options or {})
        self.well = open_well(location, include, exclude, storage_options)
        self.files = [PurePosixPath(p).stem for p in self.well.paths]
        self._numbers = {name: number for number, name in enumerate(self.files)}
        self._fingerprints: dict[str, str] = {}
        self._versions: dict[str, str] = {}
        self._open_files = OpenFiles(self.well.paths, location, storage_options or {})
        grid, self.parameters = self._grid_and_parameters()
        channels = Channels(tuple(channel_sources(self.well.metadata, grid.axes, fields or {})))
        self.metadata = SplitMetadata(self.well.records[0].dataset_name, path, channels, grid)
        self.windows = self._fitting_windows()

    def with_spec(self, spec: WindowSpec) -> WindowDataset:
        """Return other windows of the same files; both data sets share the open files.

        Raises:
            EmptySplitError: No such trajectory, or trajectories that are too short.
        """
        other = copy.copy(self)
        other.spec = spec
        other.windows = other._fitting_windows()
        return other

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> Sample:
        return self.read(self.windows[index])

    def read(self, window: Window, n_frames: int | None = None) -> Sample:
        """Read one window.

        Args:
            window: its address; it need not be one of `windows`.
            n_frames: number of frames; None for that of the specification.

        Raises:
            PhysteerError: No such file, trajectory or frames, a broken file, or values that are not finite.
        """
        n_frames = self.spec.n_frames if n_frames is None else n_frames
        number = self._number(window, n_frames)
        stored = range(window.start, window.start + window.stride * n_frames, window.stride)
        fields, times = self._stored(number, window.trajectory, stored)
        self._non_finite(
            Frames(
                fields,
                self.metadata.channels.names,
                self.well.paths[number],
                window.trajectory,
                stored,
                first=lambda: self._stored(number, window.trajectory, range(1))[0],
            )
        )
        return Sample(
            fields=torch.from_numpy(fields).reshape(*fields.shape[:2], *self.metadata.grid.shape),  # [T, C, H, W, D]
            window=window,
            parameters=self.parameters_of(window),
            times=times,
        )

    def _stored(self, number: int, trajectory: int, stored: range) -> tuple[NDArray[np.float32], Tensor]:
        """Read frames [T, C, *space] of a file, and their times [T]."""
        sources = self.metadata.channels.sources
        frames = slice(stored[0], stored[-1] + 1, stored.step)
        # numpy: torch would start its threads for every small copy
        fields = np.empty((len(stored), len(sources), *self.well.records[0].shape), np.float32)
        with self._open_files.reading(number) as file:
            wanted = {source.field for source in sources if source.field and source.transform != "zeros"}
            values = {name: file.read(name, trajectory, frames) for name in wanted}
            times = torch.from_numpy(file.times(trajectory)[frames])
            for channel, source in enumerate(sources):
                source.fill(fields[:, channel], values)
        return fields, times

    def parameters_of(self, window: Window) -> dict[str, float]:
        """Return the parameters of a window's simulation; they were read when the data set was opened."""
        stored = self.parameters[self._number(window)]
        return {name: float(v[window.trajectory] if v.ndim else v) for name, v in stored.items()}

    def attribute(self, file: str, name: str) -> str | None:
        """Return a root attribute of a file as text, or None."""
        with self._open_files.reading(self._numbers[file]) as opened:
            value = opened.file.attrs.get(name)
            return None if value is None else text(value)

    def fingerprint(self, file: str) -> str:
        """Return 16 hexadecimal digits of a file's content (`physteer.data.fingerprint`); each file is read once."""
        if file not in self._fingerprints:
            self._fingerprints[file] = fingerprint(self.well.fs, self.well.paths[self._numbers[file]])
        return self._fingerprints[file]

    def version(self, file: str) -> str:
        """Return what tells a file's values from others: fingerprint, time of modification, and what is filled in."""
        if file not in self._versions:
            changed = modification(self.well.fs, self.well.paths[self._numbers[file]])
            filled = f" fill {self._non_finite.value}" if isinstance(self._non_finite, Filled) else ""
            self._versions[file] = f"{self.fingerprint(file)} {changed}{filled}"
        return self._versions[file]

    def close(self) -> None:
        """Close this process's HDF5 files; a later read opens them again."""
        self._open_files.close()

    def __enter__(self) -> WindowDataset:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _number(self, window: Window, n_frames: int = 1) -> int:
        """Return the index of a window's file; checks that the file has all its frames."""
        if window.file not in self._numbers:
            raise PhysteerError(f"no file {window.file!r} in {self.path}{did_you_mean(window.file, self.files)}")
        number = self._numbers[window.file]
        record = self.well.records[number]
        trajectories, stored = record.n_trajectories, record.n_steps
        last = window.start + window.stride * (n_frames - 1)
        if window.trajectory not in range(trajectories) or window.stride < 1 or not 0 <= window.start <= last < stored:
            raise PhysteerError(
                f"{window} has no frames {window.start} to {last}: the file has {trajectories} trajectories of "
                f"{stored} frames"
            )
        return number

    def _fitting_windows(self) -> list[Window]:
        spec = self.spec
        per_file = [record.n_trajectories for record in self.well.records]
        stored = [record.n_steps for record in self.well.records]
        chosen = spec.chosen(max(per_file))
        windows = [
            Window(name, trajectory, start, stride)
            for name, n_trajectories, n_stored in zip(self.files, per_file, stored, strict=True)
            for trajectory, stride in itertools.product(chosen, spec.strides)
            if trajectory < n_trajectories
            for start in spec.starts(n_stored, stride)
        ]
        if not windows:
            raise EmptySplitError(
                f"no window fits {self.path}: one needs {spec.n_input} + {spec.n_output} frames, {min(spec.strides)} "
                f"apart, from frame {spec.first}; trajectories have up to {max(stored)} frames"
            )
        return windows

    def _grid_and_parameters(self) -> tuple[Grid, list[dict[str, NDArray[np.float64]]]]:
        """Return the common grid of all files, and the parameters of each."""
        grids = [_grid(name, record) for name, record in zip(self.files, self.well.records, strict=True)]
        first = grids[0]
        for name, grid in zip(self.files, grids, strict=True):
            if (grid.axes, grid.boundaries) != (first.axes, first.boundaries):
                raise PhysteerError(
                    f"{self.path}: {name} has boundaries {grid.boundaries} on {grid.axes}, {self.files[0]} has "
                    f"{first.boundaries} on {first.axes}; choose files of one kind with include or exclude"
                )
        # a batch holds windows of several files, so it has the parameters that all of them have
        parameters = [record.parameters for record in self.well.records]
        common = [name for name in parameters[0] if all(name in by_name for by_name in parameters)]
        return common_grid(grids, self.files), [{name: by_name[name] for name in common} for by_name in parameters]


def _grid(name: str, record: FileRecord) -> Grid:
    """Return a file's grid, with axes of one cell, which count as periodic, up to three."""
    absent = 3 - len(record.axes)
    boundaries: Boundaries = (*record.boundaries, *((2, 2),) * absent)  # type: ignore[assignment]
    positions = [torch.from_numpy(along) for along in record.coordinates.values()]  # [1 or trajectories, n]
    same = all(same_positions(along[0], other) for along in positions for other in along[1:])
    own = f"{name}: its trajectories have different coordinates: give those of each grid a file of their own"
    coordinates = (*(along[0] for along in positions), *(torch.zeros(1),) * absent)
    return Grid(coordinates, boundaries, record.axes, record.grid_type, "" if same else own)  # type: ignore[arg-type]
