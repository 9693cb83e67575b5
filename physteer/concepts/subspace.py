"""Subspaces that were learned: an orthonormal basis at a site, how it came about, and its file."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from physteer.errors import PhysteerError
from physteer.tensor_files import read_tensors, write_tensors

FORMAT_VERSION = 1


@dataclass(frozen=True, eq=False)
class ConceptSubspace:
    """A subspace of a site's channels in which a variable lives.

    Raises:
        PhysteerError: The basis is not [d, k] with 1 ≤ k ≤ d, or has values that are not finite.
    """

    basis: Tensor
    """[d, k], float32, on the CPU; orthonormal columns."""
    site: str
    """Where it was learned, such as `blocks.1`."""
    variable: str = ""
    """What lives in it, such as `Reynolds`."""
    model: str = ""
    """Which weights: a path, a hub address, or a digest."""
    data: str = ""
    """Which data set and split."""
    formula: str = ""
    """How it was found."""

    def __post_init__(self) -> None:
        if self.basis.ndim != 2 or not 1 <= self.basis.shape[1] <= self.basis.shape[0]:
            raise PhysteerError(f"a subspace's basis is [d, k] with 1 ≤ k ≤ d; this has shape {list(self.basis.shape)}")
        basis = self.basis.detach().to("cpu", torch.float32).contiguous()
        if not bool(torch.isfinite(basis).all()):
            raise PhysteerError(f"the subspace at {self.site} has values that are not finite")
        object.__setattr__(self, "basis", basis)

    def along(self, vector: Tensor) -> Tensor:
        """Return the part of a vector [d] that lies in the subspace, [d] float64."""
        basis = self.basis.double()
        return basis @ (basis.mT @ vector.double().cpu())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file, whole or not at all.

        Raises:
            PhysteerError: It cannot be written.
        """
        described = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "basis"}
        write_tensors(path, "subspace", FORMAT_VERSION, {"basis": self.basis}, described)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ConceptSubspace:
        """Read a file that `save` wrote.

        Raises:
            PhysteerError: There is no such file, it is no subspace, of a later version, or damaged.
        """
        tensors, described = read_tensors(path, "subspace", FORMAT_VERSION)
        known = {f.name for f in fields(cls)}
        given: dict[str, Any] = {**{name: value for name, value in described.items() if name in known}, **tensors}
        try:
            return cls(**given)
        except (PhysteerError, TypeError) as error:
            raise PhysteerError(f"{path}: {error}") from error
