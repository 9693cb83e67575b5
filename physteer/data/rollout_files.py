"""Rollouts as data: one trajectory per file, in The Well's layout, so that `WellDataset` reads a steered run too."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from physteer.data.batch import Batch, Channels, Grid
from physteer.data.well_format import Axis, Boundary, WellField, WellFile, WellWriter

_BOUNDARY: dict[int, Boundary] = {0: "wall", 1: "open", 2: "periodic"}


def write_rollout(
    path: Path, batch: Batch, row: int, frames: Tensor, attributes: Mapping[str, str | int | float]
) -> None:
    """Write one window's context and the frames that follow it; the file is whole or not there.

    Args:
        path: where to; ends in ``.hdf5``.
        batch: the batch the window came in.
        row: which window of the batch.
        frames: [T, C, H, W, D], the frames after the context, in the data set's units.
        attributes: root attributes beside the simulation's parameters; the window's address is added.

    Raises:
        PhysteerError: the file cannot be written.
    """
    window = batch.windows[row]
    content = WellFile(
        dataset_name=batch.origin.dataset,
        axes=_axes(batch.grid),
        times=batch.times[row, : batch.n_input + len(frames)].numpy(),
        n_trajectories=1,
        fields=_fields(batch.channels),
        parameters=batch.parameters_of(row),
        attributes={
            **attributes,
            "n_context": batch.n_input,
            "source_file": window.file,
            "source_trajectory": window.trajectory,
            "source_start": window.start,
            "source_stride": window.stride,
        },
        grid_type=batch.grid.kind,
    )
    with WellWriter(path, content) as writer:
        context = _stored(batch.context[row], batch.channels, batch.grid)
        predicted = _stored(frames, batch.channels, batch.grid)
        constant = {field.name for field in content.fields if not field.time_varying}
        for frame in range(len(content.times)):
            here, at = (context, frame) if frame < batch.n_input else (predicted, frame - batch.n_input)
            writer.write(
                {name: v[at] for name, v in here.items() if name not in constant}, trajectories=0, frames=frame
            )
        writer.write({name: context[name][0] for name in constant}, trajectories=0)


def _axes(grid: Grid) -> tuple[Axis, ...]:
    return tuple(
        Axis(name, coordinates.numpy(), (_BOUNDARY[low], _BOUNDARY[high]))
        for name, coordinates, (low, high) in zip(grid.axes, grid.coordinates, grid.boundaries, strict=False)
    )


def _fields(channels: Channels) -> tuple[WellField, ...]:
    """List the stored fields behind the channels; inflated components are left out."""
    fields = {}
    for source in channels.sources:
        if source.field is not None:
            name = _stored_name(source.field, source.name, source.transform)
            fields[name] = WellField(name, order=len(source.component), time_varying=source.evolving)
    return tuple(fields.values())


def _stored(fields: Tensor, channels: Channels, grid: Grid) -> dict[str, np.ndarray]:
    """Gather channels [T, C, H, W, D] as stored fields, each [T, *space, *components]."""
    ndim = len(grid.axes)
    space = grid.shape[:ndim]
    values = fields.detach().float().cpu().numpy().reshape(*fields.shape[:2], *space)
    stored: dict[str, np.ndarray] = {}
    for channel, source in enumerate(channels.sources):
        if source.field is not None:
            order = len(source.component)
            name = _stored_name(source.field, source.name, source.transform)
            array = stored.setdefault(name, np.empty((len(values), *space, *(ndim,) * order), dtype=np.float32))
            place: tuple[Any, ...] = (..., *source.component)
            array[place] = values[:, channel]
    return stored


def _stored_name(field: str, channel: str, transform: str) -> str:
    """A transformed field (log10, zeros) keeps the network's name: its values are no longer the stored field's."""
    return field if transform == "identity" else channel
