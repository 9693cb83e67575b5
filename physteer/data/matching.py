"""Initial conditions: trajectories are matched by the content of frame 0, not by their index."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from physteer.data.batch import Channels, Window
from physteer.data.dataset import WindowDataset
from physteer.data.progress import with_progress
from physteer.errors import PhysteerError

_FIRST_CELLS = 64
"""Number of cells that are compared first; most initial conditions differ in them."""

Trajectory = tuple[str, int]
"""File and index."""


@dataclass(frozen=True, eq=False)
class InitialConditions:
    """The initial condition of every trajectory of a split, and one frame of each."""

    of: Mapping[Trajectory, int]
    """Initial condition of each trajectory, as an index into `frames`."""
    frames: tuple[Tensor, ...]
    """The matched fields of each initial condition, in units of their RMS, flattened: [n]."""
    names: tuple[str, ...]
    """Name of each initial condition: a digest of its frame, the same in every process and run. For written rollouts it
    is the name recorded in the file."""
    tolerance: float

    def name(self, window: Window) -> str:
        """Return the name of a window's initial condition."""
        return self.names[self.of[window.file, window.trajectory]]

    def shared_with(self, others: InitialConditions) -> set[int]:
        """Return the initial conditions that are also among the others."""
        return {n for n, frame in enumerate(self.frames) if _find(frame, others.frames, self.tolerance) is not None}

    def without(self, numbers: Collection[int]) -> InitialConditions:
        """Return the trajectories of all other initial conditions."""
        kept = {trajectory: number for trajectory, number in self.of.items() if number not in numbers}
        return dataclasses.replace(self, of=kept)


_MATCHED: WeakKeyDictionary[WindowDataset, InitialConditions] = WeakKeyDictionary()


def initial_conditions(dataset: WindowDataset) -> InitialConditions:
    """Match the trajectories of a data set by their `initial_flow`; each data set is read once per process."""
    if dataset not in _MATCHED:
        _MATCHED[dataset] = match_initial_conditions(dataset)
    return _MATCHED[dataset]


def match_initial_conditions(
    dataset: WindowDataset, fields: Sequence[str] = (), tolerance: float = 1e-3
) -> InitialConditions:
    """Find the trajectories that begin with the same flow; frame 0 of each is read once.

    A rollout written by `write_rollout` starts somewhere inside its trajectory. It gets the initial condition that is
    recorded in its file.

    Args:
        dataset: a split; only trajectories with windows are matched.
        fields: fields that must agree; if empty, those of `initial_flow`.
        tolerance: largest difference in any cell, in units of the fields' common RMS.

    Raises:
        PhysteerError: There is no such field.
    """
    trajectories = dict.fromkeys((window.file, window.trajectory) for window in dataset.windows)
    numbers: dict[Trajectory, int] = {}
    frames: list[Tensor] = []
    names: list[str] = []
    for file, index in with_progress(trajectories, "Matching initial conditions"):
        frame = initial_flow(dataset, (file, index), fields).float()
        recorded = dataset.attribute(file, "initial_condition")
        if recorded is None:
            number = _find(frame, frames, tolerance)
        else:
            number = names.index(recorded) if recorded in names else None
        if number is None:
            number = len(frames)
            frames.append(frame)
            names.append(recorded or hashlib.sha256(frame.numpy().tobytes()).hexdigest()[:12])
        numbers[file, index] = number
    return InitialConditions(numbers, tuple(frames), tuple(names), tolerance)


def initial_flow(dataset: WindowDataset, trajectory: Trajectory, fields: Sequence[str] = ()) -> Tensor:
    """Read the fields that identify a trajectory's initial condition, in units of their RMS.

    Args:
        dataset: the split.
        trajectory: of the split.
        fields: of frame 0. If empty: velocity or momentum; for a fluid at rest its buoyancy; else all evolving fields.
            Other fields of frame 0 depend on the parameters in The Well's crossed data sets.

    Returns:
        [n] float64: the concatenated fields.

    Raises:
        PhysteerError: There is no such field, or none evolves.
    """
    channels = dataset.metadata.channels
    frame = dataset.read(Window(*trajectory, 0), n_frames=1).fields[0]  # [C, H, W, D]
    identifying = [channels.index(name) for name in fields] or _identifying_channels(channels, frame)
    content = frame[identifying].double().flatten()
    return content / content.square().mean().sqrt().clamp_min(1e-12)


def _identifying_channels(channels: Channels, frame: Tensor) -> list[int]:
    names = channels.names
    moving = [i for i, name in enumerate(names) if name.startswith(("velocity", "momentum"))]
    buoyant = [i for i, name in enumerate(names) if name == "buoyancy"]
    identifying = next(
        (channels_of_kind for channels_of_kind in (moving, buoyant) if bool(frame[channels_of_kind].any())),
        channels.predicted,
    )
    if not identifying:
        raise PhysteerError(f"none of the fields {', '.join(names)} evolves")
    return identifying


def _find(frame: Tensor, known: Sequence[Tensor], tolerance: float) -> int | None:
    """Return the index of an initial condition [n] among others, or None."""
    cells = torch.linspace(0, len(frame) - 1, min(len(frame), _FIRST_CELLS)).long()
    glance = frame[cells]
    for number, other in enumerate(known):
        agrees_on_cells = other.shape == frame.shape and bool((other[cells] - glance).abs().max() <= tolerance)
        if agrees_on_cells and bool((other - frame).abs().max() <= tolerance):
            return number
    return None
