"""Finds the files of a data set, and what is known of them without reading fields."""

from __future__ import annotations

import os
import posixpath
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import fsspec
import numpy as np
from the_well.data.datasets import WellMetadata

from physteer.data.file_record import FileRecord, record_of
from physteer.data.index_cache import IndexCache, Version
from physteer.data.open_files import OpenFiles
from physteer.errors import PhysteerError
from physteer.files import reason


class EmptySplitError(PhysteerError):
    """A split has none of the selected files, trajectories or windows."""


@dataclass(frozen=True, eq=False)
class WellIndex:
    """The files of a split."""

    fs: fsspec.AbstractFileSystem
    paths: tuple[str, ...]
    """In the file system's own form."""
    records: tuple[FileRecord, ...]
    """Of each file; data set, axes and resolution are the same in all."""

    @property
    def metadata(self) -> WellMetadata:
        """The data set as ``the_well`` describes it; fields and scalars are those of the first file."""
        first = self.records[0]
        return WellMetadata(
            dataset_name=first.dataset_name,
            n_spatial_dims=len(first.axes),
            grid_type=first.grid_type,
            spatial_resolution=first.shape,
            scalar_names=[name for name, varies in first.scalars.items() if varies],
            constant_scalar_names=[name for name, varies in first.scalars.items() if not varies],
            field_names={order: first.names(order, evolving=True) for order in range(3)},
            constant_field_names={order: first.names(order, evolving=False) for order in range(3)},
            boundary_condition_types=sorted({kind for record in self.records for kind in record.boundary_types}),
            n_files=len(self.records),
            n_trajectories_per_file=[record.n_trajectories for record in self.records],
            n_steps_per_trajectory=[record.n_steps for record in self.records],
        )


def open_well(
    path: str,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    storage_options: Mapping[str, Any] | None = None,
) -> WellIndex:
    """Index the HDF5 files of one folder.

    Every file is opened once; for a folder of many local files the result is kept (`IndexCache`).

    Args:
        path: the folder, local or any fsspec address; never a pattern.
        include: keep only files whose name contains one of these.
        exclude: leave out files whose name contains one of these.
        storage_options: passed to fsspec.

    Raises:
        EmptySplitError: No such folder, or no file left by the filters.
        PhysteerError: A broken file, a file that does not hold what its attributes say, or files of different data
            sets.
    """
    options = dict(storage_options or {})
    try:
        fs, root = fsspec.url_to_fs(path, **options)
        entries = _entries(fs, root)
        beside = "" if entries else _beside(fs, root)
    except Exception as error:  # every file system has errors of its own: no network, no login, an unknown protocol
        raise PhysteerError(f"cannot list {path}: {type(error).__name__}: {reason(error)}") from error
    if not entries:
        raise EmptySplitError(f"no HDF5 files in {path}{beside}")
    kept = _filtered(sorted(entries), path, include, exclude)
    records = _records(OpenFiles(kept, path, options), {file: entries[file] for file in kept}, root)
    _check_alike(path, kept, records)
    return WellIndex(fs, tuple(kept), tuple(records))


def _entries(fs: fsspec.AbstractFileSystem, root: str) -> dict[str, Version | None]:
    """Return the HDF5 files of a folder with their versions, None where the file system does not tell."""
    try:
        listed = fs.ls(root, detail=True)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    local = "file" in np.atleast_1d(fs.protocol)
    return {
        entry["name"]: _version(entry["name"]) if local else None
        for entry in listed
        if entry["type"] != "directory"
        and entry["name"].endswith((".h5", ".hdf5"))
        and not PurePosixPath(entry["name"]).name.startswith(".")
    }


def _version(path: str) -> Version:
    status = os.stat(path)  # of what a link points to
    return status.st_size, status.st_mtime_ns


def _records(files: OpenFiles, versions: Mapping[str, Version | None], root: str) -> list[FileRecord]:
    """Return the record of every file, from the cache where it has not changed."""
    known = {PurePosixPath(path).name: version for path, version in versions.items() if version is not None}
    cache = IndexCache(root)
    stored = cache.load(known)
    records: list[FileRecord] = []
    try:
        for number, path in enumerate(files.paths):
            name = PurePosixPath(path).name
            if name in stored:
                records.append(stored[name])
                continue
            with files.reading(number) as opened:
                records.append(record_of(opened))
    finally:
        files.close()
    names = [PurePosixPath(path).name for path in files.paths]
    if set(names) - set(stored) and len(known) == len(names):
        cache.store(known, dict(zip(names, records, strict=True)))
    return records


def _check_alike(path: str, files: Sequence[str], records: Sequence[FileRecord]) -> None:
    """Check that files are of one data set, and say which boundaries are not followed exactly."""
    first, name = records[0], PurePosixPath(files[0]).name
    for file, record in zip(files, records, strict=True):
        for what, own, others in (
            ("data sets", record.dataset_name, first.dataset_name),
            ("axes", ", ".join(record.axes), ", ".join(first.axes)),
            ("resolutions", list(record.shape), list(first.shape)),
            ("fields", ", ".join(sorted(record.fields)), ", ".join(sorted(first.fields))),
        ):
            if own != others:
                raise PhysteerError(
                    f"{path} has files of different {what}: {PurePosixPath(file).name} is of {own}, {name} of "
                    f"{others}; choose files of one kind with include or exclude"
                )
    partial = sorted({boundary for record in records for boundary in record.partial_boundaries})
    if partial:
        warnings.warn(
            f"{path}: the boundary {partial[0]} is not one whole side of the grid; a side counts as periodic or open "
            "if a part of it is, and as a wall if all of it is",
            stacklevel=4,
        )


def _filtered(files: Sequence[str], path: str, include: Sequence[str], exclude: Sequence[str]) -> list[str]:
    names = {file: PurePosixPath(file).name for file in files}
    kept = [f for f, name in names.items() if not include or any(part in name for part in include)]
    kept = [f for f in kept if not any(part in names[f] for part in exclude)]
    if not kept:
        raise EmptySplitError(
            f"the filters leave none of the {len(files)} files in {path}, such as {names[files[0]]}: "
            f"include {list(include)}, exclude {list(exclude)}"
        )
    stem, count = Counter(PurePosixPath(file).stem for file in kept).most_common(1)[0]
    if count > 1:
        raise PhysteerError(f"{path} has both {stem}.h5 and {stem}.hdf5; exclude one")
    return kept


def _beside(fs: fsspec.AbstractFileSystem, root: str) -> str:
    """Return a note with the folders, such as splits, beside a missing one."""
    parent = posixpath.dirname(root.rstrip("/")) or "/"
    if not fs.isdir(parent):
        return f"; {parent} does not exist"
    folders = sorted(PurePosixPath(entry).name for entry in fs.ls(parent, detail=False) if fs.isdir(entry))
    return f"; {parent} has {', '.join(folders) or 'no folders'}"
