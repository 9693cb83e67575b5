"""Replacements r(h): the value that an edit puts in an activation's place; steering has a file of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn

from physteer.errors import PhysteerError
from physteer.interventions.constant import Constant
from physteer.interventions.seeds import derangement

Reads = Literal["values", "channels", "axes"]
"""What a replacement has to tell apart: nothing or rows, which axis is the channels, or space and frames too."""


class Replacement(nn.Module, ABC):
    """A function of the rows and frames that an edit's locus selects.

    Where it changes nothing it returns its argument itself: then nothing is copied, and not a bit changes.
    """

    @abstractmethod
    def forward(self, h: Tensor) -> Tensor:
        """Return r(h), of h's shape, as a new tensor: the network may change it in place afterwards.

        Args:
            h: [B, T, …, d], [B, T, h, w, δ, d] of Walrus; at a site without a layout, the output of the module as it
                is. Not to be changed in place.
        """

    def readable(self, h: Tensor) -> Tensor:
        """Return r(h) to be read only: it may be what the replacement keeps, where `forward` returns a copy."""
        replaced: Tensor = self(h)
        return replaced

    def reads(self, ndim: int) -> Reads:
        """Return what the replacement must be able to tell apart in an activation of so many axes.

        At a site without a layout, edits are refused by it (`Edit.check_known`).
        """
        return "values"


class Zero(Replacement):
    """r(h) = 0."""

    def forward(self, h: Tensor) -> Tensor:
        """Return zeros."""
        return torch.zeros_like(h)


class Mean(Replacement):
    """r(h) = a given mean: a vector [d], or a field [h, w, δ, d] for every row and frame."""

    def __init__(self, mean: Tensor) -> None:
        super().__init__()
        if not bool(torch.isfinite(mean).all()):
            raise PhysteerError("the mean to put in has values that are not finite")
        self._mean = Constant(mean)

    def forward(self, h: Tensor) -> Tensor:
        """Return the mean for every row and frame."""
        return _copy_like(self._mean.on(h.device), h)

    def reads(self, ndim: int) -> Reads:
        """Return "channels" for a vector or field that is repeated over other axes than rows."""
        return _reads_of(self._mean.value, ndim)


class Interchange(Replacement):
    """r(h) = another activation, usually the same site of another run.

    `source` may be assigned anew between forwards; gradients flow into it unless it is detached.
    """

    def __init__(self, source: Tensor | None = None) -> None:
        """Keep the source.

        Args:
            source: broadcastable to the part of the activation that the edit's locus selects (`Locus.take` of the other
                run's activation).
        """
        super().__init__()
        self.source = source

    def forward(self, h: Tensor) -> Tensor:
        """Return a copy of the source."""
        if self.source is None:
            raise PhysteerError("an interchange has no source yet")
        return _copy_like(self.source, h)

    def readable(self, h: Tensor) -> Tensor:
        """Return the source itself; a copy of one from inference mode, which autograd could not keep."""
        source = self.source
        if source is None or source.is_inference() or type(self).forward is not Interchange.forward:
            return super().readable(h)
        value = _like(source, h)
        return h.view_as(h) if value is h else value  # h itself would say that there is nothing to train

    def reads(self, ndim: int) -> Reads:
        """Return "channels" for a source that is repeated over other axes than rows."""
        return "values" if self.source is None else _reads_of(self.source, ndim)


class InterchangeMean(Interchange):
    """r(h) = h + ⟨s⟩ − ⟨h⟩: the mean over space is another activation's, per row and frame; the rest stays.

    With a subspace, the spatial mean of its coordinates is exchanged. Use it for sources of other initial conditions,
    whose tokens do not correspond to the base's. The source may lie on another grid.
    """

    def forward(self, h: Tensor) -> Tensor:
        """Return the shifted activation, in float32 or wider.

        Args:
            h: [B, T, h, w, δ, d]: between frames and channels, all axes are space.

        Raises:
            PhysteerError: There is no source, no axis of space, or the two do not fit.
        """
        if self.source is None:
            raise PhysteerError("an interchange has no source yet")
        if h.ndim < 4:
            raise PhysteerError(f"an activation {list(h.shape)} has no axes of space to take the mean over")
        wide = torch.promote_types(h.dtype, torch.float32)
        source = without_absent_axes(self.source, h.ndim).to(device=h.device, dtype=wide)
        own_mean, source_mean = _space_mean(h.to(wide)), _space_mean(source)
        try:
            return h.to(wide) + (source_mean - own_mean)
        except RuntimeError:
            raise PhysteerError(f"a source {list(source.shape)} does not fit an activation {list(h.shape)}") from None

    def reads(self, ndim: int) -> Reads:
        """Return "axes": means are over space."""
        return "axes"


class Resample(Replacement):
    """r(h) = the activations of other rows of the batch: a derangement (no row keeps its own).

    The draw depends on the seed and the number of rows only. A new draw at every call would change the objective
    between the evaluations of a line search.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.seed = seed
        self._drawn: dict[int, Constant] = {}

    def order(self, n: int) -> Tensor:
        """Return the derangement of n rows: row i gets the activation of row order[i].

        Raises:
            PhysteerError: Fewer than two rows.
        """
        if n < 2:
            raise PhysteerError(f"resampling within a batch needs two rows or more; there is {n}")
        return derangement(n, torch.Generator().manual_seed(self.seed * 1_000_003 + n))

    def forward(self, h: Tensor) -> Tensor:
        """Return the rows in their new order."""
        n = h.shape[0]
        if n not in self._drawn:
            self._drawn[n] = Constant(self.order(n))
        return h[self._drawn[n].on(h.device)]


class Scale(Replacement):
    """r(h) = c h."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, h: Tensor) -> Tensor:
        """Return the scaled activation."""
        return h if self.factor == 1 else self.factor * h


def _space_mean(x: Tensor) -> Tensor:
    return x.mean(dim=tuple(range(2, x.ndim - 1)), keepdim=True)  # [B, T, 1, 1, 1, d]


def _reads_of(value: Tensor, ndim: int) -> Reads:
    return "values" if value.ndim >= ndim - 1 else "channels"


def without_absent_axes(value: Tensor, ndim: int) -> Tensor:
    """Return a value [..., h, w, 1, d] without axes of space that an activation of `ndim` axes has not.

    Observers of rollouts see activations with three axes of space, the absent ones of size 1.
    """
    excess = value.ndim - ndim
    absent = value.shape[-1 - excess : -1] if excess > 0 else ()
    return value.flatten(-1 - excess) if absent and all(size == 1 for size in absent) else value


def _copy_like(value: Tensor, h: Tensor) -> Tensor:
    """Return a value as a new tensor of an activation's shape, precision and device."""
    return _like(value, h).clone(memory_format=torch.contiguous_format)


def _like(value: Tensor, h: Tensor) -> Tensor:
    if value.shape == h.shape and value.dtype == h.dtype and value.device == h.device:
        return value
    try:
        return without_absent_axes(value, h.ndim).to(device=h.device, dtype=h.dtype).expand_as(h)
    except RuntimeError:
        alone = value.ndim == h.ndim and h.shape[1] == 1 != value.shape[1]
        hint = ": only the last frame is computed here, so give the last frame of the value" if alone else ""
        raise PhysteerError(f"a value {list(value.shape)} does not fit an activation {list(h.shape)}{hint}") from None
