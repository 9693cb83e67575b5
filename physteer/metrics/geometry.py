"""The lengths of a Cartesian grid: where its cells lie, and how wide they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from physteer.errors import PhysteerError

Periodic = tuple[bool, bool, bool]
"""Which of x, y, z are periodic."""

SPACE = (-3, -2, -1)
UNEVENNESS = 1e-3
"""An axis counts as uniform if no cell is farther from its place than this share of the mean spacing, plus rounding."""
_ROUNDING = 2.0**-22
"""Two float32 steps of the largest coordinate, since coordinates are often stored in float32; see `_tolerance`."""


@dataclass(frozen=True, eq=False)
class Geometry:
    """The lengths by which flow diagnostics differentiate and average; fields on it are [..., H, W, D] = (x, y, z).

    On a stretched axis, derivatives use the cells' positions and means weigh cells by their widths (`cell_edges`).
    ``Geometry((0.1, 0.2, 1.0), (True, True, True))`` is a uniform grid; `geometry_of` makes one from positions.

    Raises:
        PhysteerError: A periodic axis is stretched: its period, and so the width of its end cells, is unknown.
    """

    spacing: tuple[float | Tensor, float | Tensor, float | Tensor]
    """Per axis x, y, z: the distance between cells where it is uniform, 1 where it is absent; the positions of the
    cells [n], increasing or decreasing, where it is stretched."""
    periodic: Periodic

    def __post_init__(self) -> None:
        """Refuse periodic stretched axes."""
        for axis in self.stretched:
            if self.periodic[axis]:
                raise PhysteerError(
                    f"the grid is stretched along its periodic axis {'xyz'[axis]}, whose period is not stored: "
                    "derivatives, means over space and spectra need evenly spaced cells there"
                )

    @property
    def stretched(self) -> tuple[int, ...]:
        """The axes, 0 to 2, whose cells are not evenly spaced."""
        return tuple(axis for axis in range(3) if isinstance(self.spacing[axis], Tensor))

    @cached_property
    def widths(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Per axis: the cells' widths [n] over their mean, float64; None where the axis is uniform."""
        return tuple(None if isinstance(s, float | int) else _relative_widths(s) for s in self.spacing)  # type: ignore[return-value]

    def mean(self, field: Tensor, axes: Sequence[int] = (0, 1, 2), keepdim: bool = False) -> Tensor:
        """Average over space, each cell weighed by its volume.

        Args:
            field: [..., H, W, D].
            axes: the axes to average over.
            keepdim: whether they stay, with one cell.

        Returns:
            [..., remaining axes] in the field's units.
        """
        for axis in axes:
            width = self.widths[axis]
            if width is not None:
                field = field * width.to(field).view(-1, *(1,) * (2 - axis))
        return field.mean([axis - 3 for axis in axes], keepdim=keepdim)

    def variance(self, field: Tensor) -> Tensor:
        """Return ⟨(f − ⟨f⟩)²⟩ of a field [..., H, W, D], in its units squared: [...]."""
        if not self.stretched:
            return field.var(SPACE, correction=0)
        return self.mean((field - self.mean(field, keepdim=True)).square())

    def deviation(self, field: Tensor) -> Tensor:
        """Return √⟨(f − ⟨f⟩)²⟩ of a field [..., H, W, D], in its units: [..., 1, 1, 1]."""
        if not self.stretched:
            return field.std(SPACE, correction=0, keepdim=True)
        return self.variance(field).sqrt()[..., None, None, None]


def geometry_of(positions: Sequence[Tensor], periodic: Periodic) -> Geometry:
    """Return the geometry of the cells at some positions along x, y and z; one cell stands for an absent axis.

    Raises:
        PhysteerError: Positions neither increase nor decrease, or a periodic axis is stretched.
    """
    spacing: list[float | Tensor] = []
    for name, along in zip("xyz", positions, strict=True):
        gaps = along.double().diff()
        if not ((gaps > 0).all() or (gaps < 0).all()):  # also where one is NaN
            raise PhysteerError(
                f"the coordinates along {name} neither increase nor decrease from cell to cell: derivatives, means "
                "over space and spectra need the cells' positions"
            )
        even = uniform_spacing(along)
        spacing.append(along.double() if even is None else even)
    return Geometry((spacing[0], spacing[1], spacing[2]), periodic)


def uniform_spacing(positions: Tensor) -> float | None:
    """Return the mean distance between cells at positions [n], 1 for one cell; None where they are stretched.

    They are where a cell is farther than 1/1000 of the mean distance from where even spacing would put it, beyond the
    rounding of float32.
    """
    n = len(positions)
    if n == 1:
        return 1.0
    # over the whole axis: a difference of two float32 neighbours would lose digits
    spacing = float(positions[-1] - positions[0]) / (n - 1)
    along = positions.double()
    line = along[0] + spacing * torch.arange(n, dtype=torch.float64, device=along.device)
    return spacing if float((along - line).abs().max()) <= _tolerance(along, abs(spacing)) else None


def same_positions(positions: Tensor, others: Tensor) -> bool:
    """Return whether two axes have their cells at the same positions, but for 1/1000 of a cell and rounding."""
    a, b = positions.double(), others.double()
    if a.shape != b.shape or torch.equal(a, b):
        return a.shape == b.shape
    narrowest = float(a.diff().abs().min()) if len(a) > 1 else 0.0
    return float((a - b).abs().max()) <= _tolerance(a, narrowest)


def cell_edges(positions: Tensor) -> Tensor:
    """Return the edges of cells at positions [n], from end to end: [n + 1], float64.

    Inner edges lie in the middle between cells. Where widths change, an end cell reaches as far beyond its position as
    the change goes on: (3 g₁ − g₂)/4 with g₁ and g₂ the distances of the first three cells. That is half a cell on a
    uniform axis, exact for cell-centred positions whose widths grow linearly, and 0 for Chebyshev's points with the
    ends, which lie on the wall.
    """
    along, even = positions.double(), uniform_spacing(positions)
    if even is not None:
        n = len(along)
        return along[0] + even * (torch.arange(n + 1, dtype=torch.float64, device=along.device) - 0.5)
    gaps = along.diff()
    ends = [(3 * near - far) / 4 for near, far in ((gaps[0], gaps[1]), (gaps[-1], gaps[-2]))]
    low, high = (end.where(end * gaps[0] > 0, 0.0) for end in ends)
    return torch.cat([(along[0] - low)[None], (along[1:] + along[:-1]) / 2, (along[-1] + high)[None]])


def _relative_widths(positions: Tensor) -> Tensor:
    widths = cell_edges(positions).diff().abs()
    return widths / widths.mean()


def _tolerance(positions: Tensor, spacing: float) -> float:
    """Return how far a cell may be from its place; rounding counts for a quarter of a cell at the most."""
    return UNEVENNESS * spacing + min(_ROUNDING * float(positions.abs().max()), spacing / 4)
