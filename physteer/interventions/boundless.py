"""Boundless search: a full rotation, of which a learned share of the columns is exchanged."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from physteer.errors import PhysteerError
from physteer.interventions.rotation import OrthonormalColumns
from physteer.interventions.subspace import Subspace

SMALLEST = 1e-3
"""Smallest β, a share of the width; at least one column is always exchanged."""
WARMEST, COLDEST = 0.05, 1e-4
"""Temperature τ at the start and at the end of training, in units of the width."""


class BoundlessRotation(Subspace):
    """A learned subspace that also learns how large it is (Wu et al., arXiv 2305.08809): Π x = x R diag(m) Rᵀ.

    R is [d, d]. In training m_i = σ((i + ½)/τ) σ((βd − i − ½)/τ), with columns i from 0. It is about 1 for the first βd
    columns, and the width of its edge is the temperature τ; it is the same for all rows of a batch. The halves let the
    mask of column 0 go to 1 as τ falls. In evaluation the edge is hard: m_i = 1 where i < βd. The loss needs a penalty
    on β, `loss + λ β` (`share`); without it, nothing makes the subspace small.

    Cost: O(d³) for R and its gradient in every step, about 20 d³ operations, and 4 d² for every token; d = 1408 takes
    seconds on one core. `LowRankRotation` costs d k² and 4 d k: prefer it where the dimension is known.
    """

    _temperature: Tensor

    def __init__(self, width: int, seed: int = 0) -> None:
        """Draw a random rotation, half of whose columns are exchanged.

        Args:
            width: d of the site.
            seed: equal seeds give equal rotations.

        Raises:
            PhysteerError: d < 1.
        """
        super().__init__()
        self.rotation = OrthonormalColumns(width, width, seed)
        self.boundary = nn.Parameter(torch.tensor(0.5, dtype=torch.float32))  # β before it is clamped
        # A buffer, so that checkpoints restore it; not a parameter: an optimiser would raise it.
        self.register_buffer("_temperature", torch.tensor(WARMEST * width, dtype=torch.float32))

    @property
    def temperature(self) -> float:
        """τ, in columns; `anneal` sets it."""
        return float(self._temperature)

    def anneal(self, progress: float) -> None:
        """Set the temperature: geometric, from 0.05 d at progress 0 to 1e-4 d at 1.

        Raises:
            PhysteerError: The progress is not a share of the training.
        """
        if not 0 <= progress <= 1:
            raise PhysteerError(f"the progress of training is between 0 and 1; found {progress}")
        width = self.rotation.raw.shape[0]
        self._temperature.fill_(width * WARMEST * math.pow(COLDEST / WARMEST, progress))

    @property
    def share(self) -> Tensor:
        """β, clamped to [1e-3, 1]: the share of the columns that is exchanged. Add a penalty on it to the loss."""
        share: Tensor = _Clamp.apply(self.boundary, SMALLEST, 1.0)  # type: ignore[no-untyped-call]
        return share

    @property
    def rank(self) -> int:
        """Number of columns that are exchanged in evaluation."""
        return int(self._hard_mask().sum())

    @property
    def basis(self) -> Tensor:
        """The columns of R that are exchanged in evaluation, [d, rank] in float32."""
        columns: Tensor = self.rotation()
        return columns[:, : self.rank]

    @property
    def mask(self) -> Tensor:
        """How much of each column is exchanged, m [d]: soft in training, zeros and ones in evaluation."""
        if not self.training:
            return self._hard_mask()
        column = self._column()
        edge = self.share * len(column)
        return ((column + 0.5) / self._temperature).sigmoid() * ((edge - column - 0.5) / self._temperature).sigmoid()

    def project(self, change: Tensor) -> Tensor:
        """Return x R diag(m) Rᵀ.

        Raises:
            PhysteerError: The widths differ.
        """
        rotation: Tensor = self.rotation().to(change.dtype)
        if change.shape[-1] != len(rotation):
            raise PhysteerError(f"the rotation has width {len(rotation)}, the activation has {change.shape[-1]}")
        return ((change @ rotation) * self.mask.to(change.dtype)) @ rotation.mT

    def _hard_mask(self) -> Tensor:
        column = self._column()
        return (column < self.share.detach() * len(column)).float()

    def _column(self) -> Tensor:
        return torch.arange(self.rotation.raw.shape[0], device=self.boundary.device, dtype=torch.float32)


class _Clamp(torch.autograd.Function):
    """Clamp that keeps gradients which lead back inside: plain clamping would trap a value once it is outside."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward(value)
        ctx.low, ctx.high = low, high
        return value.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (value,) = ctx.saved_tensors
        outward = ((value < ctx.low) & (gradient > 0)) | ((value > ctx.high) & (gradient < 0))
        return gradient.masked_fill(outward, 0.0), None, None
