"""Reading the rollouts of a run folder: who they are at once, their fields only when asked for."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor

from physteer.analyses.steering.table import TRUTH, UNSTEERED, Series, Setting
from physteer.errors import PhysteerError, did_you_mean


@dataclass(frozen=True)
class StoredField:
    """Where one scalar field lies in the file."""

    dataset: str
    component: tuple[int, ...]
    """Indices into a vector or tensor."""
    time_varying: bool
    sample_varying: bool
    dim_varying: tuple[bool, ...]


@dataclass(frozen=True)
class WrittenRollout:
    """One rollout of one window under one condition, as it lies on disk."""

    path: Path
    split: str
    window: str
    """The window's address in words; with the split, the same for every condition."""
    condition: str
    setting: Setting
    """What was done to the model, and as what it is judged."""
    parameters: tuple[tuple[str, float], ...]
    """The simulation's, by name."""
    grid: str
    """The Well's ``grid_type``."""
    axes: tuple[str, ...]
    """Names of the spatial axes."""
    coordinates: tuple[Tensor, ...]
    """Per axis, [cells], in the data set's length unit."""
    periodic: tuple[bool, ...]
    """Per axis, at both ends."""
    times: Tensor
    """[T], in the data set's time unit."""
    n_context: int
    """The first frames are given, the others predicted (or, in the truth, simulated)."""
    source: tuple[str, int, int, int]
    """File, trajectory, first frame and stride of the window."""
    fields: tuple[tuple[str, StoredField], ...]

    @property
    def is_reference(self) -> bool:
        """Whether it is the truth or the unsteered rollout."""
        return self.condition in (TRUTH, UNSTEERED)

    @property
    def strength(self) -> float:
        """α; 0 for truth and unsteered."""
        return self.setting.strength

    @property
    def series(self) -> Series:
        """What was steered, whatever the strength."""
        return self.setting.series

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the scalar fields, components of vectors apart (``velocity_x``)."""
        return tuple(name for name, _ in self.fields)

    @property
    def steps(self) -> Tensor:
        """[T]: 1 for the first predicted frame, 0 for the last one given."""
        return torch.arange(len(self.times)) - (self.n_context - 1)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance between cells along the three axes; 1 along absent ones."""
        real = [float(x[1] - x[0]) if len(x) > 1 else 1.0 for x in self.coordinates]
        return tuple([*real, 1.0, 1.0, 1.0][:3])  # type: ignore[return-value]

    @property
    def periodic_axes(self) -> tuple[bool, bool, bool]:
        """Whether each of the three axes is periodic; absent ones are."""
        return tuple([*self.periodic, True, True, True][:3])  # type: ignore[return-value]

    def read(self, name: str, frames: slice | int = slice(None)) -> Tensor:
        """Read one scalar field.

        Args:
            name: one of `names`.
            frames: which frames; an index drops the axis.

        Returns:
            [T, H, W, D] float32 in the data set's units; absent axes have one cell.

        Raises:
            PhysteerError: no such field, or a broken file.
        """
        stored = dict(self.fields)
        if name not in stored:
            raise PhysteerError(
                f"{self.path} has no field {name!r}, only {', '.join(self.names)}{did_you_mean(name, self.names)}"
            )
        field = stored[name]
        place = (0,) * field.sample_varying + (frames,) * field.time_varying
        try:
            with h5py.File(self.path) as file:
                values = file[field.dataset][place]
        except (OSError, KeyError) as error:
            raise PhysteerError(f"cannot read {name} of {self.path}: {error}") from error
        values = values[(..., *field.component)]
        lead = values.shape[: values.ndim - sum(field.dim_varying)]
        space = [len(x) for x in self.coordinates]
        thin = [n if varies else 1 for n, varies in zip(space, field.dim_varying, strict=True)]
        values = np.broadcast_to(values.reshape(*lead, *thin), (*lead, *space))
        if not field.time_varying and isinstance(frames, slice):
            values = np.broadcast_to(values, (len(self.times[frames]), *space))
        lead = values.shape[: values.ndim - len(space)]
        return torch.from_numpy(np.array(values, dtype=np.float32).reshape(*lead, *space, *(1,) * (3 - len(space))))


@dataclass(frozen=True)
class WindowRollouts:
    """All rollouts of one window, in reading order: truth, unsteered, then by series from − to + strength."""

    split: str
    window: str
    rollouts: tuple[WrittenRollout, ...]

    def find(self, condition: str) -> WrittenRollout | None:
        """Return the rollout of a condition."""
        return next((rollout for rollout in self.rollouts if rollout.condition == condition), None)

    @property
    def references(self) -> list[WrittenRollout]:
        """The truth and the unsteered rollout, those that there are."""
        return [rollout for rollout in self.rollouts if rollout.is_reference]

    @property
    def series(self) -> tuple[Series, ...]:
        """What was steered: concepts, then interpolated data; random and shuffled directions have no pictures."""
        steered = [r for role in ("concept", "data") for r in self.rollouts if r.setting.role == role]
        return tuple(dict.fromkeys(r.series for r in steered))

    def steered(self, series: Series) -> tuple[WrittenRollout, ...]:
        """Return the steered rollouts of one series, from − to + strength."""
        return tuple(r for r in self.rollouts if r.series == series and not r.is_reference)


