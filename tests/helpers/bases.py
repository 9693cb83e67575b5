"""Causal bases of small functions: data in which a model reads a known space, and extractions from them."""

from collections.abc import Callable

import torch
from torch import Tensor

from physteer.analyses.basis import (
    BasisFit,
    BasisPlan,
    ExtractionSettings,
    FieldDivergence,
    fit_basis,
    parts_of,
    row_derangement,
    with_partners,
)

D, K = 32, 4


class PlantedReader:
    """f(h) = tanh(h R W + b) V: it reads h through R [D, K] alone."""

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.planted = torch.linalg.qr(torch.randn(D, K, generator=generator))[0]
        self.inner = 0.35 * torch.randn(K, 16, generator=generator)
        self.bias = 0.5 * torch.randn(16, generator=generator)
        self.outer = torch.randn(16, 6, generator=generator) / 4

    def __call__(self, h: Tensor) -> Tensor:
        return torch.tanh(h @ self.planted @ self.inner + self.bias) @ self.outer


def white(n: int, seed: int, width: int = D) -> Tensor:
    """Return samples [n, width] whose mean is 0 and whose covariance is 1, in the sample."""
    x = torch.randn(n, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = x - x.mean(0)
    root = torch.linalg.cholesky(x.mT @ x / n)
    return torch.linalg.solve_triangular(root, x.mT, upper=False).mT.float()


def correlated(n: int, seed: int) -> Tensor:
    """Return samples [n, D] with standard deviations from 1 to 0.1 along random axes."""
    generator = torch.Generator().manual_seed(1000 + seed)
    axes = torch.linalg.qr(torch.randn(D, D, generator=generator))[0]
    return white(n, seed) * torch.logspace(0, -1, D) @ axes.mT


def extracted(h: Tensor, tail, mode="mean", *, divergence=None, labels=None, batch=8192, halves=(), **settings):
    """Return the `BasisFit` of activations, and the parts it was made from."""
    order = row_derangement(len(h), mode, settings.get("seed", 0))
    parts = with_partners(parts_of(h, tail, labels, batch), order)
    plan = BasisPlan(mode, ExtractionSettings(**settings))
    fit: BasisFit = fit_basis("blocks.1", parts, order, divergence or FieldDivergence(), plan, halves=halves)
    return fit, parts


class Troubled(FieldDivergence):
    """Of one's own, by class path: something happens at a call of the process; class attributes are no settings."""

    after = -1
    """Calls until it happens; negative for never."""
    happens: Callable[[Tensor], Tensor]

    def forward(self, ablated: Tensor, base: Tensor, labels: Tensor | None = None) -> Tensor:
        Troubled.after -= 1
        values = super().forward(ablated, base)
        return Troubled.happens(values) if Troubled.after == 0 else values
