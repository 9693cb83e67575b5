"""Rollouts as data: one trajectory per file, in The Well's layout, so that `WellDataset` reads a steered run too."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from physteer.data.batch import Batch, Channels, Grid, SplitMetadata
from physteer.data.fields import ChannelSource
from physteer.data.well_format import Axis, Boundary, WellField, WellFile, WellWriter
from physteer.errors import PhysteerError
from physteer.files import atomic_write

_BOUNDARY: dict[int, Boundary] = {0: "wall", 1: "open", 2: "periodic"}


def write_rollout(
    path: Path,
    batch: Batch,
    row: int,
    frames: Tensor,
    attributes: Mapping[str, str | int | float],
    context: Tensor | None = None,
) -> None:
    """Write one window's context and the frames that follow it, atomically.

    Args:
        path: of the file; ends in ``.hdf5``.
        batch: with the window.
        row: of the window in the batch.
        frames: [T, C, H, W, D], the frames after the context, in the data set's units.
        attributes: root attributes besides the simulation's parameters; the window's address is added.
        context: [T, C, H, W, D], the model's input; None for the window's own context.

    Raises:
        PhysteerError: The file cannot be written, the frames have another shape, or the windows of the data set have
            different coordinates.
    """
    _check(batch, frames)
    check_coordinates(batch.metadata)
    window = batch.windows[row]
    content = WellFile(
        dataset_name=batch.metadata.dataset,
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
    start = batch.context[row] if context is None else context
    all_frames = torch.cat([part.detach().float().cpu() for part in (start, frames)])  # [T, C, H, W, D]
    values = _stored(all_frames, batch.channels, batch.grid)
    with WellWriter(path, content) as writer:
        writer.write(
            {field.name: values[field.name][... if field.time_varying else 0] for field in content.fields},
            trajectories=0,
        )


def check_coordinates(metadata: SplitMetadata) -> None:
    """Check that the coordinates of a data set, which are written to files, are those of all windows.

    Raises:
        PhysteerError: They are not.
    """
    if metadata.grid.mixed:
        raise PhysteerError(f"rollouts of {metadata.path} cannot be written: {metadata.grid.mixed}")


def write_array(
    path: Path, batch: Batch, row: int, frames: Tensor, attributes: Mapping[str, str | int | float]
) -> None:
    """Write one window's predicted frames as a NumPy file, and their description as a JSON file beside it.

    Args:
        path: of the file; ends in ``.npy``.
        batch: with the window.
        row: of the window in the batch.
        frames: [T, C, H, W, D], in the data set's units.
        attributes: added to the description, besides channels, axes, times and the simulation's parameters.

    Raises:
        PhysteerError: A file cannot be written, or the frames have another shape.
    """
    _check(batch, frames)
    times = batch.times[row, batch.n_input : batch.n_input + len(frames)]
    description = {
        **attributes,
        "window": str(batch.windows[row]),
        "parameters": batch.parameters_of(row),
        "dimensions": ["time", "channel", *batch.grid.axes, *("absent",) * (3 - len(batch.grid.axes))],
        "channels": list(batch.channels.names),
        "units": f"those of {batch.metadata.dataset}",
        "times": times.tolist(),
    }
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.save(file, frames.detach().float().cpu().numpy())
    with atomic_write(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(description, indent=1) + "\n")


def _check(batch: Batch, frames: Tensor) -> None:
    wanted, left = batch.fields.shape[2:], batch.fields.shape[1] - batch.n_input
    if frames.shape[1:] != wanted:
        raise PhysteerError(f"frames have shape {tuple(frames.shape)}; wanted [T, {', '.join(map(str, wanted))}]")
    if len(frames) > left:
        raise PhysteerError(f"there are {len(frames)} frames after the context; the window has times for {left}")


def _axes(grid: Grid) -> tuple[Axis, ...]:
    return tuple(
        Axis(name, coordinates.numpy(), (_BOUNDARY[low], _BOUNDARY[high]))
        for name, coordinates, (low, high) in zip(grid.axes, grid.coordinates, grid.boundaries, strict=False)
    )


def _fields(channels: Channels) -> tuple[WellField, ...]:
    """Return the stored fields of the channels, without inflated components."""
    fields = {}
    for source in channels.sources:
        if source.field is not None:
            name, component = _place(source, source.field)
            fields[name] = WellField(name, order=len(component), time_varying=source.evolving)
    return tuple(fields.values())


def _stored(values: Tensor, channels: Channels, grid: Grid) -> dict[str, NDArray[np.float32]]:
    """Return channels [T, C, H, W, D] as stored fields, each [T, *space, *components]."""
    ndim = len(grid.axes)
    space = grid.shape[:ndim]
    stored: dict[str, NDArray[np.float32]] = {}
    for channel, source in enumerate(channels.sources):
        if source.field is not None:
            name, component = _place(source, source.field)
            shape = (len(values), *space, *(ndim,) * len(component))
            place: tuple[Any, ...] = (..., *component)
            stored.setdefault(name, np.zeros(shape, np.float32))[place] = values[:, channel].reshape(-1, *space).numpy()
    return stored


def _place(source: ChannelSource, field: str) -> tuple[str, tuple[int, ...]]:
    """Return the field a channel is written to, and the component.

    A transformed channel (log10, zeros) becomes a scalar under the network's name: its values are no longer those of
    the stored field.
    """
    return (field, source.component) if source.transform == "identity" else (source.name, ())
