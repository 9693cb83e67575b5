"""Trainable subspaces: learned orthonormal columns, for one variable or divided among several."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from physteer.errors import PhysteerError
from physteer.interventions.edit import Edit
from physteer.interventions.subspace import Subspace


class OrthonormalColumns(nn.Module):
    """R [d, k] with RᵀR = I: the Q of a QR decomposition of free parameters; the triangle's diagonal is positive.

    This Q is unique, smooth in the parameters, and the same for all their multiples: weight decay and growth of the
    parameters do not change it. Evaluation and gradient cost O(d k²). torch's orthogonal parametrisations take hundreds
    of times longer for a few columns of many rows, and one of them turns to zeros under weight decay.

    R is computed at every call, except within `evaluated_once`.
    """

    def __init__(self, width: int, rank: int, seed: int = 0) -> None:
        """Draw a random rotation.

        Args:
            width: d.
            rank: k.
            seed: equal seeds give equal rotations.

        Raises:
            PhysteerError: not 1 ≤ k ≤ d.
        """
        super().__init__()
        if not 1 <= rank <= width:
            raise PhysteerError(f"a rotation has a rank from 1 to the width {width} of its site; found {rank}")
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(width, rank, generator=generator, dtype=torch.float32, device="cpu")
        self.raw = nn.Parameter(_orthonormalised(drawn))  # orthonormal at the start: well conditioned
        self._open = 0
        self._kept: tuple[tuple[int, bool], Tensor] | None = None

    def forward(self) -> Tensor:
        """Return R [d, k], with gradients to the free parameters."""
        if not self._open:
            return _orthonormalised(self.raw)
        made_from = (self.raw._version, torch.is_grad_enabled())
        if self._kept is None or self._kept[0] != made_from:
            self._kept = made_from, _orthonormalised(self.raw)
        return self._kept[1]

    def extra_repr(self) -> str:
        """Return d and k."""
        return "d={}, k={}".format(*self.raw.shape)


@contextmanager
def evaluated_once(module: nn.Module) -> Iterator[None]:
    """Evaluate every rotation within a module once, at its first use, while the context is open.

    Open it around the forward of one training step. The decomposition of a rotation and its gradient are then computed
    once, however many edits, frames and groups share it. An optimiser step or a reload within the context is noticed.
    A second backward pass is not possible: the first one frees the graph of the evaluation.
    """
    rotations = [part for part in module.modules() if isinstance(part, OrthonormalColumns)]
    for rotation in rotations:
        rotation._open += 1
    try:
        yield
    finally:
        for rotation in rotations:
            rotation._open -= 1
            if not rotation._open:
                rotation._kept = None


class LowRankRotation(Subspace):
    """A learned subspace of k dimensions: Π x = x R Rᵀ (distributed alignment search; Geiger et al., 2303.02536).

    At k = d, Π is the identity whatever R is: the change is returned unchanged, and R has no gradient.
    """

    def __init__(self, width: int, rank: int, seed: int = 0) -> None:
        """Draw a random rotation.

        Args:
            width: d of the site.
            rank: k, the dimensions that are exchanged.
            seed: equal seeds give equal rotations.

        Raises:
            PhysteerError: not 1 ≤ k ≤ d.
        """
        super().__init__()
        self.rotation = OrthonormalColumns(width, rank, seed)

    @property
    def basis(self) -> Tensor:
        """R [d, k] in float32, with gradients; its columns are directions that steering can follow."""
        columns: Tensor = self.rotation()
        return columns

    def project(self, change: Tensor) -> Tensor:
        """Return x R Rᵀ."""
        return project_on(self.basis, change)

    def split(self, ranks: Sequence[int]) -> tuple[ColumnGroup, ...]:
        """Divide the columns among several variables, in order; all groups share this rotation.

        The groups are orthogonal, so one `Edit` for each, with a source of its own, compose at one site to
        h' = h_b + Σ_g (h_{s_g} − h_b) R_g R_gᵀ in any order.

        Args:
            ranks: columns of each variable.

        Raises:
            PhysteerError: They do not add up to k, or one is below 1.
        """
        k = self.rotation.raw.shape[1]
        if min(ranks, default=0) < 1 or sum(ranks) != k:
            raise PhysteerError(f"groups of {list(ranks)} columns do not divide a rotation of rank {k}")
        ends = [sum(ranks[: i + 1]) for i in range(len(ranks))]
        return tuple(ColumnGroup(self.rotation, end - n, end) for n, end in zip(ranks, ends, strict=True))


class ColumnGroup(Subspace):
    """The span of some columns of a shared rotation (`LowRankRotation.split`)."""

    def __init__(self, rotation: OrthonormalColumns, first: int, end: int) -> None:
        """Choose columns `first` to `end`, the latter excluded."""
        super().__init__()
        self.rotation = rotation
        self.columns = slice(first, end)

    @property
    def basis(self) -> Tensor:
        """R_g [d, k_g] in float32, with gradients."""
        columns: Tensor = self.rotation()
        return columns[:, self.columns]

    def project(self, change: Tensor) -> Tensor:
        """Return x R_g R_gᵀ."""
        return project_on(self.basis, change)

    def extra_repr(self) -> str:
        """Return which columns."""
        return f"columns={self.columns.start}:{self.columns.stop}"


def project_on(basis: Tensor, change: Tensor) -> Tensor:
    """Return x R Rᵀ of a change [..., d] for R [d, k]: x itself where k = d.

    Raises:
        PhysteerError: The widths differ.
    """
    width, rank = basis.shape
    if change.shape[-1] != width:
        raise PhysteerError(f"the rotation has width {width}, the activation has {change.shape[-1]}")
    if rank == width:
        return change
    basis = basis.to(change.dtype)
    return (change @ basis) @ basis.mT


def check_gradient(edits: Iterable[Edit], loss: Tensor) -> None:
    """Refuse rotations without gradient: training would silently change nothing.

    Call it once, on the first step's loss, before the backward pass: it runs a backward pass of its own.

    Args:
        edits: the edits of the forward pass.
        loss: a scalar.

    Raises:
        PhysteerError: The gradient of a rotation is zero or absent. Its site may lie after all that the loss reads,
            every source may equal its base, or the rank is the width.
    """
    rotations = {part: edit for edit in edits for part in edit.modules() if isinstance(part, OrthonormalColumns)}
    raw = [rotation.raw for rotation in rotations]
    gradients: Sequence[Tensor | None] = [None] * len(raw)
    if loss.requires_grad and raw:
        gradients = torch.autograd.grad(loss, raw, retain_graph=True, allow_unused=True)
    for (rotation, edit), gradient in zip(rotations.items(), gradients, strict=True):
        if gradient is None or not bool((gradient != 0).any()):
            width, rank = rotation.raw.shape
            raise PhysteerError(
                f"site {edit.site}: the rotation of rank {rank} has no gradient: the loss reads nothing that depends "
                f"on it, every source equals its base, or the rank is the width {width} and all is exchanged anyway"
            )


def _orthonormalised(raw: Tensor) -> Tensor:
    q, r = torch.linalg.qr(raw)
    negative = r.detach().diagonal() < 0  # LAPACK's signs jump where an entry changes sign; these do not
    columns: Tensor = torch.where(negative, -q, q)
    return columns
