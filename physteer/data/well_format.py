"""Writing files in The Well's HDF5 layout, so that ``the_well`` reads them like any simulation.

The layout is that of The Well's ``docs/data_format.md``: groups ``dimensions``, ``boundary_conditions``, ``scalars``,
``t0_fields``, ``t1_fields``, ``t2_fields``, and their attributes. A file is described first (`WellFile`) and filled
frame by frame (`WellWriter`), so memory does not grow with the length of a trajectory.
"""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray

from physteer.data.hdf5_output import new_hdf5
from physteer.errors import PhysteerError, did_you_mean
from physteer.files import atomic_write

Boundary = Literal["periodic", "wall", "open"]


@dataclass(frozen=True)
class Axis:
    """A spatial axis: its name (x, y, z, r, theta …), grid coordinates, and the boundary at its low and high end."""

    name: str
    coordinates: NDArray[np.floating]
    boundaries: tuple[Boundary, Boundary] = ("periodic", "periodic")


@dataclass(frozen=True)
class WellField:
    """A field: dataset [trajectory, time, *space, *components], without the axes along which it does not vary.

    Attributes:
        name: name of the dataset, without components.
        order: 0 scalar, 1 vector, 2 tensor; each order adds a component axis as long as there are spatial axes.
        sample_varying: whether trajectories differ.
        time_varying: whether it changes in time; otherwise a constant field.
        dim_varying: per spatial axis, whether it varies along it; None for all.
        symmetric: a tensor equal to its transpose.
        antisymmetric: a tensor equal to minus its transpose.
    """

    name: str
    order: int = 0
    sample_varying: bool = True
    time_varying: bool = True
    dim_varying: tuple[bool, ...] | None = None
    symmetric: bool = False
    antisymmetric: bool = False


@dataclass(frozen=True)
class Scalar:
    """A number per file (), per trajectory [N], per time [T] or both [N, T]; the flags say which."""

    name: str
    values: ArrayLike
    sample_varying: bool = False
    time_varying: bool = False


@dataclass(frozen=True)
class WellFile:
    """Everything in a file except the values of its fields.

    Attributes:
        dataset_name: ``shear_flow``, …: one name per data set.
        axes: spatial axes in storage order.
        times: [T], one time grid for all trajectories.
        n_trajectories: trajectories in the file.
        fields: evolving and constant fields.
        parameters: the equations' parameters; written as root attributes, listed in ``simulation_parameters``, and
            as constant scalars.
        scalars: further scalars.
        attributes: further root attributes (strings or numbers): provenance.
        grid_type: ``cartesian`` or ``spherical``.
    """

    dataset_name: str
    axes: tuple[Axis, ...]
    times: NDArray[np.floating]
    n_trajectories: int
    fields: tuple[WellField, ...]
    parameters: Mapping[str, float] = field(default_factory=dict)
    scalars: tuple[Scalar, ...] = ()
    attributes: Mapping[str, str | int | float] = field(default_factory=dict)
    grid_type: str = "cartesian"

    def shape_of(self, item: WellField) -> tuple[int, ...]:
        """Return the shape of a field's dataset."""
        varying = item.dim_varying or (True,) * len(self.axes)
        space = [len(axis.coordinates) for axis, varies in zip(self.axes, varying, strict=True) if varies]
        lead = [self.n_trajectories] * item.sample_varying + [len(self.times)] * item.time_varying
        return (*lead, *space, *(len(self.axes),) * item.order)


class WellWriter:
    """Context manager that fills one file; it appears under its name only when the block ends without an error.

    The data go to a temporary file first (`physteer.files.atomic_write`), so no reader takes it for a data file even
    after the process was killed. The folder is made if it does not exist.

    Raises:
        PhysteerError: the folder cannot be written to, the disk is full, or a description that makes no sense.
    """

    def __init__(self, path: Path | str, content: WellFile) -> None:
        self.path, self.content = Path(path), content
        self._fields = {item.name: item for item in content.fields}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            temporary = stack.enter_context(atomic_write(self.path))
            self._file, self._disk = stack.enter_context(new_hdf5(temporary))
            _write_layout(self._file, self.content)
            self._stack = stack.pop_all()
        return self

    def write(
        self,
        values: Mapping[str, ArrayLike],
        trajectories: slice | int = slice(None),
        frames: slice | int = slice(None),
    ) -> None:
        """Write fields at some trajectories and frames.

        Args:
            values: field name → values, shaped as the dataset indexed by `trajectories` and `frames` (where it has
                those axes); converted to float32.
            trajectories: index or slice.
            frames: index or slice.

        Raises:
            PhysteerError: an undeclared field, or a shape that does not fit.
            OSError: the disk is full; the writer's block ends with a PhysteerError.
        """
        for name, array in values.items():
            if name not in self._fields:
                known = list(self._fields)
                raise PhysteerError(f"field {name!r} is not declared; there are {known}{did_you_mean(name, known)}")
            item = self._fields[name]
            dataset = self._file[f"t{item.order}_fields"][name]
            place = (trajectories,) * item.sample_varying + (frames,) * item.time_varying
            array = np.asarray(array, dtype=np.float32)
            if array.shape != (wanted := _indexed_shape(dataset.shape, place)):
                raise PhysteerError(f"field {name!r} has shape {array.shape}; wanted {wanted}")
            dataset[place] = array
            self._disk.check()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return self._stack.__exit__(kind, error, trace)


