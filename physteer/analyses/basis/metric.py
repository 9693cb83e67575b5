"""The metric in which directions are orthonormal: of the channels as they are, or of whitened ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from physteer.concepts import Covariance
from physteer.errors import PhysteerError, did_you_mean

MetricName = Literal["raw", "whitened"]
METRICS: tuple[str, ...] = get_args(MetricName)
SMALLEST = 1e-6
"""Share of the largest variance; directions that vary less cannot be whitened and are left out."""
_ROUND_OFF = 1e-6
"""Of a mean: numbers that are all the same vary by less."""


@dataclass(frozen=True, eq=False)
class Metric:
    """Coordinates a [r] of directions, orthonormal in the metric, with two maps to channels.

    R = A a measures a component of an activation, and L = B a is what is removed of it. AᵀB = 1, so orthonormal
    coordinates give RᵀL = 1. With W = Σ^(−½), the whitened metric has A = W and B = W⁺ in the eigenvectors of Σ. Where
    channels are correlated, removing a direction orthogonally puts variance of others in, which models do not expect;
    removing it obliquely, along B a, leaves everything that is uncorrelated with it.
    """

    read_map: Tensor
    """A [d, r], float64."""
    write_map: Tensor
    """B [d, r], float64."""

    @property
    def rank(self) -> int:
        """Number r of directions that there are."""
        return self.read_map.shape[1]

    def pair(self, coordinates: Tensor) -> tuple[Tensor, Tensor]:
        """Return R and L [d, k] of coordinates [r, k]."""
        return self.read_map @ coordinates, self.write_map @ coordinates

    def gradient(self, read: Tensor, write: Tensor) -> Tensor:
        """Return the gradient with respect to coordinates [r] from those with respect to R and L [d]."""
        return self.read_map.mT @ read.double().cpu() + self.write_map.mT @ write.double().cpu()

    def coordinates(self, span: Tensor) -> Tensor:
        """Return orthonormal coordinates [r, k] whose R spans what the columns [d, k] span."""
        inside = self.write_map.mT @ span.double().cpu()
        coordinates: Tensor = torch.linalg.qr(inside / inside.norm(dim=0))[0]
        return coordinates


def metric_of(name: MetricName, covariance: Covariance) -> Metric:
    """Return a metric.

    Args:
        name: ``raw`` or ``whitened``.
        covariance: Σ of the activations, every token of every row of all processes a sample.

    Raises:
        PhysteerError: There is no such metric, activations do not vary, or there are too few samples to whiten with.
    """
    check_metric(name)
    width = covariance.width
    if not bool((covariance.squares > covariance.count * (_ROUND_OFF * covariance.mean) ** 2).any()):
        raise PhysteerError("activations do not vary: their variance is 0, and there is no direction to look for")
    if name == "raw":
        identity = torch.eye(width, dtype=torch.float64)
        return Metric(identity, identity)
    if covariance.count <= width:
        raise PhysteerError(
            f"the whitened metric of {width} channels needs {width + 1} samples (rows × tokens) or more; there are "
            f"{covariance.count}: give more windows, or take metric raw"
        )
    variances, vectors = (values.flip(-1).cpu() for values in covariance.principal(SMALLEST))  # largest first
    return Metric(vectors * variances.rsqrt(), vectors * variances.sqrt())


def check_metric(name: str) -> None:
    """Check that there is such a metric.

    Raises:
        PhysteerError: There is none.
    """
    if name not in METRICS:
        raise PhysteerError(f"metric {name!r} is not one of {', '.join(METRICS)}{did_you_mean(name, METRICS)}")
