"""What is known of a Well file without reading its fields: checked once, and kept in the index of its folder."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from the_well.data.datasets import BoundaryCondition

from physteer.data.open_files import OpenFile, flag, text, texts

Codes = tuple[tuple[int, int], ...]
"""Per axis and end: 0 wall, 1 open, 2 periodic (`the_well.data.datasets.BoundaryCondition`)."""


@dataclass(frozen=True, eq=False)
class FileRecord:
    """A Well file, but for its fields."""

    dataset_name: str
    grid_type: str
    axes: tuple[str, ...]
    """Names of the spatial axes."""
    shape: tuple[int, ...]
    """Cells along each."""
    n_trajectories: int
    n_steps: int
    """Stored frames of each trajectory."""
    boundaries: Codes
    boundary_types: tuple[str, ...]
    """The Well's ``bc_type`` of every boundary."""
    partial_boundaries: tuple[str, ...]
    """Names of boundaries that lie on several axes: a part of a side, whose code is an approximation."""
    fields: Mapping[str, tuple[int, bool]]
    """Per stored field: 0 scalar, 1 vector, 2 tensor, and whether it varies in time."""
    scalars: Mapping[str, bool]
    """Per scalar: whether it varies in time."""
    coordinates: Mapping[str, NDArray[np.floating]]
    """Per axis: [1, n], or [trajectories, n] where trajectories have their own."""
    parameters: Mapping[str, NDArray[np.float64]]
    """Per parameter of the simulation: [], or [trajectories]."""

    def names(self, order: int, evolving: bool) -> list[str]:
        """Return the components of fields by the names of ``the_well``, such as ``velocity_x``."""
        components = ["".join(axes) for axes in itertools.product(self.axes, repeat=order)]
        return [
            f"{name}_{component}" if component else name
            for name, (own_order, varies) in self.fields.items()
            if (own_order, varies) == (order, evolving)
            for component in components
        ]


def record_of(opened: OpenFile) -> FileRecord:
    """Return what is known of a file, after comparing what its attributes say with what it holds.

    Raises:
        KeyError, ValueError: A part is missing, or has another shape than an attribute says. The message is for one who
            knows the file's name.
    """
    file = opened.file
    axes = opened.axes
    coordinates = {axis: opened.coordinates(axis) for axis in axes}
    shape = tuple(int(along.shape[-1]) for along in coordinates.values())
    n_trajectories = int(file.attrs["n_trajectories"])
    if int(file.attrs["n_spatial_dims"]) != len(axes):
        raise ValueError(
            f"its attribute n_spatial_dims says {int(file.attrs['n_spatial_dims'])}, but it has the axes "
            f"{', '.join(axes)}"
        )
    times = file["dimensions"]["time"].shape
    if not 1 <= len(times) <= 2 or (len(times) == 2 and times[0] != n_trajectories):
        raise ValueError(f"its times have the shape {list(times)}, not [frames] or [{n_trajectories}, frames]")
    for axis, along in coordinates.items():
        if along.ndim != 2 or len(along) not in (1, n_trajectories):
            raise ValueError(f"its coordinates along {axis} have the shape {list(along.shape)}")
    for name, field in opened.fields.items():
        _check_shape(name, field.dataset.shape, _lead(field, n_trajectories, times[-1]), shape, field)
    parameters = opened.parameters
    for name, values in parameters.items():
        if values.ndim and len(values) != n_trajectories:
            raise ValueError(
                f"its attribute n_trajectories says {n_trajectories}, but the scalar {name} has {len(values)}"
            )
    scalars = {name: flag(file["scalars"][name].attrs["time_varying"]) for name in _field_names(file["scalars"])}
    boundaries, kinds, partial = _boundaries(file, dict(zip(axes, shape, strict=True)))
    return FileRecord(
        text(file.attrs["dataset_name"]),
        text(file.attrs["grid_type"]),
        axes,
        shape,
        n_trajectories,
        int(times[-1]),
        boundaries,
        kinds,
        partial,
        {name: (field.order, field.time_varying) for name, field in opened.fields.items()},
        scalars,
        coordinates,
        {name: np.asarray(values, np.float64) for name, values in parameters.items()},
    )


def _lead(field: Any, n_trajectories: int, n_steps: int) -> list[tuple[str, str, int]]:
    """Return the axes before those of space: what says how long they are, what they count, and how many."""
    lead = []
    if field.sample_varying:
        lead.append(("attribute n_trajectories says", "trajectories", n_trajectories))
    if field.time_varying:
        lead.append(("dimension time has", "frames", n_steps))
    return lead


def _check_shape(
    name: str, stored: tuple[int, ...], lead: Iterable[tuple[str, str, int]], space: tuple[int, ...], field: Any
) -> None:
    lead = list(lead)
    for (source, what, wanted), found in zip(lead, stored, strict=False):
        if found != wanted:
            raise ValueError(f"its {source} {wanted}, but the field {name} holds {found} {what}")
    before = [n for *_, n in lead]
    varying = [n if varies else 1 for n, varies in zip(space, field.dim_varying, strict=True)]
    without = [n for n, varies in zip(space, field.dim_varying, strict=True) if varies]
    components = [len(space)] * field.order
    if list(stored) not in ([*before, *varying, *components], [*before, *without, *components]):
        raise ValueError(
            f"the field {name} has the shape {list(stored)}; its attributes and the coordinates say "
            f"{[*before, *varying, *components]}"
        )


def _field_names(group: h5py.Group) -> list[str]:
    return texts(group.attrs["field_names"])


def _boundaries(file: h5py.File, cells: Mapping[str, int]) -> tuple[Codes, tuple[str, ...], tuple[str, ...]]:
    """Return the code of every axis and end: open unless the file says else, as in ``the_well``.

    An end of a wall is a wall everywhere; an end is periodic or open if a part of it is.
    """
    codes = {axis: [BoundaryCondition.OPEN.value] * 2 for axis in cells}
    kinds, partial = [], []
    for name, boundary in file["boundary_conditions"].items():
        kind, axes = text(boundary.attrs["bc_type"]), texts(boundary.attrs["associated_dims"])
        kinds.append(kind)
        if len(axes) > 1:
            partial.append(name)
        mask = np.asarray(boundary["mask"][()])
        if list(mask.shape) != [cells.get(axis) for axis in axes]:
            raise ValueError(
                f"the mask of its boundary {name} has the shape {list(mask.shape)}, its axes {', '.join(axes)} have "
                f"{[cells.get(axis) for axis in axes]} cells"
            )
        everywhere = np.all if kind.upper() == "WALL" else np.any
        for place, axis in enumerate(axes):
            for end in (0, -1):
                if everywhere(np.take(mask, end, axis=place)):
                    codes[axis][end] = BoundaryCondition[kind.upper()].value
    return tuple((low, high) for low, high in codes.values()), tuple(dict.fromkeys(kinds)), tuple(partial)
