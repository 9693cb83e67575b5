"""The rollouts of a run folder by window: who they are at once, their fields only when asked for."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from physteer.analyses.steering.table import TRUTH, UNSTEERED, Series, Setting
from physteer.analyses.steering.written_rollouts import WrittenRollouts
from physteer.data.batch import Grid, Window
from physteer.data.fields import ChannelSource
from physteer.errors import PhysteerError, did_you_mean


@dataclass(frozen=True, eq=False)
class WrittenRollout:
    """One rollout of one window under one condition, as it lies on disk."""

    files: WrittenRollouts
    """The condition's."""
    window: str
    """The window's address in words; with the split, the same for every condition."""

    @property
    def path(self) -> Path:
        """The file."""
        return self.files.folder / f"{self.window}.hdf5"

    @property
    def split(self) -> str:
        """Name of the split that the window is from."""
        return self.files.split

    @property
    def condition(self) -> str:
        """Name of the condition, unique in the run."""
        return self.files.key.condition

    @property
    def setting(self) -> Setting:
        """What was done to the model, and as what it is judged."""
        key = self.files.key
        return Setting(key.role, key.direction, key.site, key.mode, key.strength)

    @property
    def is_reference(self) -> bool:
        """Whether it is the truth or the unsteered rollout."""
        return self.condition in (TRUTH, UNSTEERED)

    @cached_property
    def parameters(self) -> dict[str, float]:
        """The simulation's, by name."""
        return self.files.parameters_of(Window(self.window, 0, 0))

    @cached_property
    def source(self) -> Window:
        """The window of the data set that it starts from."""
        return self.files.source(self.window)

    @property
    def grid(self) -> Grid:
        """The spatial axes."""
        return self.files.metadata.grid

    @property
    def n_context(self) -> int:
        """The first frames are given, the others predicted (or, in the truth, simulated)."""
        return self.files.n_context

    @property
    def n_steps(self) -> int:
        """Frames that follow the context."""
        return self.files.n_frames(self.window) - self.n_context

    @cached_property
    def times(self) -> Tensor:
        """[T], in the data set's time unit."""
        return self.files.times(self.window)

    @property
    def fields(self) -> dict[str, ChannelSource]:
        """The stored scalar fields by name, components of vectors apart (``velocity_x``)."""
        sources = self.files.metadata.channels.sources
        return {source.name: source for source in sources if source.field is not None}

    def read(self, name: str, frames: slice | int = slice(None)) -> Tensor:
        """Read one scalar field.

        Args:
            name: one of `fields`, or a component of a vector that inflation adds (0).
            frames: which frames; an index drops the axis.

        Returns:
            [T, H, W, D] float32 in the data set's units; absent axes have one cell.

        Raises:
            PhysteerError: no such field, or a broken file.
        """
        channels = self.files.metadata.channels
        if name not in channels.names:
            known = list(self.fields)
            raise PhysteerError(
                f"{self.path} has no field {name!r}, only {', '.join(known)}{did_you_mean(name, known)}"
            )
        chosen = range(self.files.n_frames(self.window))[frames]
        start, n_frames = (chosen, 1) if isinstance(chosen, int) else (chosen.start, len(chosen))
        values = self.files.sample(self.window, n_frames, start).fields[:, channels.index(name)]
        return values[0] if isinstance(chosen, int) else values


@dataclass(frozen=True, eq=False)
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
        return tuple(dict.fromkeys(r.setting.series for r in steered))

    def steered(self, series: Series) -> tuple[WrittenRollout, ...]:
        """Return the steered rollouts of one series, from − to + strength."""
        return tuple(r for r in self.rollouts if r.setting.series == series and not r.is_reference)


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
    folders = sorted({path.parent for path in rollout_files(run_folder)})
    if not folders:
        raise PhysteerError(f"{run_folder} has no rollouts (rollouts/<condition>/data/<split>/*.hdf5)")
    return _by_window(_rollouts_of(WrittenRollouts(folder)) for folder in folders)


def _rollouts_of(files: WrittenRollouts) -> Iterator[WrittenRollout]:
    return (WrittenRollout(files, name) for name in files.files)


def _by_window(conditions: Iterable[Iterable[WrittenRollout]]) -> list[WindowRollouts]:
    """Group rollouts by the window they start from; windows are ordered by split, parameters and address."""

    def place(rollout: WrittenRollout) -> tuple[object, ...]:
        rank = {TRUTH: 0, UNSTEERED: 1}.get(rollout.condition, 2)
        setting = rollout.setting
        address = (rollout.split, tuple(rollout.parameters.items()), rollout.window)
        return *address, rank, setting.series, setting.strength, rollout.condition

    ordered = sorted(itertools.chain.from_iterable(conditions), key=place)
    groups = itertools.groupby(ordered, key=lambda rollout: (rollout.split, rollout.window))
    return [WindowRollouts(split, window, tuple(members)) for (split, window), members in groups]


def read_velocity(rollout: WrittenRollout, frame: int) -> Tensor:
    """Read the velocity of one frame, [3, H, W, D]; a component that is not stored is 0."""
    sample = rollout.files.sample(rollout.window, 1, frame)
    channels = rollout.files.metadata.channels
    absent = torch.zeros_like(sample.fields[0, 0])
    names = (f"velocity_{axis}" for axis in "xyz")
    return torch.stack([sample.fields[0, channels.index(n)] if n in channels.names else absent for n in names])
