"""The space of natural activations: their mean and principal directions, and how far others are from them.

`physteer.concepts.naturalness` compares its distances with those of held-out natural activations.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from physteer.concepts.covariance import Covariance
from physteer.concepts.widened import widened
from physteer.errors import PhysteerError

DIRECTIONS = 64
_RANK = 1e-12
"""Of the largest variance: below it, a direction's variance is round-off and cannot be divided by."""


@dataclass(frozen=True, eq=False)
class Distances:
    """How far activations are from the natural mean, per row and frame: root mean squares over tokens."""

    mahalanobis: Tensor
    """[B, T]: √⟨Σ_i z_i²/λ_i⟩ in the main directions; about √k for natural activations."""
    residual: Tensor
    """[B, T]: √⟨‖x − μ − Σ_i z_i v_i‖²⟩, the norm outside the main directions; 0 where they span all channels."""


@dataclass(frozen=True, eq=False)
class NaturalSpace:
    """Mean and principal directions of natural activations, every token a sample."""

    mean: Tensor
    """μ [d], float64."""
    directions: Tensor
    """v [d, k], float64, orthonormal columns, those of largest variance first."""
    variances: Tensor
    """λ [k], float64, all positive."""
    residual_variance: float
    """Variance outside the main directions, summed over channels."""
    tokens: int
    """Number of tokens the space was fitted to."""

    @classmethod
    def of(cls, covariance: Covariance, directions: int = DIRECTIONS) -> NaturalSpace:
        """Return the space of the tokens whose covariance is given.

        Args:
            covariance: of natural activations, every token a sample.
            directions: number of main directions at most; fewer where natural activations vary in fewer.

        Raises:
            PhysteerError: There are fewer than two tokens, or they do not vary.
        """
        variances, vectors = (values.flip(-1) for values in covariance.principal(_RANK))  # largest first
        k = min(directions, len(variances))
        if k == 0:
            raise PhysteerError("natural activations do not vary: there is no direction to measure distances along")
        return cls(
            mean=covariance.mean,
            directions=vectors[:, :k].contiguous(),
            variances=variances[:k].clone(),
            residual_variance=float(variances[k:].sum()),
            tokens=covariance.count,
        )

    def distances(self, h: Tensor) -> Distances:
        """Return the distances of activations from the natural mean.

        The tokens of a frame are averaged because steering moves all of them at once, each by a little.

        Args:
            h: [B, T, h, w, δ, d].

        Raises:
            PhysteerError: The shape or the width is another one.
        """
        if h.ndim != 6 or h.shape[-1] != len(self.mean):
            raise PhysteerError(f"natural activations are [B, T, h, w, δ, {len(self.mean)}]; this is {list(h.shape)}")
        x = widened(h).double().flatten(2, 4)  # [B, T, tokens, d]
        x = x - self.mean.to(x.device)
        v = self.directions.to(x.device)
        z = x @ v  # [B, T, tokens, k]
        squared = (z.square() / self.variances.to(x.device)).sum(-1)
        # ‖x‖² − ‖z‖² would lose a small residual to round-off. Where the directions span all channels it is exactly 0.
        rest = (x - z @ v.mT).square().sum(-1) if v.shape[1] < v.shape[0] else torch.zeros_like(squared)
        return Distances(squared.mean(-1).sqrt(), rest.mean(-1).sqrt())
