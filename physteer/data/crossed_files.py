"""The files of a generated data set: Reynolds × Schmidt × initial condition, fully crossed within every split.

    OUT/stats.yaml
    OUT/data/{train,valid,test}/{flow}_Reynolds_{Re}_Schmidt_{Sc}.hdf5

One file per pair of parameters, one trajectory per initial condition, in the same order in every file of a split.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path

import h5py
import numpy as np

from physteer.data.shear_flow import LENGTHS
from physteer.data.well_format import Axis, Scalar, WellField, WellFile
from physteer.data.well_stats import write_stats
from physteer.errors import PhysteerError
from physteer.files import is_temporary
from physteer.run_folder import locked, remove_temporaries
from physteer.untrusted.json_text import json_object

SPLITS = ("train", "valid", "test")
FIELDS = (WellField("tracer"), WellField("pressure"), WellField("velocity", order=1))
"""Of The Well's shear_flow."""


@dataclass(frozen=True)
class CrossedSettings:
    """The common settings of all files of a data set."""

    counts: tuple[int, int, int] = (12, 2, 2)
    """Initial conditions in train, valid and test."""
    frames: int = 40
    """Stored frames per trajectory, the initial one included."""
    dt: float = 0.25
    """Time between frames."""
    resolution: tuple[int, int] = (64, 128)
    """Grid points (x, y)."""
    seed: int = 0
    """Of the initial conditions."""

    def count(self, split: str) -> int:
        """Return the number of initial conditions of a split."""
        return self.counts[SPLITS.index(split)]

    def record(self, generator: str, split: str) -> dict[str, object]:
        """Return the settings stored in each file of a split; an existing file is kept only if they agree."""
        record = asdict(self)
        del record["counts"]
        return {"generator": generator, "split": split, **record, "initial_conditions": self.count(split)}


@dataclass(frozen=True)
class Gap:
    """Missing files of a data set: those of one split and Reynolds number."""

    split: str
    reynolds: float
    schmidt: tuple[float, ...]


