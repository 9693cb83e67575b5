"""Causal bases: the directions of a site that a model's output depends on, in the order of their effect, and a file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from physteer.concepts.concept import Concept
from physteer.errors import PhysteerError
from physteer.interventions.erase import Erase
from physteer.tensor_files import TensorFile

_DUAL = 1e-4
"""Largest deviation of RᵀL from 1."""


def _empty() -> Tensor:
    return torch.empty(0, dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class CausalBasis(TensorFile):
    """k directions, each a pair: R measures a component of an activation, L is what is removed of it.

    Ablating direction j gives h' = h − ((h − t)·R_j) L_j, and its energy is the mean divergence of the model's output
    under that. In the raw metric R and L are equal and orthonormal. In the whitened one RᵀL = 1, and removing a
    direction leaves alone whatever is uncorrelated with it. Directions have no sign. Spans of the first few directions
    agree between halves of the data far better than single directions do.

    Raises:
        PhysteerError: Shapes do not fit, a value is not finite, or RᵀL is not 1.
    """

    KIND: ClassVar = "causal basis"
    VERSION: ClassVar = 1

    read: Tensor
    """R [d, k], float64, on the CPU."""
    write: Tensor
    """L [d, k], float64; RᵀL = 1."""
    mean: Tensor
    """float64: μ [d] over rows and tokens, over rows alone [..., d] in the mode ``rows_mean``, 0 in the mode ``zero``.
    It is what the modes of a mean put in, and what `replacement` always does."""
    energies: Tensor
    """[k], float64, in the order in which the directions were found, on the rows they were extracted from."""
    site: str
    """Site of the activations, such as `blocks.1`."""
    row_order: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    """[rows], int64: the row that each row's values came from, of all rows in the order of their addresses; empty
    unless the mode resamples rows."""
    token_order: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    """[tokens], int64: the token that each token's values came from; empty unless the mode resamples tokens too."""
    marginal: Tensor = field(default_factory=_empty)
    """[k]: the energy of every direction alone on held-out rows; empty before it is measured."""
    cumulative: Tensor = field(default_factory=_empty)
    """[k]: the energy of the first 1 … k directions together, likewise."""
    half_angles: Tensor = field(default_factory=_empty)
    """[k], degrees: the largest principal angle between the spans of the first 1 … k directions of two halves of the
    rows; empty where halves were not extracted."""
    everything: float = float("nan")
    """The energy of replacing the whole activation by its target, on held-out rows: no upper bound of `cumulative`."""
    restarts: tuple[int, ...] = ()
    """How often each direction was searched again because a later one had a larger energy."""
    rises: tuple[float, ...] = ()
    """By how much each energy lies above the least before it, relatively; 0 for exact greedy directions."""
    evaluations: tuple[int, ...] = ()
    """Of energy and gradient, for each direction."""
    rows: int = 0
    """Number of rows the directions were extracted from."""
    mode: str = "mean"
    """What took the place of ablated components: ``mean``, ``rows_mean``, ``zero``, ``resample``, ``resample_rows``."""
    metric: str = "raw"
    """``raw`` or ``whitened``."""
    divergence: str = ""
    """How outputs were compared."""
    units: str = ""
    """Of the energies."""
    frames: tuple[int, ...] | None = None
    """The frames that were ablated; None for all."""
    seed: int = 0
    model: str = ""
    """The weights: a path, a hub address, or a digest."""
    data: str = ""
    """Data set and split."""

    def __post_init__(self) -> None:
        if self.read.ndim != 2 or self.read.shape != self.write.shape or self.mean.shape[-1:] != self.read.shape[:1]:
            raise PhysteerError(
                f"a causal basis has R and L [d, k] and a mean [..., d]; found {list(self.read.shape)}, "
                f"{list(self.write.shape)} and {list(self.mean.shape)}"
            )
        if not 1 <= self.k <= self.width or self.energies.shape != (self.k,):
            raise PhysteerError(
                f"{len(self.energies)} energies do not fit {self.k} directions of {self.width} channels"
            )
        for name in ("read", "write", "mean", "energies"):
            if not bool(getattr(self, name).isfinite().all()):
                raise PhysteerError(f"the causal basis at {self.site} has values of {name} that are not finite")
        error = float((self.read.mT @ self.write - torch.eye(self.k, dtype=self.read.dtype)).abs().max())
        if error > _DUAL:
            raise PhysteerError(f"the causal basis at {self.site} is not dual: max |RᵀL − 1| is {error:.1e}")

    @property
    def k(self) -> int:
        """Number of directions."""
        return self.read.shape[1]

    @property
    def width(self) -> int:
        """Number of channels d."""
        return self.read.shape[0]

    def span(self, k: int) -> Tensor:
        """Return an orthonormal basis [d, k], float64, of what the first k directions measure: orth(R).

        Raises:
            PhysteerError: There are fewer directions.
        """
        if not 1 <= k <= self.k:
            raise PhysteerError(f"the causal basis at {self.site} has {self.k} directions; rank {k} was asked for")
        basis: Tensor = torch.linalg.qr(self.read[:, :k])[0]
        return basis

    def replacement(self) -> Erase:
        """Return the ablation of all directions together as the replacement of an `Edit`; it puts the mean in."""
        return Erase(self.mean.reshape(-1, self.width).mean(0), self.read, self.write)

    def concept(self, number: int) -> Concept:
        """Return what direction number 1 … k removes, L, as a concept on one token. Its sign has no meaning.

        Raises:
            PhysteerError: There is no such direction.
        """
        if not 1 <= number <= self.k:
            raise PhysteerError(f"the causal basis at {self.site} has the directions 1 to {self.k}; found {number}")
        return Concept(
            self.write[:, number - 1].view(1, 1, 1, -1),
            self.site,
            self.model,
            self.data,
            f"causal basis, direction {number}; its sign has no meaning",
            counts={"rows": self.rows},
        )
