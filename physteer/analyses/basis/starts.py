"""Starts of a direction's search: candidates, each of which costs one true forward before the best is refined.

The energy has several maxima. Candidates are directions in which activations vary most, directions that the output
depends on most, and random ones, all in the complement of the directions that there are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from physteer.analyses.basis.energy import AblationEnergy
from physteer.analyses.basis.metric import Metric
from physteer.analyses.engine import summed
from physteer.concepts import Covariance
from physteer.interventions.seeds import generator_of

COTANGENTS = 2
"""Random directions of the output per row, whose gradients tell what the output depends on."""


@dataclass(frozen=True, eq=False)
class Starts:
    """Where a search begins."""

    variance: Tensor
    """[r, r]: its main directions are those of the activations' variance."""
    dependence: Tensor
    """[r, r]: Bᵀ G B with G = E g gᵀ, g = ∂(u·y)/∂h at a token, u ~ N(0, 1)."""
    name: str
    """Of the site; part of the random directions' seed."""
    seed: int

    def candidates(self, basis: Tensor, count: int, restarts: int) -> Tensor:
        """Return unit candidates in the complement of a basis.

        Args:
            basis: coordinates [r, j] of the directions that there are, orthonormal.
            count: of candidates; a third of each kind.
            restarts: how often this direction was searched before, for other random candidates.

        Returns:
            [r, count], or fewer where the complement has fewer dimensions.
        """
        r, j = basis.shape
        free = r - j
        n_main = min((count + 2) // 3, free)
        parts = [_main(matrix, basis)[:, :n_main] for matrix in (self.variance, self.dependence)]
        generator = generator_of("causal basis start", self.seed, self.name, j, restarts)
        drawn = torch.randn(r, max(count - 2 * n_main, 0), generator=generator, dtype=torch.float64)
        candidates = outside(torch.cat([*parts, drawn], 1)[:, : min(count, 2 * free)], basis)
        unit: Tensor = candidates / candidates.norm(dim=0)
        return unit


def starts_of(energy: AblationEnergy, metric: Metric, covariance: Covariance, name: str, seed: int) -> Starts:
    """Return the starts of a site; a collective over processes.

    Args:
        energy: of its ablations.
        metric: of its directions.
        covariance: of its activations, all processes'.
        name: of the site.
        seed: of the random parts.
    """
    variance = metric.write_map.mT @ covariance.covariance().cpu() @ metric.write_map
    dependence = metric.write_map.mT @ _dependence(energy, len(metric.read_map), name, seed) @ metric.write_map
    return Starts(variance, dependence, name, seed)


def outside(vectors: Tensor, basis: Tensor) -> Tensor:
    """Return the part of vectors [r] or [r, n] outside the span of an orthonormal basis [r, j]."""
    for _ in range(2):  # once leaves round-off of the part inside
        vectors = vectors - basis @ (basis.mT @ vectors)
    return vectors


def _main(matrix: Tensor, basis: Tensor) -> Tensor:
    """Return the eigenvectors [r, r − j] of a symmetric matrix within the complement of a basis, largest first."""
    projected = outside(outside(matrix, basis).mT, basis)
    vectors: Tensor = torch.linalg.eigh((projected + projected.mT) / 2)[1]
    return vectors.flip(-1)[:, : len(matrix) - basis.shape[1]]


def _dependence(energy: AblationEnergy, width: int, name: str, seed: int) -> Tensor:
    """Return the mean over rows, tokens and cotangents of g gᵀ, [d, d] float64.

    A row's cotangents depend on the seed and the row alone, so that they do not depend on the number of processes.
    """
    own = torch.zeros(width, width, dtype=torch.float64)
    for each in energy.data:
        part = each.part
        for turn in range(COTANGENTS):
            with torch.enable_grad():
                h = part.activation.detach().clone().requires_grad_()
                y = part.output(h)
                drawn = [
                    torch.randn(y.shape[1:], generator=generator_of("causal basis cotangent", seed, name, row, turn))
                    for row in part.rows
                ]
                cotangent = torch.stack(drawn).to(y.device, y.dtype)
                (g,) = torch.autograd.grad((y * cotangent).sum(), [h])
            tokens = g.flatten(0, -2).float()
            own += (tokens.mT @ tokens).double().cpu()
    return summed(own, energy.device)
