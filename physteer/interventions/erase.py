"""Erasure: an affine, oblique map of an activation that removes what a linear probe could read."""

from __future__ import annotations

import torch
from torch import Tensor

from physteer.errors import PhysteerError
from physteer.interventions.constant import Constant
from physteer.interventions.replacements import Reads, Replacement


class Erase(Replacement):
    """r(h) = h − ((h − μ) R) Lᵀ: R measures the component, L removes it; h is unchanged where (h − μ) R = 0.

    With RᵀL = 1 the map is an oblique projection, which no `Subspace` can express. `physteer.concepts.LeaceFitter`
    fits the map that erases a concept.
    """

    def __init__(self, mean: Tensor, read: Tensor, write: Tensor) -> None:
        """Keep the map.

        Args:
            mean: μ [d].
            read: R [d, k].
            write: L [d, k].

        Raises:
            PhysteerError: The shapes do not fit, or a value is not finite.
        """
        super().__init__()
        if read.ndim != 2 or read.shape != write.shape or mean.shape != read.shape[:1]:
            raise PhysteerError(
                f"an erasure's mean {list(mean.shape)}, directions {list(read.shape)} and {list(write.shape)} do not "
                "fit: [d], [d, k] and [d, k] are wanted"
            )
        if not all(bool(part.isfinite().all()) for part in (mean, read, write)):
            raise PhysteerError("an erasure has values that are not finite")
        self._mean, self._read, self._write = (Constant(part) for part in (mean, read, write))

    def forward(self, h: Tensor) -> Tensor:
        """Return the erased activation, in h's precision; it is computed in float32 or wider, without autocast.

        Args:
            h: [..., d].

        Raises:
            PhysteerError: The width differs from the map's.
        """
        if h.shape[-1] != len(self._mean.value):
            raise PhysteerError(f"an erasure of width {len(self._mean.value)} does not fit {list(h.shape)}")
        if not self._read.value.shape[1]:
            return h
        with torch.autocast(h.device.type, enabled=False):
            wide = h.to(torch.promote_types(h.dtype, torch.float32))
            mean, read, write = (part.on(h.device).to(wide) for part in (self._mean, self._read, self._write))
            return (wide - ((wide - mean) @ read) @ write.mT).to(h.dtype)

    def reads(self, ndim: int) -> Reads:
        """Return "channels"."""
        return "channels"
