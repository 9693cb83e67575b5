"""Activations on disk, for analyses outside of a run."""

from __future__ import annotations

import itertools
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from physteer.analyses.engine import from_everyone, summed
from physteer.callbacks.base import forecast_module
from physteer.callbacks.observer import WindowObserver
from physteer.callbacks.windows import predict_dataset
from physteer.data.batch import Batch, Window
from physteer.data.dataset import WindowDataset
from physteer.data.matching import initial_conditions
from physteer.errors import PhysteerError
from physteer.files import reason, to_disk
from physteer.interventions import Site

if TYPE_CHECKING:
    import zarr

_CHUNK = 16 * 2**20  # bytes
_DIMENSIONS = ("window", "frame", "h", "w", "delta", "channel")
_LARGEST = {"float32": torch.finfo(torch.float32).max, "float16": torch.finfo(torch.float16).max}


class ActivationStore(WindowObserver):
    """Write the activations of every window as ``activations.zarr`` in the run folder.

    In ``predict``, of every window as it is stored. ``xarray.open_zarr`` reads it: one
    array per site, [window, frame, h, w, delta, channel], with the windows' addresses, parameters, initial conditions
    and times as coordinates; a dimension of which sites have different sizes is called after its size too
    (``channel_512``). Chunks hold one window, or part of one, and are at most 16 MiB, so processes write apart. The
    store is called ``activations.zarr.partial`` until it is whole.

    Args:
        sites: where, such as ``blocks.3``; ``physteer sites`` lists them, with the memory that each takes.
        dtype: ``float16`` takes half the space; an activation beyond its range (65504) is refused.
    """

    def __init__(self, sites: list[str], dtype: Literal["float32", "float16"] = "float32") -> None:
        super().__init__(sites, all_frames=True)
        if dtype not in _LARGEST:
            raise PhysteerError(f"ActivationStore.dtype must be one of {', '.join(_LARGEST)}; found {dtype!r}")
        self.dtype = dtype
        self._positions: dict[Window, int] = {}
        self._arrays: dict[Site, zarr.Array[Any]] = {}
        self._written = torch.empty(0)
        self._not_on_disk: list[int] = []
        self._times = torch.empty(0)
        self._earlier: list[Mapping[str, Tensor]] = []

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Make the arrays, or open those of an earlier start of this run."""
        super().on_predict_start(trainer, pl_module)
        dataset, problem = predict_dataset(trainer), ""
        if trainer.is_global_zero:
            try:
                self._create(trainer, forecast_module(pl_module, "ActivationStore").forecaster.identity, dataset)
            except PhysteerError as error:
                problem = str(error)
        problem = from_everyone(problem)[0]  # the others open the arrays once they are there
        if problem:
            raise PhysteerError(problem)
        import zarr  # here, because it takes as long to import as all the rest of physteer's command line

        group = zarr.open_group(_partial(trainer), mode="r+", zarr_format=2)
        self._arrays = {site: group[str(site)] for site in self.sites}  # type: ignore[misc]
        self._positions = {window: position for position, window in enumerate(dataset.windows)}
        self._written = torch.zeros(len(dataset), dtype=torch.long)
        self._times = torch.zeros(len(dataset), dataset.spec.n_input, dtype=torch.float64)
        self._earlier, self._not_on_disk = [], []

    def look_at(self, site: Site, h: Tensor, batch: Batch) -> None:
        """Write a batch's windows."""
        peaks = h.abs().amax(dim=(1, 2, 3, 4, 5)).tolist()
        for window, peak in zip(batch.windows, peaks, strict=True):
            if not math.isfinite(peak):
                raise PhysteerError(f"the activation at {site} for {window} is not finite")
            if peak > _LARGEST[self.dtype]:
                raise PhysteerError(
                    f"the activation at {site} for {window} reaches {peak:.3g}, and {self.dtype} ends at "
                    f"{_LARGEST[self.dtype]:g}; use dtype: float32"
                )
        values = h.detach().to("cpu", getattr(torch, self.dtype)).numpy()
        for row, window in enumerate(batch.windows):
            with _told(self._arrays[site].store_path):
                self._arrays[site][self._positions[window]] = values[row]
        rows = [self._positions[window] for window in batch.windows]
        self._times[rows] = batch.times[:, : batch.n_input].double()
        if site == self.sites[-1]:
            self._written[rows] = 1
            self._not_on_disk += rows

    def keep(self, trainer: L.Trainer) -> Mapping[str, Tensor]:
        """Return which windows were written, and their times; their chunks are on the disk then."""
        for site, array in self._arrays.items():
            with _told(array.store_path):
                _chunks_to_disk(_partial(trainer) / str(site), array, self._not_on_disk)
        self._not_on_disk = []
        return {"written": self._written, "times": self._times}

    def restore(self, trainer: L.Trainer, parts: Sequence[Mapping[str, Tensor]]) -> None:
        """Take which windows earlier starts have written."""
        self._earlier = list(parts)

    def on_predict_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Add the coordinates and give the store its name."""
        state = self.keep(trainer)
        for part in self._earlier:
            state = {name: value + part[name] for name, value in state.items()}
        written, times = (summed(state[name], pl_module.device) for name in ("written", "times"))
        if trainer.is_global_zero:
            missing = int((written == 0).sum())
            if missing:
                rank_zero_warn(
                    f"{missing} of {len(written)} windows were not predicted, and are NaN in activations.zarr"
                )
            dataset = predict_dataset(trainer)
            partial, path = _partial(trainer), Path(trainer.default_root_dir) / "activations.zarr"
            with _told(partial):
                _write_coordinates(partial, dataset, times)
                shutil.rmtree(path, ignore_errors=True)
                os.replace(partial, path)

    def _create(self, trainer: L.Trainer, model: str, dataset: WindowDataset) -> None:
        import zarr

        described = {
            "model": model,
            "data": dataset.metadata.path,
            "dataset": dataset.metadata.dataset,
            "dtype": self.dtype,
            "sites": [str(site) for site in self.sites],
            "windows": [str(window) for window in dataset.windows],
        }
        partial, path = _partial(trainer), Path(trainer.default_root_dir) / "activations.zarr"
        with _told(partial):
            for earlier in (partial, path):
                if earlier.is_dir() and dict(zarr.open_group(earlier, mode="r", zarr_format=2).attrs) == described:
                    os.replace(earlier, partial)  # its windows are these: they are written again, or were finished
                    return
            shutil.rmtree(partial, ignore_errors=True)
            group = zarr.create_group(partial, zarr_format=2, attributes=described)  # 2: what every xarray reads
            for site, dimensions in _dimensions(self.shapes).items():
                shape = self.shapes[site][1:]
                group.create_array(
                    str(site),
                    shape=(len(dataset), *shape),
                    chunks=_chunk(shape, np.dtype(self.dtype).itemsize),
                    dtype=self.dtype,
                    fill_value=np.nan,
                    attributes={
                        "_ARRAY_DIMENSIONS": list(dimensions),
                        "long_name": f"activation at {site}",
                        "units": "1",
                    },
                )


def _partial(trainer: L.Trainer) -> Path:
    return Path(trainer.default_root_dir) / "activations.zarr.partial"


def _dimensions(shapes: Mapping[Site, torch.Size]) -> dict[Site, tuple[str, ...]]:
    """Name the dimensions of each site's array; in one data set, a name has one size."""
    sizes = [{shape[axis] for shape in shapes.values()} for axis in range(len(_DIMENSIONS))]
    return {
        site: tuple(
            name if len(found) == 1 else f"{name}_{size}"
            for name, found, size in zip(_DIMENSIONS, sizes, shape, strict=True)
        )
        for site, shape in shapes.items()
    }


