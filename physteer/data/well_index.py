"""Finding the files of a data set and indexing them with ``the_well``, with errors a user can act on."""

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
    """A split has no file, trajectory or window of those that were asked for."""


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
        EmptySplitError: no such folder, or no file left by the filters.
        PhysteerError: a broken file, or files that do not belong together.
    """
    options = dict(storage_options or {})
    try:
        fs, root = fsspec.url_to_fs(path, **options)
        found = sorted(fs.glob(f"{root}/*.h5") + fs.glob(f"{root}/*.hdf5"))
        found = [file for file in found if not PurePosixPath(file).name.startswith(".")]
        beside = "" if found else _beside(fs, root)
    except Exception as error:  # every file system has errors of its own: no network, no login, an unknown protocol
        raise PhysteerError(f"cannot list {path}: {type(error).__name__}: {reason(error)}") from error
    if not found:
        raise EmptySplitError(f"no HDF5 files in {path}{beside}")
    kept = _filtered(found, path, include, exclude)
    try:
        # Whole paths as filters: the_well would match folders too, and list a file twice that contains two of ours.
        # One frame per sample: the windows are ours, the_well need only find a frame.
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


def _filtered(found: Sequence[str], path: str, include: Sequence[str], exclude: Sequence[str]) -> list[str]:
    names = {file: PurePosixPath(file).name for file in found}
    kept = [f for f, name in names.items() if not include or any(part in name for part in include)]
    kept = [f for f in kept if not any(part in names[f] for part in exclude)]
    if not kept:
        raise EmptySplitError(
            f"the filters leave none of the {len(found)} files in {path}, such as {names[found[0]]}: "
            f"include {list(include)}, exclude {list(exclude)}"
        )
    stem, count = Counter(PurePosixPath(file).stem for file in kept).most_common(1)[0]
    if count > 1:
        raise PhysteerError(f"{path} has both {stem}.h5 and {stem}.hdf5; exclude one")
    return kept


def _beside(fs: fsspec.AbstractFileSystem, root: str) -> str:
    """Name the folders, such as splits, that do exist beside a missing one."""
    parent = root.rstrip("/").rpartition("/")[0] or "/"
    if not fs.isdir(parent):
        return f"; {parent} does not exist"
    folders = sorted(PurePosixPath(one).name for one in fs.ls(parent, detail=False) if fs.isdir(one))
    return f"; {parent} has {', '.join(folders) or 'no folders'}"


def _first_broken(fs: fsspec.AbstractFileSystem, paths: Sequence[str]) -> str:
    """Return the first file that lacks something ``the_well`` needs for its index: it does not say which it was."""
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
