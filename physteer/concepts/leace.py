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
    """R = W U [d, k], float64: what is read of an activation; RᵀL = 1."""
    write: Tensor
    """L = W⁺ U [d, k], float64: the directions that are changed."""
    targets: tuple[str, ...]
    """What is erased."""
    count: int
    """Samples seen."""
    site: str = ""
    """Where the activations are from, such as `blocks.3`."""
    model: str = ""
    """Which weights."""
    data: str = ""
    """Which data set and split."""

    def __post_init__(self) -> None:
        self.replacement()

    @property
    def rank(self) -> int:
        """Number of directions that are erased."""
        return self.read.shape[1]

    def replacement(self) -> Erase:
        """Return what an `Edit` puts in an activation's place."""
        return Erase(self.mean, self.read, self.write)


class LeaceFitter(CrossMoments):
    """Fits a `LeaceEraser` in one pass, or to the sums of a `RidgeFitter`: load its `state_dict`.

    With W = Σ_xx^(−½) and U the left singular vectors of W Σ_xz that belong to singular values above 0,
    r(x) = x − W⁺ U Uᵀ W (x − μ). It leaves Cov(r(x), z) = 0, so that the best linear prediction of z from r(x) is its
    mean, and of all affine maps that do, E‖r(x) − x‖² is smallest, in any norm.

    The kept library concept-erasure 0.2.4 (January 2024) is not used: its fitter cannot be merged over processes, and
    the sums here are those of the probes. It is installed for the tests, which compare with it.
    """

    def fit(
        self, targets: Sequence[str] | None = None, *, site: str = "", model: str = "", data: str = ""
    ) -> LeaceEraser:
        """Return the eraser of targets; those that never varied have nothing to erase.

        Args:
            targets: names of those to erase; None for all.
            site: where the activations are from.
            model: which weights.
            data: which data set and split.

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