def rollout_files(run_folder: Path | str) -> list[Path]:
    """List the rollouts of a run folder, ``rollouts/<condition>/data/<split>/<window>.hdf5``."""
    return sorted(Path(run_folder).glob("rollouts/*/data/*/*.hdf5"))


def read_rollouts(run_folder: Path | str) -> list[WindowRollouts]:
    """Read who the rollouts of a run folder are, grouped by window; no field is read yet.

    Raises:
        PhysteerError: there is no such folder, it has no rollouts, or a file is broken.
    """
    run_folder = Path(run_folder)
    if not run_folder.is_dir():
        raise PhysteerError(f"no run folder {run_folder}")
    paths = rollout_files(run_folder)
    if not paths:
        raise PhysteerError(f"{run_folder} has no rollouts (rollouts/<condition>/data/<split>/*.hdf5)")
    return group_by_window(map(open_rollout, paths))


def group_by_window(rollouts: Iterable[WrittenRollout]) -> list[WindowRollouts]:
    """Group rollouts by the window they start from; windows are ordered by split, parameters and address."""
    ordered = sorted(
        rollouts, key=lambda r: (r.split, r.parameters, r.window, _rank(r), r.series, r.strength, r.condition)
    )
    groups = itertools.groupby(ordered, key=lambda r: (r.split, r.window))
    return [WindowRollouts(split, window, tuple(members)) for (split, window), members in groups]


def _rank(rollout: WrittenRollout) -> int:
    return {TRUTH: 0, UNSTEERED: 1}.get(rollout.condition, 2)


def open_rollout(path: Path | str) -> WrittenRollout:
    """Read everything but the fields of one file.

    Raises:
        PhysteerError: the file is broken, or it is not a rollout.
    """
    path = Path(path)
    try:
        with h5py.File(path) as file:
            attributes = file.attrs
            axes = tuple(map(str, file["dimensions"].attrs["spatial_dims"]))
            return WrittenRollout(
                path=path,
                split=path.parent.name,
                window=path.stem,
                condition=str(attributes["condition"]),
                setting=_setting(attributes),
                parameters=tuple(_parameters(file)),
                grid=str(attributes["grid_type"]),
                axes=axes,
                coordinates=tuple(torch.from_numpy(np.ravel(file["dimensions"][axis][()])) for axis in axes),
                periodic=tuple(_is_periodic(file, axis) for axis in axes),
                times=torch.from_numpy(np.ravel(file["dimensions"]["time"][()])),
                n_context=int(attributes["n_context"]),
                source=(
                    str(attributes["source_file"]),
                    int(attributes["source_trajectory"]),
                    int(attributes["source_start"]),
                    int(attributes["source_stride"]),
                ),
                fields=tuple(_fields(file, axes)),
            )
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise PhysteerError(f"{path} is not a readable rollout: {error}") from error


def _setting(attributes: h5py.AttributeManager) -> Setting:
    condition, strength = str(attributes["condition"]), float(attributes["strength"])
    role = str(attributes.get("role", "concept" if strength else "unsteered"))
    direction, site, mode = (str(attributes.get(name, "")) for name in ("direction", "site", "mode"))
    return Setting(TRUTH if condition == TRUTH else role, direction, site, mode, strength)


def _parameters(file: h5py.File) -> Iterator[tuple[str, float]]:
    for name in map(str, np.atleast_1d(file.attrs.get("simulation_parameters", ()))):
        value = np.asarray(file.attrs.get(name, np.nan))
        if value.ndim == 0 and np.issubdtype(value.dtype, np.number):
            yield name, float(value)


def _is_periodic(file: h5py.File, axis: str) -> bool:
    kinds = {
        str(entry.attrs["bc_type"]).upper()
        for entry in file["boundary_conditions"].values()
        if axis in map(str, entry.attrs["associated_dims"])
    }
    return kinds == {"PERIODIC"}


def _fields(file: h5py.File, axes: tuple[str, ...]) -> Iterator[tuple[str, StoredField]]:
    for order in range(3):
        group = file[f"t{order}_fields"]
        for name in map(str, group.attrs["field_names"]):
            flags = group[name].attrs
            for component in itertools.product(range(len(axes)), repeat=order):
                suffix = "".join(axes[index] for index in component)
                yield (
                    f"{name}_{suffix}" if order else name,
                    StoredField(
                        f"t{order}_fields/{name}",
                        component,
                        bool(flags["time_varying"]),
                        bool(flags["sample_varying"]),
                        tuple(map(bool, flags["dim_varying"])),
                    ),
                )


def read_velocity(rollout: WrittenRollout, frame: int) -> Tensor:
    """Read the velocity of one frame, [3, H, W, D]; a component that is not stored is 0."""
    parts = [rollout.read(name, frame) for name in ("velocity_x", "velocity_y")]
    last = rollout.read("velocity_z", frame) if "velocity_z" in rollout.names else torch.zeros_like(parts[0])
    return torch.stack([*parts, last])
