"""Shared parts of linear probes and erasers: penalties, principal directions, and applying maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from physteer.errors import PhysteerError

_EPS = torch.finfo(torch.float64).eps


def penalties(alphas: Sequence[float], device: torch.device) -> Tensor:
    """Return α as [A], float64.

    Raises:
        PhysteerError: There are none, or one is not allowed.
    """
    if not alphas or not all(0 <= alpha < float("inf") for alpha in alphas):
        raise PhysteerError(f"alphas are one or more numbers of at least 0; found {list(alphas)}")
    return torch.tensor(alphas, dtype=torch.float64, device=device)


def check_maps(weights: Tensor, bias: Tensor, alphas: Tensor, alphas_shape: tuple[int, ...]) -> None:
    """Check the tensors of A linear maps.

    Args:
        weights: W, should be [A, d, m].
        bias: b, [A, m].
        alphas: the penalties.
        alphas_shape: the shape that they should have.

    Raises:
        PhysteerError: Shapes do not fit, or a value is not finite.
    """
    if weights.ndim != 3 or 0 in weights.shape or weights.shape[::2] != bias.shape or alphas.shape != alphas_shape:
        raise PhysteerError(f"weights {list(weights.shape)} and biases {list(bias.shape)} do not fit")
    if not bool(weights.isfinite().all() and bias.isfinite().all()):
        raise PhysteerError("a probe has weights that are not finite")


def principal(scatter: Tensor, smallest: float | None = None) -> tuple[Tensor, Tensor]:
    """Return the principal eigenvalues [r] and eigenvectors [d, r] of a symmetric matrix, smallest eigenvalue first.

    Directions in which activations do not vary are left out: a small α or an inverse would amplify their round-off.

    Args:
        scatter: a scatter or covariance matrix [d, d], float64.
        smallest: eigenvalues up to this share of the largest are left out; by default d times the machine's precision.
    """
    eigenvalues, vectors = torch.linalg.eigh(scatter)
    share = len(eigenvalues) * _EPS if smallest is None else smallest
    real = eigenvalues > share * eigenvalues[-1]
    return eigenvalues[real], vectors[:, real]


def apply_maps(weights: Tensor, bias: Tensor, x: Tensor) -> Tensor:
    """Return Wᵀx + b for A maps at once.

    Args:
        weights: W [A, d, m].
        bias: b [A, m].
        x: [..., d].

    Returns:
        [A, ..., m], float32, or float64 for activations in float64.

    Raises:
        PhysteerError: The width differs from the maps'.
    """
    n, d, m = weights.shape
    if x.shape[-1] != d:
        raise PhysteerError(f"a probe of width {d} cannot read an activation of width {x.shape[-1]}")
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    flat = weights.permute(1, 0, 2).reshape(d, n * m).to(x)
    mapped = torch.addmm(bias.flatten().to(x), x.reshape(-1, d), flat)  # [samples, A·m]
    return mapped.view(*x.shape[:-1], n, m).movedim(-2, 0)
