"""Windows of a trajectory, with their address, and batches of windows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from physteer.data.fields import ChannelSource
from physteer.errors import PhysteerError, did_you_mean
from physteer.metrics.geometry import Geometry, cell_edges, geometry_of, same_positions

Boundaries = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


@dataclass(frozen=True, order=True)
class Window:
    """The address of consecutive frames in a Well-format data set."""

    file: str
    """Name of the HDF5 file inside its split's folder, without the extension."""
    trajectory: int
    """Index of the trajectory inside the file."""
    start: int
    """Index of the first frame."""
    stride: int = 1
    """Number of stored frames from one frame of the window to the next."""

    def __str__(self) -> str:
        stride = "" if self.stride == 1 else f"_stride{self.stride}"
        return f"{self.file}_trajectory{self.trajectory:04d}_start{self.start:04d}{stride}"


@dataclass(frozen=True)
class Channels:
    """The channels of a data set, in the order of the network's input."""

    sources: tuple[ChannelSource, ...]
    """The source of each channel: t0 fields, t1 and t2 components, then constant fields."""

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each channel in the network's vocabulary."""
        return tuple(source.name for source in self.sources)

    @property
    def evolving(self) -> tuple[bool, ...]:
        """False where a channel never changes: inflated components (always 0) and constant fields."""
        return tuple(source.evolving for source in self.sources)

    def index(self, name: str) -> int:
        """Return the position of a channel.

        Raises:
            PhysteerError: There is no such channel; the message lists all.
        """
        if name not in self.names:
            raise PhysteerError(
                f"field {name!r} is not in this data set, which has {', '.join(self.names)}"
                f"{did_you_mean(name, self.names)}"
            )
        return self.names.index(name)

    @property
    def predicted(self) -> list[int]:
        """Positions of the channels that the model predicts."""
        return [i for i, evolving in enumerate(self.evolving) if evolving]


@dataclass(frozen=True, eq=False)
class Grid:
    """The three spatial axes of a data set; an absent axis has one cell and counts as periodic."""

    coordinates: tuple[Tensor, Tensor, Tensor]
    """Cell positions along each axis, in the data set's length unit."""
    boundaries: Boundaries
    """Per axis and end: 0 wall, 1 open, 2 periodic."""
    axes: tuple[str, ...]
    """The data set's names of the axes, without absent ones."""
    kind: str = "cartesian"
    """The Well's ``grid_type``."""
    mixed: str = ""
    """What does not share these coordinates, as a sentence; empty where all windows do."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Cells along each axis."""
        return tuple(len(c) for c in self.coordinates)  # type: ignore[return-value]

    def edges(self, axis: int) -> Tensor:
        """Return the edges of the cells along an axis, `physteer.metrics.geometry.cell_edges`; of any kind of grid."""
        return cell_edges(self.coordinates[axis])

    @cached_property
    def geometry(self) -> Geometry:
        """The lengths by which flows are differentiated and averaged.

        Raises:
            PhysteerError: The grid is not Cartesian, windows lie on different ones, a periodic axis is stretched, or
                its coordinates are in no order.
        """
        if self.kind != "cartesian":
            raise PhysteerError(
                f"the grid is {self.kind}: derivatives, means over space and spectra are for Cartesian grids alone"
            )
        if self.mixed:
            raise PhysteerError(self.mixed)
        return geometry_of(self.coordinates, self.periodic)

    @cached_property
    def obstacle(self) -> str:
        """Why there is no `geometry`, as a sentence; empty where there is."""
        try:
            self.geometry  # noqa: B018  whether it raises
        except PhysteerError as error:
            return str(error)
        return ""

    @property
    def periodic(self) -> tuple[bool, bool, bool]:
        """Whether each axis is periodic at both ends."""
        return tuple(ends == (2, 2) for ends in self.boundaries)  # type: ignore[return-value]