@dataclass(frozen=True)
class CrossedFiles:
    """The files of one flow in a folder, which may hold other flows of the same data set."""

    out: Path
    dataset: str
    """The Well's ``dataset_name``: one for all flows of a folder."""
    flow: str
    """Start of the file names."""
    generator: str
    """Name and version of the generator."""
    reynolds: Sequence[float]
    """Positive, distinct."""
    schmidt: Sequence[float]
    """Positive, distinct."""
    settings: CrossedSettings

    @contextmanager
    def completed(self, progress: Callable[[int], object]) -> Iterator[list[Gap]]:
        """Yield the missing files, for the block to write; then write the statistics of the training split.

        All existing files are checked before any is written or removed. The folder is locked while something is missing
        (`physteer.run_folder.locked`), and what a killed process has left half-written is removed.

        Args:
            progress: called with the number of frames of all existing trajectories.

        Raises:
            PhysteerError: A file was made with other settings or cannot be read, the folder cannot be made, or another
                process writes to it.
        """
        wanted = sum(self.settings.counts) * len(self.reynolds) * len(self.schmidt)
        if self._is_complete():  # it may be a folder that this user cannot write to
            progress(wanted * self.settings.frames)
            yield []
            return
        with locked(self.out, f"data {self.flow.replace('_', '-')}"):
            remove_temporaries(self.out, ("data",))
            gaps = self._gaps()  # another process may have written some meanwhile
            stats = self.out / "stats.yaml"
            if any(gap.split == "train" for gap in gaps):
                stats.unlink(missing_ok=True)  # it would not be that of the training files
            lacking = sum(self.settings.count(gap.split) * len(gap.schmidt) for gap in gaps)
            progress((wanted - lacking) * self.settings.frames)
            yield gaps
            train = self._stored("train")
            if train and not stats.exists():
                write_stats(train, stats)

    def _is_complete(self) -> bool:
        """Return whether all files are there and no process has left half a file."""
        missing = self._gaps() or (self._stored("train") and not (self.out / "stats.yaml").exists())
        return not missing and not any(is_temporary(path) for path in self.out.rglob(".*.tmp"))

    def _gaps(self) -> list[Gap]:
        """Check all existing files and return the gaps between them."""
        for split in SPLITS:
            for path in self._stored(split):
                self._check(path, split)
        return list(self._find_gaps())

    def paths(self, gap: Gap) -> list[Path]:
        """Return the files of a gap, in the order of their Schmidt numbers."""
        return [self._path(gap.split, gap.reynolds, schmidt) for schmidt in gap.schmidt]

    def contents(self, gap: Gap, scalars: tuple[Scalar, ...] = ()) -> dict[Path, WellFile]:
        """Describe the files of a gap.

        Args:
            gap: from `completed`.
            scalars: of the gap's initial conditions.
        """
        return {
            path: WellFile(
                dataset_name=self.dataset,
                axes=box_axes(self.settings.resolution),
                times=self.settings.dt * np.arange(self.settings.frames),
                n_trajectories=self.settings.count(gap.split),
                fields=FIELDS,
                parameters={"Reynolds": gap.reynolds, "Schmidt": schmidt},
                scalars=scalars,
                attributes={"settings": json.dumps(self.settings.record(self.generator, gap.split))},
            )
            for path, schmidt in zip(self.paths(gap), gap.schmidt, strict=True)
        }

    def _find_gaps(self) -> Iterator[Gap]:
        for split in SPLITS:
            for reynolds in self.reynolds if self.settings.count(split) else ():
                absent = tuple(number for number in self.schmidt if not self._path(split, reynolds, number).exists())
                if absent:
                    yield Gap(split, reynolds, absent)

    def _path(self, split: str, reynolds: float, schmidt: float) -> Path:
        return self.out / "data" / split / file_name(reynolds, schmidt, self.flow)

    def _stored(self, split: str) -> list[Path]:
        return sorted((self.out / "data" / split).glob("*.hdf5"))

    def _check(self, path: Path, split: str) -> None:
        """Check that a file is of this data set and, if it is of this flow, that it was made with these settings."""
        try:
            with h5py.File(path) as file:
                dataset, settings = file.attrs.get("dataset_name"), file.attrs.get("settings", "{}")
        except OSError as error:
            raise PhysteerError(f"cannot read {path}: {error}; remove it to have it made again") from error
        if dataset != self.dataset:
            raise PhysteerError(
                f"{path} is of the data set {dataset}, not {self.dataset}; choose another folder or remove it"
            )
        if path.name.startswith(f"{self.flow}_Reynolds_"):
            stored = json_object(settings, f"the attribute 'settings' of {path}")
            _check_same(path, stored, json.loads(json.dumps(self.settings.record(self.generator, split))))


def _check_same(path: Path, stored: Mapping[str, object], wanted: Mapping[str, object]) -> None:
    for key, value in wanted.items():
        if stored.get(key) != value:
            raise PhysteerError(
                f"{path} was made with {key} {stored.get(key)}, not {value}; choose another folder or remove it"
            )


def file_name(reynolds: float, schmidt: float, flow: str) -> str:
    """Return the name of the file of a pair of parameters."""
    return f"{flow}_Reynolds_{scientific(reynolds)}_Schmidt_{scientific(schmidt)}.hdf5"


def scientific(value: float) -> str:
    """Return a number as The Well's file names write it: 1e4, 5e-1, 2.5e2."""
    sign, digits, exponent = Decimal(repr(float(value))).normalize().as_tuple()
    mantissa = f"{digits[0]}" + (f".{''.join(map(str, digits[1:]))}" if len(digits) > 1 else "")
    return f"{'-' * sign}{mantissa}e{int(exponent) + len(digits) - 1}"


def box_axes(resolution: tuple[int, int]) -> tuple[Axis, Axis]:
    """Return the axes of The Well's shear_flow box, 0 ≤ x < 1 and −1 ≤ y < 1, periodic."""
    x, y = (
        Axis(name, low + length * np.arange(size) / size)
        for name, low, length, size in zip("xy", (0.0, -1.0), LENGTHS, resolution, strict=True)
    )
    return x, y
