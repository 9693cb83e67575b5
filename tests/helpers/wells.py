"""Small data sets in The Well's layout, written with h5py alone: kinds of data that our own simulator never makes."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

from physteer.data import WindowDataset, WindowSpec

BOUNDARIES = {"wall": "WALL", "open": "OPEN", "periodic": "PERIODIC"}


@dataclass
class Stored:
    """A field as it is stored; `varies` are the axes of the dataset that it has, `order` its component axes."""

    name: str
    order: int = 0
    sample: bool = True
    time: bool = True
    dims: tuple[bool, ...] | None = None
    positive: bool = False


@dataclass
class Well:
    """A data set: every file has `trajectories` × `frames`."""

    name: str
    axes: dict[str, int]
    fields: list[Stored]
    boundaries: dict[str, tuple[str, str]]
    trajectories: int = 3
    frames: int = 9
    grid: str = "cartesian"
    parameters: dict[str, float] = field(default_factory=dict)
    sample_scalars: tuple[str, ...] = ()
    sample_times: bool = False
    options: dict[str, object] = field(default_factory=dict)
    """Of h5py's create_dataset, such as compression."""


def write(path: Path, well: Well, seed: int = 0) -> Path:
    """Write one file of random values."""
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.attrs["dataset_name"] = well.name
        file.attrs["grid_type"] = well.grid
        file.attrs["n_spatial_dims"] = len(well.axes)
        file.attrs["n_trajectories"] = well.trajectories
        file.attrs["simulation_parameters"] = list(well.parameters)
        for name, value in well.parameters.items():
            file.attrs[name] = value
        dimensions = file.create_group("dimensions")
        dimensions.attrs["spatial_dims"] = list(well.axes)
        times = np.arange(well.frames) * 0.5
        if well.sample_times:
            times = times * (1 + np.arange(well.trajectories)[:, None])
        flagged(dimensions.create_dataset("time", data=times.astype("f4")), well.sample_times, True)
        for axis, size in well.axes.items():
            flagged(dimensions.create_dataset(axis, data=np.linspace(0, 1, size, dtype="f4")), False, False)
        conditions = file.create_group("boundary_conditions")
        for axis, ends in well.boundaries.items():
            for kind in set(ends):
                entry = conditions.create_group(f"{axis}_{kind}")
                entry.attrs["bc_type"] = BOUNDARIES[kind]
                entry.attrs["associated_dims"] = [axis]
                entry.attrs["associated_fields"] = np.array([], dtype=h5py.string_dtype())
                mask = np.zeros(well.axes[axis], dtype=bool)
                mask[0], mask[-1] = ends[0] == kind, ends[1] == kind
                flagged(entry, False, False).create_dataset("mask", data=mask)
        scalars = file.create_group("scalars")
        scalars.attrs["field_names"] = [*well.parameters, *well.sample_scalars, "clock"]
        for name, value in well.parameters.items():
            flagged(scalars.create_dataset(name, data=np.float32(value)), False, False)
        for name in well.sample_scalars:
            flagged(scalars.create_dataset(name, data=rng.random(well.trajectories, "f4")), True, False)
        flagged(scalars.create_dataset("clock", data=np.arange(well.frames, dtype="f4")), False, True)
        for order in range(3):
            group = file.create_group(f"t{order}_fields")
            mine = [one for one in well.fields if one.order == order]
            group.attrs["field_names"] = np.array([one.name for one in mine], dtype=h5py.string_dtype())
            for one in mine:
                dims = one.dims or (True,) * len(well.axes)
                shape = [well.trajectories] * one.sample + [well.frames] * one.time
                shape += [size for size, varies in zip(well.axes.values(), dims, strict=True) if varies]
                values = rng.normal(size=(*shape, *(len(well.axes),) * order)).astype("f4")
                values = np.abs(values) + 0.1 if one.positive else values
                data = group.create_dataset(one.name, data=values, **well.options)
                flagged(data, one.sample, one.time).attrs["dim_varying"] = dims
                if order == 2:
                    data.attrs["symmetric"] = data.attrs["antisymmetric"] = False
    return path


def flagged(node: h5py.HLObject, sample: bool, time: bool) -> h5py.HLObject:
    node.attrs["sample_varying"], node.attrs["time_varying"] = sample, time
    return node