def _chunk(shape: Sequence[int], itemsize: int) -> tuple[int, ...]:
    """Return the chunk of one window's activation [T, h, w, δ, d]: whole frames, or rows of tokens of one frame."""
    frames, rows, *rest = shape
    row = math.prod(rest) * itemsize
    if row * rows <= _CHUNK:
        return (1, min(frames, _CHUNK // (row * rows)), rows, *rest)
    return (1, 1, max(1, _CHUNK // row), *rest)


def _chunks_to_disk(folder: Path, array: zarr.Array[Any], positions: Sequence[int]) -> None:
    """Wait until some windows' chunks are on the disk; zarr leaves them to the system."""
    for position in positions:
        for place in itertools.product(*map(range, array.cdata_shape[1:])):
            to_disk(folder / array.metadata.encode_chunk_key((position, *place)))
    if positions:
        to_disk(folder)


def _write_coordinates(path: Path, dataset: WindowDataset, times: Tensor) -> None:
    """Add what is known of the windows, and the metadata in one piece, which xarray looks for."""
    import zarr

    windows = dataset.windows
    matched = initial_conditions(dataset)
    coordinates: dict[str, tuple[list[str], Any]] = {
        "address": (["window"], np.array([str(window) for window in windows])),
        "file": (["window"], np.array([window.file for window in windows])),
        **{
            name: (["window"], np.array([getattr(window, name) for window in windows]))
            for name in ("trajectory", "start", "stride")
        },
        "initial_condition": (["window"], np.array([matched.name(window) for window in windows])),
        "time": (["window", "frame"], times.numpy()),
    }
    for name in dataset.parameters_of(windows[0]):
        values = np.array([dataset.parameters_of(window)[name] for window in windows])
        coordinates[name] = (["window"], values)
    group = zarr.open_group(path, mode="r+", zarr_format=2)
    for name, (dimensions, values) in coordinates.items():
        array = group.create_array(name, data=values, fill_value=None, overwrite=True)  # else xarray takes 0 for none
        array.attrs["_ARRAY_DIMENSIONS"] = dimensions
    for site in group.attrs["sites"]:  # type: ignore[union-attr]
        group[str(site)].attrs["coordinates"] = " ".join(coordinates)
    zarr.consolidate_metadata(path, zarr_format=2)


@contextmanager
def _told(path: object) -> Iterator[None]:
    """Tell in one line what cannot be written."""
    try:
        yield
    except OSError as error:
        raise PhysteerError(f"cannot write {path}: {reason(error)}") from error
