"""Which trajectories begin with the same flow: by the content of frame 0, never by their index."""

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

_GLANCE = 64
"""Cells that are compared first; most initial conditions differ there already."""

Trajectory = tuple[str, int]
"""File and index."""


@dataclass(frozen=True, eq=False)
class InitialConditions:
    """The initial condition of every trajectory of a split, and one frame of each."""

    of: Mapping[Trajectory, int]
    """Which initial condition a trajectory begins with: its place in `frames`."""
    frames: tuple[Tensor, ...]
    """The matched fields of each, in units of their RMS, flattened: [n]."""
    names: tuple[str, ...]
    """Of each: a digest of its frame, the same in every process and run; of written rollouts, the one they record."""
    tolerance: float

    def name(self, window: Window) -> str:
        """Return the name of a window's initial condition."""
        return self.names[self.of[window.file, window.trajectory]]

    def shared_with(self, others: InitialConditions) -> set[int]:
        """Return the initial conditions that others have too."""
        return {n for n, frame in enumerate(self.frames) if _find(frame, others.frames, self.tolerance) is not None}

    def without(self, numbers: Collection[int]) -> InitialConditions:
        """Return the trajectories that begin with none of these initial conditions."""
        kept = {trajectory: number for trajectory, number in self.of.items() if number not in numbers}
        return dataclasses.replace(self, of=kept)


_MATCHED: WeakKeyDictionary[WindowDataset, InitialConditions] = WeakKeyDictionary()


def initial_conditions(dataset: WindowDataset) -> InitialConditions:
    """Match the trajectories of a data set by what `initial_flow` reads; each data set is read once per process."""
    if dataset not in _MATCHED:
        _MATCHED[dataset] = match_initial_conditions(dataset)
    return _MATCHED[dataset]


def match_initial_conditions(
    dataset: WindowDataset, fields: Sequence[str] = (), tolerance: float = 1e-3
) -> InitialConditions:
    """Find the trajectories that begin with the same flow; reads frame 0 of each once.

    A rollout that `write_rollout` wrote begins somewhere in its trajectory: it belongs to the initial condition that
    its file records.

    Args:
        dataset: a split; only trajectories that have windows count.
        fields: what must agree; where empty, what `initial_flow` takes.
        tolerance: largest difference anywhere, in units of the fields' common RMS.

    Raises:
        PhysteerError: there is no such field.
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
    """Read what tells a trajectory's initial condition from others, in units of its RMS.

    Args:
        dataset: the split.
        trajectory: one of it.
        fields: of frame 0; where empty, velocity or momentum, of a fluid at rest its buoyancy, else all that evolves.
            Other fields of frame 0 depend on the parameters in The Well's crossed data sets.

    Returns:
        [n] float64: the fields one after the other, flattened.

    Raises:
        PhysteerError: there is no such field, or none evolves.
    """
    channels = dataset.metadata.channels
    frame = dataset.read(Window(*trajectory, 0), n_frames=1).fields[0]  # [C, H, W, D]
    telling = [channels.index(name) for name in fields] or _telling_channels(channels, frame)
    content = frame[telling].double().flatten()
    return content / content.square().mean().sqrt().clamp_min(1e-12)


def _telling_channels(channels: Channels, frame: Tensor) -> list[int]:
    names = channels.names
    moving = [i for i, name in enumerate(names) if name.startswith(("velocity", "momentum"))]
    buoyant = [i for i, name in enumerate(names) if name == "buoyancy"]
    telling = next((some for some in (moving, buoyant) if bool(frame[some].any())), channels.predicted)
    if not telling:
        raise PhysteerError(f"none of the fields {', '.join(names)} evolves")
    return telling


def _find(frame: Tensor, known: Sequence[Tensor], tolerance: float) -> int | None:
    """Return the place of an initial condition [n] among others, or None."""
    some = torch.linspace(0, len(frame) - 1, min(len(frame), _GLANCE)).long()
    glance = frame[some]
    for number, other in enumerate(known):
        near = other.shape == frame.shape and bool((other[some] - glance).abs().max() <= tolerance)
        if near and bool((other - frame).abs().max() <= tolerance):
            return number
    return None