def write_splits(root: Path, well: Well, files: int = 2) -> Path:
    """Write ``root/data/{train,valid,test}`` of some files each."""
    for number, split in enumerate(("train", "valid", "test")):
        for index in range(files):
            write(root / "data" / split / f"{well.name}_{index}.hdf5", well, 10 * number + index)
    return root


CUBE = Well(  # 3D, compressed with checksums; a mask, a constant field per trajectory, fields that lack an axis
    "cube",
    {"x": 4, "y": 6, "z": 8},
    [
        Stored("density", positive=True),
        Stored("height", dims=(True, True, False)),
        Stored("mask", sample=False, time=False),
        Stored("heating", time=False, dims=(False, False, True)),
        Stored("velocity", order=1),
    ],
    {"x": ("wall", "open"), "y": ("wall", "wall"), "z": ("periodic", "periodic")},
    parameters={"Mach": 0.7},
    sample_scalars=("tilt", "spin"),
    options={"chunks": True, "compression": "gzip", "fletcher32": True},
)
FILM = Well(  # 2D with tensors, evolving and constant; every trajectory has its own times
    "film",
    {"x": 6, "y": 4},
    [
        Stored("concentration"),
        Stored("force", order=1, sample=False, time=False),
        Stored("velocity", order=1),
        Stored("D", order=2),
        Stored("E", order=2, time=False, dims=(False, True)),
    ],
    {"x": ("periodic", "periodic"), "y": ("open", "open")},
    parameters={"alpha": -1.0, "zeta": 5.0},
    sample_times=True,
)
PLANET = Well(  # two axes on a sphere: nothing is inflated
    "planet",
    {"theta": 4, "phi": 8},
    [Stored("height"), Stored("velocity", order=1)],
    {"theta": ("open", "open"), "phi": ("periodic", "periodic")},
    grid="spherical",
)
STAR = Well(  # an axis whose name has an underscore
    "star",
    {"log_r": 4, "theta": 4, "phi": 6},
    [Stored("entropy", positive=True), Stored("velocity", order=1), Stored("stress", order=2)],
    {"log_r": ("open", "open"), "theta": ("wall", "wall"), "phi": ("periodic", "periodic")},
    grid="spherical",
)
ACOUSTIC = Well(
    "acoustic_scattering_maze",
    {"x": 8, "y": 8},
    [
        Stored("pressure"),
        Stored("density", time=False, positive=True),
        Stored("speed_of_sound", time=False),
        Stored("velocity", order=1),
    ],
    {"x": ("open", "open"), "y": ("wall", "wall")},
)
EVERY = {well.name: well for well in (CUBE, FILM, PLANET, STAR, ACOUSTIC)}


def edit_files(source: Path, target: Path, *edits: Callable[[h5py.File], None]) -> Path:
    """Copy a data set and change every file; return the copy."""
    shutil.copytree(source, target)
    for path in sorted(target.rglob("*.h*5")):
        with h5py.File(path, "r+") as file:
            for edit in edits:
                edit(file)
    return target


def channel_flow(file: h5py.File) -> None:
    """Put walls across y, cells that are narrow beside them, and u = a sin πy, with a = 1 for Reynolds 2000, else ½.

    ⟨½ω²⟩ = a² π²/4, ⟨½u²⟩ = a²/4.
    """
    n = len(file["dimensions/y"])
    y = (1 - np.cos(np.pi * (np.arange(n) + 0.5) / n)) / 2
    file["dimensions/y"][:] = y
    del file["boundary_conditions/y_periodic"]
    walls = flagged(file["boundary_conditions"].create_group("y_wall"), False, False)
    walls.attrs.update(bc_type="WALL", associated_dims=["y"], associated_fields=np.array([], h5py.string_dtype()))
    mask = np.zeros(n, bool)
    mask[[0, -1]] = True
    flagged(walls.create_dataset("mask", data=mask), False, False)
    velocity = file["t1_fields/velocity"]
    velocity[..., 0] = (1 if file.attrs["Reynolds"] == 2000 else 0.5) * np.sin(np.pi * y)
    velocity[..., 1] = 0


SPEC = WindowSpec(n_input=2, n_output=1)


def open_windows(folder: Path | str, spec: WindowSpec = SPEC, **more: object) -> WindowDataset:
    """Open a folder's windows of 2 + 1 frames, or others."""
    return WindowDataset(str(folder), spec, **more)
