"""Subspaces: the part Π of the channels that an edit may change."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from physteer.errors import PhysteerError
from physteer.interventions.constant import Constant


class Subspace(nn.Module, ABC):
    """A projector Π on the channel axis.

    Parameters and buffers stay float32 or wider whatever precision the model around them is cast to.
    """

    @abstractmethod
    def project(self, change: Tensor) -> Tensor:
        """Return Π of a change [..., d]; both are in float32 or wider."""

    def forward(self, change: Tensor) -> Tensor:
        """Return Π of a change [..., d] of any precision, in float32 or wider.

        Low precision is widened and autocast is off inside: rounded rotations are not orthonormal.
        """
        if change.dtype != torch.float32:
            change = change.to(torch.promote_types(change.dtype, torch.float32))
        if not torch.is_autocast_enabled(change.device.type):
            return self.project(change)
        with torch.autocast(change.device.type, enabled=False):
            return self.project(change)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Subspace:
        # `.to`, `.half` and Lightning's true half precision call this: move parameters, but do not narrow them.
        def unnarrowed(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            if torch.promote_types(moved.dtype, tensor.dtype) == moved.dtype:
                return moved
            return tensor.to(moved.device)

        super()._apply(unnarrowed, recurse)  # type: ignore[no-untyped-call]
        return self


class Span(Subspace):
    """The span of orthonormal directions: Π x = x U Uᵀ."""

    def __init__(self, basis: Tensor) -> None:
        """Keep a basis.

        Args:
            basis: U [d, k], orthonormal columns.

        Raises:
            PhysteerError: The columns are not orthonormal, or there are more than d.
        """
        super().__init__()
        self._basis = Constant(orthonormal(basis))

    @property
    def basis(self) -> Tensor:
        """U [d, k]."""
        return self._basis.value

    def project(self, change: Tensor) -> Tensor:
        """Return x U Uᵀ."""
        basis = self._basis.on(change.device)
        if basis.dtype != change.dtype:
            basis = basis.to(change.dtype)
        if change.shape[-1] != basis.shape[0]:
            raise PhysteerError(f"the subspace has width {basis.shape[0]}, the activation has {change.shape[-1]}")
        return (change @ basis) @ basis.mT

    def extra_repr(self) -> str:
        """Return d and k."""
        return "d={}, k={}".format(*self.basis.shape)


class Complement(Span):
    """The orthogonal complement of some directions: Π x = x − x U Uᵀ."""

    def project(self, change: Tensor) -> Tensor:
        """Return x − x U Uᵀ."""
        return change - super().project(change)


def orthonormal(basis: Tensor, tolerance: float = 1e-4) -> Tensor:
    """Return a basis [d, k] in float32 or wider, checked to be orthonormal.

    Raises:
        PhysteerError: max |UᵀU − I| is above the tolerance.
    """
    if basis.ndim != 2 or not 1 <= basis.shape[1] <= basis.shape[0]:
        raise PhysteerError(f"a basis is [d, k] with 1 ≤ k ≤ d; it has shape {list(basis.shape)}")
    basis = basis.detach().to(torch.promote_types(basis.dtype, torch.float32))
    gram = basis.double().mT @ basis.double()
    error = float((gram - torch.eye(len(gram), dtype=gram.dtype, device=gram.device)).abs().max())
    if not error <= tolerance:
        raise PhysteerError(f"the basis is not orthonormal: max |UᵀU − I| is {error:.1e}, allowed is {tolerance:.0e}")
    return basis
