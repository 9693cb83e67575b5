"""The subspaces that a causal basis is compared with, at equal numbers of directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from physteer.analyses.basis.fitting import BasisFit
from physteer.analyses.basis.table import CAUSAL, DIRECTION, FULL, PCA, RANDOM
from physteer.concepts import FixedSubspace
from physteer.errors import PhysteerError
from physteer.interventions import Site
from physteer.interventions.seeds import generator_of
from physteer.metrics import largest_principal_angle


@dataclass(frozen=True, eq=False)
class ComparedSubspace:
    """A subspace of a site, for ablation and for interchange."""

    method: str
    name: str
    rank: int
    read: Tensor
    """R [d, k]: ablation removes (h − t) R Lᵀ."""
    write: Tensor
    """L [d, k]."""
    basis: Tensor | None
    """What an interchange exchanges: orth(R) [d, k], float32; None for the whole activation."""
    angle: float
    """Degrees to the span of as many causal directions; NaN for the whole activation."""


def comparison_ranks(k: int) -> list[int]:
    """Return the ranks at which k directions are compared: powers of two up to k, and k."""
    return sorted({k, *(2**i for i in range(k.bit_length()) if 2**i <= k)})


def check_directions(fixed: Sequence[FixedSubspace], widths: dict[Site, int]) -> None:
    """Check that fixed subspaces are of the sites.

    Raises:
        PhysteerError: One is at another site or of another width.
    """
    for subspace in fixed:
        if widths.get(subspace.site) != len(subspace.basis):
            known = ", ".join(f"{site} of width {width}" for site, width in widths.items())
            raise PhysteerError(
                f"direction {subspace.name} is at {subspace.site} and has width {len(subspace.basis)}; "
                f"CausalBasis.sites are {known}"
            )


def compared_subspaces(
    fit: BasisFit, fixed: Sequence[FixedSubspace], n_random: int, seed: int
) -> list[ComparedSubspace]:
    """Return the causal basis, PCA, fixed subspaces and random ones of a site, and the whole activation.

    A subspace is ablated in the metric of the basis: in the whitened one, L is what belongs to its R there.

    Args:
        fit: of the site.
        fixed: subspaces, of any site; others than this one's are left out.
        n_random: random subspaces of each rank.
        seed: of the random subspaces.
    """
    basis = fit.basis
    here = [subspace for subspace in fixed if str(subspace.site) == basis.site]
    own_ranks = {subspace.basis.shape[1] for subspace in here}
    ranks = sorted({*comparison_ranks(basis.k), *(rank for rank in own_ranks if rank <= basis.k)})
    compared: list[ComparedSubspace] = []

    def add(method: str, name: str, span: Tensor) -> None:
        orthonormal = torch.linalg.qr(span.double())[0]
        read, write = fit.metric.pair(fit.metric.coordinates(orthonormal))
        rank = span.shape[1]
        angle = largest_principal_angle(orthonormal, basis.span(min(rank, basis.k)))
        compared.append(ComparedSubspace(method, name, rank, read, write, orthonormal.float(), angle))

    for rank in ranks:
        pair = basis.read[:, :rank], basis.write[:, :rank]
        compared.append(ComparedSubspace(CAUSAL, "", rank, *pair, basis.span(rank).float(), 0.0))
        add(PCA, "", fit.main_directions[:, :rank])
    for subspace in here:
        add(DIRECTION, subspace.name, subspace.basis)
    for rank in sorted({*ranks, *own_ranks}):
        for i in range(1, n_random + 1):
            generator = generator_of("causal basis random", seed, basis.site, rank, i)
            add(RANDOM, str(i), torch.randn(basis.width, rank, generator=generator, dtype=torch.float64))
    whole = torch.eye(basis.width, dtype=torch.float64)
    compared.append(ComparedSubspace(FULL, "", basis.width, whole, whole, None, torch.nan))
    return compared
