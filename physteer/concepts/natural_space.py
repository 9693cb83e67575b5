"""The space of natural activations: their mean and main directions, and how far others are from them.

`TokenCovariance` streams natural activations into a `NaturalSpace`; `physteer.concepts.naturalness` tells what its
distances mean.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

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
    """[B, T]: √⟨‖x − μ − Σ_i z_i v_i‖²⟩, the norm of what is outside the main directions; 0 where they span it all."""


@dataclass(frozen=True, eq=False)
class NaturalSpace:
    """Mean and main directions of natural activations, every token a sample."""

    mean: Tensor
    """μ [d], float64."""
    directions: Tensor
    """v [d, k], float64, orthonormal columns, those of largest variance first."""
    variances: Tensor
    """λ [k], float64, all positive."""
    residual_variance: float
    """Variance outside the main directions, summed over channels."""
    tokens: int
    """How many were seen."""

    def distances(self, h: Tensor) -> Distances:
        """Measure activations.

        A frame's tokens are taken together because steering moves all of them at once, by a little each.

        Args:
            h: [B, T, h, w, δ, d].

        Raises:
            PhysteerError: The width is another one.
        """
        if h.ndim != 6 or h.shape[-1] != len(self.mean):
            raise PhysteerError(f"natural activations are [B, T, h, w, δ, {len(self.mean)}]; this is {list(h.shape)}")
        x = _tokens(h).sub(self.mean.to(_device(h)))  # [B, T, tokens, d]
        v = self.directions.to(x.device)
        z = x @ v  # [B, T, tokens, k]
        squared = (z.square() / self.variances.to(x.device)).sum(-1)
        # Not ‖x‖² − ‖z‖², which loses a small residual to round-off; and where nothing is left over, exactly nothing.
        rest = (x - z @ v.mT).square().sum(-1) if v.shape[1] < v.shape[0] else torch.zeros_like(squared)
        return Distances(squared.mean(-1).sqrt(), rest.mean(-1).sqrt())


class TokenCovariance:
    """Streaming mean and covariance over tokens, d × d in float64, by the parallel update of Chan et al. (1979)."""

    def __init__(self) -> None:
        """Begin with nothing seen."""
        self.count = 0
        self._mean: Tensor | None = None
        self._scatter: Tensor | None = None  # Σ (x − mean)(x − mean)ᵀ

    def update(self, h: Tensor) -> None:
        """Add activations.

        Args:
            h: [B, T, h, w, δ, d]; every token of every row and frame is a sample.

        Raises:
            PhysteerError: The width is not that of the activations before.
        """
        if h.ndim != 6:
            raise PhysteerError(f"natural activations are [B, T, h, w, δ, d]; this has shape {list(h.shape)}")
        if h.numel() == 0:
            return
        x = _tokens(h).flatten(0, 2)  # [tokens, d]
        mean = x.mean(0)
        x = x - mean
        self._combine(len(x), mean, x.mT @ x)

    def merge(self, other: TokenCovariance) -> None:
        """Add what another process has seen."""
        if other._mean is not None and other._scatter is not None:
            self._combine(other.count, other._mean, other._scatter)

    def fit(self, directions: int = DIRECTIONS) -> NaturalSpace:
        """Return mean and main directions.

        Args:
            directions: how many at most; fewer where natural activations vary in fewer.

        Raises:
            PhysteerError: Fewer than two tokens were seen, they do not vary, or are not finite.
        """
        if self._mean is None or self._scatter is None or self.count < 2:
            raise PhysteerError(f"{self.count} tokens were seen: there is no covariance to compute")
        if not bool(self._scatter.isfinite().all()):
            raise PhysteerError("a natural activation is not finite")
        variances, vectors = torch.linalg.eigh(self._scatter / (self.count - 1))
        variances, vectors = variances.flip(0).clamp_min(0), vectors.flip(1)  # largest first
        k = min(directions, int((variances > _RANK * variances[0]).sum()))
        if k == 0:
            raise PhysteerError("natural activations do not vary: there is no direction to measure distances along")
        return NaturalSpace(
            mean=self._mean.clone(),
            directions=vectors[:, :k].contiguous(),
            variances=variances[:k].clone(),
            residual_variance=float(variances[k:].sum()),
            tokens=self.count,
        )

    def state_dict(self) -> dict[str, Tensor]:
        """Return the sums as tensors, to be sent to another process or saved."""
        empty = torch.empty(0, dtype=torch.float64)
        mean = empty if self._mean is None else self._mean
        scatter = empty if self._scatter is None else self._scatter
        return {"count": torch.tensor(self.count), "mean": mean, "scatter": scatter}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Replace what was seen by what `state_dict` returned."""
        self.count, self._mean, self._scatter = 0, None, None
        if int(state["count"]):
            self._combine(int(state["count"]), state["mean"], state["scatter"])

    def _combine(self, count: int, mean: Tensor, scatter: Tensor) -> None:
        if self._mean is None or self._scatter is None:
            self.count, self._mean, self._scatter = count, mean.clone(), scatter.clone()
            return
        if mean.shape != self._mean.shape:
            raise PhysteerError(f"activations of width {len(mean)} cannot join those of width {len(self._mean)}")
        total = self.count + count
        delta = mean.to(self._mean.device) - self._mean
        self._mean += delta * (count / total)
        self._scatter += scatter.to(self._scatter.device)
        self._scatter += torch.outer(delta, delta) * (self.count * count / total)
        self.count = total


def _device(h: Tensor) -> torch.device:
    return torch.device("cpu") if h.device.type == "mps" else h.device  # Apple GPUs have no float64


def _tokens(h: Tensor) -> Tensor:
    """Return activations in float64, off the autograd tape: [B, T, h, w, δ, d] → [B, T, tokens, d]."""
    return h.detach().to(_device(h)).double().flatten(2, 4)