def _indexed_shape(shape: tuple[int, ...], place: tuple[slice | int, ...]) -> tuple[int, ...]:
    lead = [len(range(*at.indices(size))) for size, at in zip(shape, place, strict=False) if isinstance(at, slice)]
    return (*lead, *shape[len(place) :])


def _write_layout(file: h5py.File, content: WellFile) -> None:
    """Write everything but the values of the fields."""
    file.attrs["dataset_name"] = content.dataset_name
    file.attrs["grid_type"] = content.grid_type
    file.attrs["n_spatial_dims"] = len(content.axes)
    file.attrs["n_trajectories"] = content.n_trajectories
    file.attrs["simulation_parameters"] = _names(content.parameters)
    for name, value in {**content.parameters, **content.attributes}.items():
        file.attrs[name] = value

    dimensions = file.create_group("dimensions")
    dimensions.attrs["spatial_dims"] = _names(axis.name for axis in content.axes)
    _dataset(dimensions, "time", content.times, sample_varying=False, time_varying=True)
    for axis in content.axes:
        _dataset(dimensions, axis.name, axis.coordinates, sample_varying=False, time_varying=False)

    _write_boundaries(file.create_group("boundary_conditions"), content.axes)

    scalars = file.create_group("scalars")
    constant = [Scalar(name, value) for name, value in content.parameters.items()]
    scalars.attrs["field_names"] = _names(scalar.name for scalar in (*constant, *content.scalars))
    for scalar in (*constant, *content.scalars):
        flags = {"sample_varying": scalar.sample_varying, "time_varying": scalar.time_varying}
        wanted = (content.n_trajectories,) * scalar.sample_varying + (len(content.times),) * scalar.time_varying
        if np.shape(scalar.values) != wanted:
            raise PhysteerError(f"scalar {scalar.name!r} has shape {np.shape(scalar.values)}; wanted {wanted}")
        _dataset(scalars, scalar.name, scalar.values, **flags)

    for order in range(3):
        group = file.create_group(f"t{order}_fields")
        items = [item for item in content.fields if item.order == order]
        group.attrs["field_names"] = _names(item.name for item in items)
        for item in items:
            shape = content.shape_of(item)
            lead = item.sample_varying + item.time_varying
            # One chunk per frame: a window is read without touching its neighbours.
            dataset = group.create_dataset(item.name, shape, np.float32, chunks=(*(1,) * lead, *shape[lead:]) or None)
            dataset.attrs["dim_varying"] = list(item.dim_varying or (True,) * len(content.axes))
            dataset.attrs["sample_varying"] = item.sample_varying
            dataset.attrs["time_varying"] = item.time_varying
            if order == 2:
                dataset.attrs["symmetric"] = item.symmetric
                dataset.attrs["antisymmetric"] = item.antisymmetric


def _write_boundaries(group: h5py.Group, axes: tuple[Axis, ...]) -> None:
    """One entry per axis and kind, its mask true at the ends of that kind."""
    for axis in axes:
        for kind in dict.fromkeys(axis.boundaries):
            entry = group.create_group(f"{axis.name}_{kind}")
            entry.attrs["associated_dims"] = _names([axis.name])
            entry.attrs["associated_fields"] = _names([])
            entry.attrs["bc_type"] = kind.upper()
            entry.attrs["sample_varying"] = False
            entry.attrs["time_varying"] = False
            mask = np.zeros(len(axis.coordinates), dtype=bool)
            mask[0], mask[-1] = (end == kind for end in axis.boundaries)
            entry.create_dataset("mask", data=mask)


def _dataset(group: h5py.Group, name: str, values: ArrayLike, *, sample_varying: bool, time_varying: bool) -> None:
    dataset = group.create_dataset(name, data=np.asarray(values, dtype=np.float32))
    dataset.attrs["sample_varying"] = sample_varying
    dataset.attrs["time_varying"] = time_varying


def _names(names: Iterable[str]) -> NDArray[np.object_]:
    """Names as HDF5 strings; an empty list keeps that type."""
    return np.array(list(names), dtype=h5py.string_dtype())
