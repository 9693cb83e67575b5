"""Values that are not finite: refused, filled where there is no flow, or kept."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from physteer.errors import PhysteerError


@dataclass(frozen=True, eq=False)
class Frames:
    """Frames of one trajectory, as they are stored."""

    fields: NDArray[np.float32]
    """[T, C, *space]; a rule may change it in place."""
    channels: Sequence[str]
    source: str
    """The file."""
    trajectory: int
    numbers: range
    """Of the frames in the trajectory."""
    first: Callable[[], NDArray[np.float32]]
    """Reads the trajectory's first frame, [1, C, *space]."""

    @property
    def holes(self) -> NDArray[np.bool_] | None:
        """Where values are not finite, [T, C, *space]; None where all are finite."""
        with np.errstate(over="ignore", invalid="ignore"):
            if np.isfinite(self.fields.sum()):  # in one pass; a sum can also overflow
                return None
        holes: NDArray[np.bool_] = ~np.isfinite(self.fields)
        return holes if holes.any() else None


NonFinite = Callable[[Frames], None]
"""What is done about values that are not finite; called with all frames that are read."""


def kept(frames: Frames) -> None:
    """Accept all values."""


def refused(frames: Frames) -> None:
    """Accept finite values alone.

    Raises:
        PhysteerError: A value is not finite; names the fields, the file and the first frame.
    """
    holes = frames.holes
    if holes is not None:
        raise PhysteerError(f"{_told(frames, holes)}; if there is no flow in these cells, data.fill gives them a value")


class Filled:
    """Gives a value to cells that are not finite in every frame of a trajectory, such as those inside an obstacle.

    What was filled is told once. The cells count like all others in scores and diagnostics, unless the data set has a
    constant field ``mask``, where forecasters reset the solution to 0.

    Args:
        value: finite, in the fields' units.

    Raises:
        PhysteerError: The value is not finite.
    """

    def __init__(self, value: float) -> None:
        if not math.isfinite(value):
            raise PhysteerError(f"data.fill must be a finite number, found {value}")
        self.value = value
        self._holes: dict[tuple[str, int], NDArray[np.bool_]] = {}
        self._has_told = False

    def __call__(self, frames: Frames) -> None:
        """Fill.

        Raises:
            PhysteerError: Not the same cells as in the trajectory's first frame are not finite.
        """
        holes = frames.holes
        if holes is None:
            return
        key = frames.source, frames.trajectory
        if key not in self._holes:
            self._holes = {key: ~np.isfinite(frames.first())}  # windows of a trajectory mostly follow each other
        differing = holes != self._holes[key]
        if differing.any():
            raise PhysteerError(
                f"{_told(frames, holes)}, but not in the cells of frame 0: that is no place without flow, and data.fill"
                " does not hide it"
            )
        frames.fields[holes] = self.value
        if not self._has_told:
            self._has_told = True
            shares = holes[0].reshape(len(frames.channels), -1).mean(1)
            told = ", ".join(f"{s:.1%} of {name}" for name, s in zip(frames.channels, shares, strict=True) if s)
            warnings.warn(
                f"data.fill: cells that are not finite are read as {self.value:g}: {told} in {frames.source}, and the "
                "like in other files",
                stacklevel=4,
            )


def _told(frames: Frames, holes: NDArray[np.bool_]) -> str:
    at, channels, *_ = np.nonzero(holes)
    names = ", ".join(frames.channels[channel] for channel in np.unique(channels))
    return (
        f"{names} of trajectory {frames.trajectory} in {frames.source} has values that are not finite, first in frame "
        f"{frames.numbers[int(at[0])]}"
    )