def common_grid(grids: Sequence[Grid], files: Sequence[str]) -> Grid:
    """Return the grid of the first file, marked as `Grid.mixed` where other files have other coordinates.

    Args:
        grids: of each file; the same axes and boundaries.
        files: their names.
    """
    first = grids[0]
    for name, grid in zip(files, grids, strict=True):
        if grid.mixed:
            return dataclasses.replace(first, mixed=grid.mixed)
        if not all(same_positions(a, b) for a, b in zip(first.coordinates, grid.coordinates, strict=True)):
            difference = (
                f"{name} has other coordinates than {files[0]}: choose files of one grid with include or exclude"
            )
            return dataclasses.replace(first, mixed=difference)
    return first


@dataclass(frozen=True, eq=False)
class SplitMetadata:
    """The common properties of all windows of a split."""

    dataset: str
    """The Well's ``dataset_name``."""
    path: str
    """The split's folder."""
    channels: Channels
    grid: Grid


@dataclass(frozen=True, eq=False)
class Sample:
    """One window as read from disk."""

    fields: Tensor
    """[T, C, H, W, D], in the data set's units."""
    window: Window
    parameters: dict[str, float]
    times: Tensor
    """[T], in the data set's time unit."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Windows of one data set, ready for the network."""

    fields: Tensor
    """[B, T, C, H, W, D] in the data set's units; the first ``n_input`` frames are the context."""
    n_input: int
    windows: tuple[Window, ...]
    parameters: dict[str, Tensor]
    """Each [B], float64: the simulation's parameters by name."""
    times: Tensor
    """[B, T], in the data set's time unit."""
    metadata: SplitMetadata

    @property
    def channels(self) -> Channels:
        """The channels C."""
        return self.metadata.channels

    @property
    def grid(self) -> Grid:
        """The axes H, W, D."""
        return self.metadata.grid

    @property
    def context(self) -> Tensor:
        """The frames before the prediction, [B, T_in, C, H, W, D]."""
        return self.fields[:, : self.n_input]

    @property
    def targets(self) -> Tensor:
        """The frames after the context, [B, T_out, C, H, W, D]."""
        return self.fields[:, self.n_input :]

    def rows(self, index: Sequence[int]) -> Batch:
        """Return some of the windows, in the order of the index."""
        return dataclasses.replace(
            self,
            fields=self.fields[list(index)],
            windows=tuple(self.windows[row] for row in index),
            parameters={name: values[list(index)] for name, values in self.parameters.items()},
            times=self.times[list(index)],
        )

    def parameters_of(self, row: int) -> dict[str, float]:
        """Return the parameters of one window."""
        return {name: float(values[row]) for name, values in self.parameters.items()}

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """Return the batch with its fields on a device; the small tensors stay on the CPU."""
        return dataclasses.replace(self, fields=self.fields.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """Return the batch with pinned fields, for a faster copy to a GPU."""
        return dataclasses.replace(self, fields=self.fields.pin_memory())

    def __len__(self) -> int:
        return len(self.windows)


def check_windows(batch: object, needed_by: str) -> None:
    """Refuse batches of another data module than `WellDataModule`.

    Raises:
        PhysteerError: names what needs windows, and what the batch is.
    """
    if not isinstance(batch, Batch):
        raise not_windows(needed_by, f"a batch is a {type(batch).__name__}")


def not_windows(needed_by: str, found: str) -> PhysteerError:
    """Return the error of data that are no windows."""
    return PhysteerError(
        f"{needed_by} needs windows: set data.class_path to physteer.WellDataModule; {found}, which only callbacks "
        "such as DAS, Effects and Probe may read"
    )


def collate(samples: Sequence[Sample], *, n_input: int, metadata: SplitMetadata) -> Batch:
    """Stack samples of one data set into a batch."""
    names = samples[0].parameters
    return Batch(
        fields=torch.stack([sample.fields for sample in samples]),
        n_input=n_input,
        windows=tuple(sample.window for sample in samples),
        parameters={
            name: torch.tensor([sample.parameters[name] for sample in samples], dtype=torch.float64) for name in names
        },
        times=torch.stack([sample.times for sample in samples]),
        metadata=metadata,
    )
