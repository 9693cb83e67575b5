"""Locus: on which part of an activation, and at which rollout steps, an edit acts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from physteer.errors import PhysteerError

Index = slice | Sequence[int]
"""Positions on one axis; negative ones count from the end."""


@dataclass
class Clock:
    """The current step of a rollout. The rollout sets it; edits with `Locus.steps` read it."""

    step: int | None = None
    """Steps from 0; None outside of a rollout."""


@dataclass(frozen=True, eq=False)
class Locus:
    """Where an edit acts; by default everywhere and always."""

    frames: Index | None = None
    """Frames, axis 1 of an activation; under `attached_to_pieces` positions in the whole sequence."""
    rows: Index | None = None
    """Rows of the batch, axis 0."""
    region: Tensor | None = None
    """Bool [h, w, δ]: tokens that may change. The replacement still sees every token (norms and means stay global)."""
    steps: Index | None = None
    """Rollout steps, from 0."""

    def __post_init__(self) -> None:
        if self.region is not None and self.region.dtype != torch.bool:
            raise PhysteerError(f"the region of a locus is a mask of booleans, not {self.region.dtype}")

    def includes(self, step: int | None) -> bool:
        """Return whether the edit acts at a rollout step.

        Raises:
            PhysteerError: The edit is limited to some steps, and the step is unknown.
        """
        if self.steps is None:
            return True
        if step is None:
            raise PhysteerError("an edit is limited to some rollout steps, but there is no rollout step here")
        if isinstance(self.steps, slice):
            return step in range(*self.steps.indices(step + 1))
        return step in self.steps

    def take(self, activation: Tensor) -> Tensor:
        """Return the rows and frames [b, t, …] of an activation [B, T, …]: a view where both are regular.

        Raises:
            PhysteerError: A row or frame is beyond the activation.
        """
        index = self._index(activation)
        return activation if index is None else activation[index]

    def put(self, activation: Tensor, part: Tensor) -> None:
        """Write rows and frames [b, t, …] back into an activation [B, T, …], in place."""
        index = self._index(activation)
        if index is None:
            activation.copy_(part)
        else:
            activation[index] = part

    def _index(self, activation: Tensor) -> tuple[slice | Tensor, ...] | None:
        if self.rows is None and self.frames is None:
            return None
        rows = _resolve(self.rows, activation.shape[0], "row")
        if self.frames is None:
            return (_positions(rows, activation),)
        if activation.ndim < 2:
            raise PhysteerError(f"an edit asks for frames of an activation of shape {tuple(activation.shape)}")
        frames = _resolve(self.frames, activation.shape[1], "frame")
        if isinstance(rows, slice) or isinstance(frames, slice):
            return _positions(rows, activation), _positions(frames, activation)
        # Two lists mean their outer product, not pairs.
        return _positions(rows, activation)[:, None], _positions(frames, activation)  # type: ignore[index]


def _resolve(index: Index | None, size: int, axis: str) -> slice | list[int]:
    """Return positions from 0, as a slice where they are consecutive (slices are views, lists copies)."""
    if index is None:
        return slice(0, size)
    if isinstance(index, slice):
        bounds = [bound for bound in (index.start, index.stop) if bound is not None]
        selected = range(*index.indices(size))
        # Python cuts a slice off silently; an edit that silently misses its rows must not pass.
        if not selected or any(not -size <= bound <= size for bound in bounds):
            raise PhysteerError(f"{axis}s {written(index)} are not all there: the activation has {size}")
        positions = list(selected)
    else:
        positions = [i + size if i < 0 else i for i in index]
        beyond = [i for i, position in zip(index, positions, strict=True) if not 0 <= position < size]
        if beyond or not positions:
            raise PhysteerError(f"{axis} {beyond[0] if beyond else 'list is empty'}: the activation has {size}")
        if len(set(positions)) < len(positions):
            raise PhysteerError(f"{axis}s {list(index)} name one twice")
    if positions == list(range(positions[0], positions[-1] + 1)):
        return slice(positions[0], positions[-1] + 1)
    return positions


def _positions(index: slice | list[int], activation: Tensor) -> slice | Tensor:
    return index if isinstance(index, slice) else torch.tensor(index, device=activation.device)


def written(index: slice) -> str:
    """Return a slice as it is written in brackets, such as 5: or 0:8:2."""
    ends = ["" if bound is None else str(bound) for bound in (index.start, index.stop)]
    return ":".join(ends if index.step is None else [*ends, str(index.step)])


EVERYWHERE = Locus()
"""All rows, frames and tokens, at every step."""
