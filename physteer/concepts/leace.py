"""LEACE: the smallest change of activations after which no linear probe reads a concept (arXiv 2306.03819)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from physteer.concepts.cross_moments import CrossMoments
from physteer.concepts.linear import principal
from physteer.errors import PhysteerError, did_you_mean
from physteer.interventions.erase import Erase
from physteer.tensor_files import TensorFile

_CORRELATION = 1e-6
"""Canonical correlations below are round-off of targets that depend on each other."""


@dataclass(frozen=True, eq=False)
class LeaceEraser(TensorFile):
    """The eraser r(x) = x − L Rᵀ (x − μ) of rank k.

    Raises:
        PhysteerError: Shapes do not fit, or a value is not finite.
    """

    KIND: ClassVar = "eraser"
    VERSION: ClassVar = 1

    mean: Tensor
    """μ [d], float64, on the CPU."""
    read: Tensor
    """R = W U [d, k], float64: measures the components that are removed; RᵀL = 1."""
    write: Tensor
    """L = W⁺ U [d, k], float64: the directions along which they are removed."""
    targets: tuple[str, ...]
    """Names of the erased targets."""
    count: int
    """Number of samples it was fitted to."""
    site: str = ""
    """Site of the activations, such as `blocks.3`."""
    model: str = ""
    """The weights."""
    data: str = ""
    """Data set and split."""

    def __post_init__(self) -> None:
        self.replacement()

    @property
    def rank(self) -> int:
        """Number of directions that are erased."""
        return self.read.shape[1]

    def replacement(self) -> Erase:
        """Return the eraser as the replacement of an `Edit`."""
        return Erase(self.mean, self.read, self.write)


class LeaceFitter(CrossMoments):
    """Fits a `LeaceEraser` in one pass, or from the sums of a `RidgeFitter`: load its `state_dict`.

    With W = Σ_xx^(−½) and U the left singular vectors of W Σ_xz that belong to singular values above 0,
    r(x) = x − W⁺ U Uᵀ W (x − μ). Then Cov(r(x), z) = 0, and the best linear prediction of z from r(x) is its mean.
    Among all affine maps with this property, r has the smallest E‖r(x) − x‖², in any norm.

    The authors' library concept-erasure 0.2.4 (January 2024) is not used: its fitter cannot be merged over processes,
    and the sums here are also those of the probes. The tests compare with it.
    """

    def fit(
        self, targets: Sequence[str] | None = None, *, site: str = "", model: str = "", data: str = ""
    ) -> LeaceEraser:
        """Return the eraser of targets; those that never varied are left out.

        Args:
            targets: names of those to erase; None for all.
            site: of the activations.
            model: the weights.
            data: data set and split.

        Raises:
            PhysteerError: Fewer than two samples were seen, there is no such target, or none varied.
        """
        asked = self.targets if targets is None else tuple(targets)
        for name in asked:
            if name not in self.targets:
                known = ", ".join(self.targets)
                raise PhysteerError(f"no target {name!r} was seen, only {known}{did_you_mean(name, self.targets)}")
        mean, kept = self.mean_x, [i for i in self.varying if self.targets[i] in asked]
        if not kept:
            raise PhysteerError(f"no target varies, so there is nothing to erase: {', '.join(asked)}")
        eigenvalues, vectors = principal(self.scatter_xx)  # [r], [d, r]; n cancels in W⁺ U Uᵀ W
        # In the eigenvectors' coordinates W is diagonal. Targets of unit variance make the singular values canonical
        # correlations, so that one tolerance serves targets of any units.
        standard = self.scatter_xy[:, kept] / self.scatter_yy[kept].sqrt()
        left, correlations, _ = torch.linalg.svd(
            eigenvalues.rsqrt()[:, None] * (vectors.mT @ standard), full_matrices=False
        )
        left = left[:, correlations > _CORRELATION]  # [d, k]
        return LeaceEraser(
            mean=mean.cpu(),
            read=(vectors @ (eigenvalues.rsqrt()[:, None] * left)).cpu(),
            write=(vectors @ (eigenvalues.sqrt()[:, None] * left)).cpu(),
            targets=tuple(self.targets[i] for i in kept),
            count=self.count,
            site=site,
            model=model,
            data=data,
        )
