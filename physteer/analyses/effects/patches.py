"""Patches: what comes in a node's place, at which scale.

b is the node's activation in the base pass and s another one; c is the scale. μ is the mean over natural windows and
positions, and the columns of U [d, k] are the first principal directions around it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from physteer.errors import PhysteerError, did_you_mean

Variant = Literal[
    "zero",
    "mean",
    "resample",
    "source",
    "scaled_resample",
    "scaled_source",
    "span_self",
    "complement_self",
    "span_source",
    "complement_source",
]
VARIANTS: Mapping[str, str] = {
    "zero": "b + c(0 − b)",
    "mean": "b + c(μ − b)",
    "resample": "b + c(s − b), s of another window",
    "source": "b + c(s − b), s of the source",
    "scaled_resample": "c·s, s of another window",
    "scaled_source": "c·s, s of the source",
    "span_self": "b + UUᵀ(c(b − μ) − (b − μ))",
    "complement_self": "b + (1 − UUᵀ)(c(b − μ) − (b − μ)) + (c − 1)μ",
    "span_source": "b + UUᵀ(c(s − μ) − (b − μ))",
    "complement_source": "b + (1 − UUᵀ)(c(s − μ) − (b − μ)) + (c − 1)μ",
}
"""The variants of a patch, with their formulas. At c = 0 `source` does nothing, and `scaled_source` puts in zeros."""
SCALES = (0.0, 0.1, 0.2, 0.5, 0.7, 0.8, 1.0, 1.2, 1.4, 2.0, 5.0, 10.0)
"""The default scales."""
Reference = Literal["source", "resample"]
"""Which other pass a patch takes its activation from."""


@dataclass(frozen=True, eq=False)
class NodeStatistics:
    """Mean and principal directions of a node's natural activations."""

    mean: Tensor
    """μ [width], float32; or per position, [T, 1, …, 1, width]."""
    directions: Tensor | None = None
    """U [width, k], float32; or per position, [T, 1, …, width, k]. None where they were not asked for."""

    def to(self, device: torch.device) -> NodeStatistics:
        """Return the statistics on a device."""
        return NodeStatistics(self.mean.to(device), None if self.directions is None else self.directions.to(device))

    def aligned(self, ndim: int) -> NodeStatistics:
        """Return statistics per position for activations of `ndim` axes, which may have fewer of space."""
        excess = self.mean.ndim - ndim + 1  # [T, 1, …, width]
        if excess <= 0:
            return self
        directions = None if self.directions is None else self.directions.flatten(1, 1 + excess)
        return NodeStatistics(self.mean.flatten(1, 1 + excess), directions)

    def projected(self, x: Tensor) -> Tensor:
        """Return UUᵀx for x [B, T, …, width]."""
        assert self.directions is not None  # checked where they are fitted
        u = self.directions
        if u.ndim == 2:
            return (x @ u) @ u.mT
        return ((x[..., None, :] @ u) @ u.mT)[..., 0, :]


@dataclass(frozen=True)
class Patch:
    """One way to replace a node's activation."""

    variant: str
    """A name in `VARIANTS`."""
    scale: float
    """c."""

    @property
    def reference(self) -> Reference | None:
        """The other pass that it takes an activation from; None where there is none."""
        if self.variant.endswith("resample"):
            return "resample"
        return "source" if self.variant.endswith("source") else None

    @property
    def needs_directions(self) -> bool:
        """Whether it needs principal directions."""
        return self.variant.startswith(("span", "complement"))

    @property
    def needs_mean(self) -> bool:
        """Whether it needs the mean of natural activations."""
        return self.variant == "mean" or self.needs_directions

    def __call__(self, base: Tensor, other: Tensor | None, statistics: NodeStatistics | None) -> Tensor:
        """Return the new activation: the base itself, not a copy, where nothing changes.

        Args:
            base: b [B, T, …, width].
            other: s, of the same shape; None for variants without `reference`.
            statistics: of the node; None for variants that need none.

        Returns:
            The new activation in b's precision; it is computed in float32 or wider.
        """
        c, variant = self.scale, self.variant
        wide = torch.promote_types(base.dtype, torch.float32)
        b = base.to(wide)
        s = b if other is None else other.to(wide)
        if variant.startswith("scaled"):
            return (c * s).to(base.dtype)
        if self.needs_directions:
            if other is None and c == 1:
                return base
            assert statistics is not None  # fitted for every variant with `needs_mean`
            statistics = statistics.aligned(b.ndim)
            mean = statistics.mean.to(wide)
            change = c * (s - mean) - (b - mean)
            inside = statistics.projected(change)
            if variant.startswith("span"):
                return (b + inside).to(base.dtype)
            return (b + change - inside + (c - 1) * mean).to(base.dtype)
        if c == 0:
            return base
        target = s
        if variant == "zero":
            target = torch.zeros_like(b)
        elif variant == "mean":
            assert statistics is not None
            target = statistics.aligned(b.ndim).mean.to(wide).expand_as(b)
        return (target if c == 1 else b + c * (target - b)).to(base.dtype)


def make_patches(variants: Sequence[str], scales: Sequence[float]) -> tuple[Patch, ...]:
    """Return every variant at every scale.

    Raises:
        PhysteerError: A variant is unknown, a scale is not finite, or one is given twice.
    """
    for name, values in (("variants", variants), ("scales", scales)):
        if not values or len(set(values)) < len(values):
            raise PhysteerError(f"{name} must be one or more, all different; found {list(values)}")
    for variant in variants:
        if variant not in VARIANTS:
            close = did_you_mean(variant, VARIANTS)
            raise PhysteerError(f"variant {variant!r} of a patch is not one of {', '.join(VARIANTS)}{close}")
    for scale in scales:
        if not math.isfinite(scale):
            raise PhysteerError(f"scales must be finite; found {scale}")
    return tuple(Patch(variant, float(scale)) for variant in variants for scale in scales)
