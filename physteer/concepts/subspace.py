"""Learned subspaces: an orthonormal basis at a site, its meaning and its file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from physteer.errors import PhysteerError
from physteer.tensor_files import TensorFile, finite_float32


@dataclass(frozen=True, eq=False)
class ConceptSubspace(TensorFile):
    """A subspace of a site's channels that carries a variable.

    Raises:
        PhysteerError: The basis is not [d, k] with 1 ≤ k ≤ d, or has values that are not finite.
    """

    KIND: ClassVar = "subspace"
    VERSION: ClassVar = 1

    basis: Tensor
    """[d, k], float32, on the CPU; orthonormal columns."""
    site: str
    """Site of the activations, such as `blocks.1`."""
    variable: str = ""
    """The variable that it carries, such as `Reynolds`."""
    model: str = ""
    """The weights: a path, a hub address, or a digest."""
    data: str = ""
    """Data set and split."""
    formula: str = ""
    """Method by which it was learned."""

    def __post_init__(self) -> None:
        if self.basis.ndim != 2 or not 1 <= self.basis.shape[1] <= self.basis.shape[0]:
            raise PhysteerError(f"a subspace's basis is [d, k] with 1 ≤ k ≤ d; this has shape {list(self.basis.shape)}")
        object.__setattr__(self, "basis", finite_float32(self.basis, f"the subspace at {self.site}"))

    def along(self, vector: Tensor) -> Tensor:
        """Return the part of a vector [d] that lies in the subspace, [d] float64."""
        basis = self.basis.double()
        return basis @ (basis.mT @ vector.double().cpu())
