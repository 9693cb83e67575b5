"""Finds the files of a data set and indexes them with ``the_well``, with clear errors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import fsspec
import h5py
from the_well.data import WellDataset

from physteer.errors import PhysteerError
from physteer.files import reason


class EmptySplitError(PhysteerError):
    """A split has none of the selected files, trajectories or windows."""


def open_well(
    path: str,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    storage_options: Mapping[str, Any] | None = None,
) -> WellDataset:
    """Index the HDF5 files of one folder.

    Args:
        path: the folder, local or any fsspec address.
        include: keep only files whose name contains one of these.
        exclude: leave out files whose name contains one of these.
        storage_options: passed to fsspec.

    Raises:
        EmptySplitError: No such folder, or no file left by the filters.
        PhysteerError: A broken file, or files of different data sets.
    """
    options = dict(storage_options or {})
    try:
        fs, root = fsspec.url_to_fs(path, **options)
        files = sorted(fs.glob(f"{root}/*.h5") + fs.glob(f"{root}/*.hdf5"))
        files = [file for file in files if not PurePosixPath(file).name.startswith(".")]
        beside = "" if files else _beside(fs, root)
    except Exception as error:  # every file system has errors of its own: no network, no login, an unknown protocol
        raise PhysteerError(f"cannot list {path}: {type(error).__name__}: {reason(error)}") from error
    if not files:
        raise EmptySplitError(f"no HDF5 files in {path}{beside}")
    kept = _filtered(files, path, include, exclude)
    try:
        # Whole paths as filters: the_well also matches folders, and lists a file twice that contains two filters.
        # One frame per sample: `WindowDataset` makes the windows itself.
        return WellDataset(
            path=path,
            include_filters=kept,
            n_steps_input=1,
            n_steps_output=0,
            return_grid=False,
            storage_options=options,
        )
    except AssertionError as error:
        raise PhysteerError(f"{path}: {error}") from error
    except Exception as error:
        raise PhysteerError(f"{_first_broken(fs, kept)} is not a readable Well file: {reason(error)}") from error


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
    parent = root.rstrip("/").rpartition("/")[0] or "/"
    if not fs.isdir(parent):
        return f"; {parent} does not exist"
    folders = sorted(PurePosixPath(entry).name for entry in fs.ls(parent, detail=False) if fs.isdir(entry))
    return f"; {parent} has {', '.join(folders) or 'no folders'}"


def _first_broken(fs: fsspec.AbstractFileSystem, paths: Sequence[str]) -> str:
    """Return the first file that lacks something ``the_well`` needs for its index; its errors do not name the file."""
    for path in paths:
        try:
            with fs.open(path, "rb") as stream, h5py.File(stream, "r") as file:
                for name in ("dataset_name", "grid_type", "n_spatial_dims", "n_trajectories"):
                    file.attrs[name]
                for axis in ("time", *file["dimensions"].attrs["spatial_dims"]):
                    file["dimensions"][axis]
                for group in ("scalars", "t0_fields", "t1_fields", "t2_fields"):
                    file[group].attrs["field_names"]
                for entry in file["boundary_conditions"].values():
                    entry.attrs["bc_type"]
        except Exception:
            return path
    return paths[0]
