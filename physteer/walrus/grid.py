"""From cells to tokens: strides, paddings and random shifts, one axis at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from physteer.errors import PhysteerError
from physteer.walrus.config import WalrusConfig

Boundaries = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
"""Boundary codes (low end, high end) of the axes H, W, D; an axis of size 1 counts as periodic."""

WALL, OPEN, PERIODIC = 0, 1, 2
KERNELS = (8, 4)
"""Kernel sizes of the two convolutions, on every axis."""
STRIDES = {1: (1, 1), 4: (2, 2), 8: (4, 2), 12: (6, 2), 16: (4, 4), 24: (6, 4), 32: (8, 4)}
"""Cells per token → strides of the two convolutions."""


@dataclass(frozen=True)
class Axis:
    """One axis: how its cells become tokens."""

    size: int
    """Cells."""
    codes: tuple[int, int]
    """Boundary codes of the two ends; (2, 2) when the axis has one cell."""
    strides: tuple[int, int]
    """Strides of the two convolutions; their product is the number of cells per token."""
    before: int
    """Cells added to both ends before the shift: zeros, or (`preview`, periodic) the other end's cells."""
    after: int
    """Cells of the other end added to both ends after the shift: `released`, periodic axes only."""
    shift_bound: int
    """Shifts are drawn from [−(bound − 1), bound); 0: this axis is never shifted."""

    @property
    def periodic(self) -> bool:
        """Whether the two ends are neighbours."""
        return self.codes[0] == PERIODIC

    @property
    def cells(self) -> int:
        """Cells per token."""
        return self.strides[0] * self.strides[1]

    @property
    def first_cell(self) -> int:
        """Where the cells of the first token begin: in the middle of what it sees. Negative in the padding."""
        if self.size == 1:
            return 0
        (k1, k2), s1 = KERNELS, self.strides[0]
        return (k1 + s1 * (k2 - 1) - self.cells) // 2 - self.before - self.after

    @property
    def tokens(self) -> int:
        """Tokens along this axis."""
        if self.size == 1:
            return 1
        cells = self.size + 2 * (self.before + self.after)
        for kernel, stride in zip(KERNELS, self.strides, strict=True):
            cells = (cells - kernel) // stride + 1
        return cells


@dataclass(frozen=True)
class Grid:
    """The three axes of a field, and which of them are real."""

    axes: tuple[Axis, Axis, Axis]

    @property
    def active(self) -> tuple[int, ...]:
        """The axes longer than one cell; convolutions run over these only."""
        return tuple(i for i, axis in enumerate(self.axes) if axis.size > 1)

    @property
    def moving(self) -> tuple[Axis, ...]:
        """The axes longer than one cell."""
        return tuple(self.axes[i] for i in self.active)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Cells (H, W, D)."""
        h, w, d = (axis.size for axis in self.axes)
        return h, w, d

    @property
    def tokens(self) -> tuple[int, int, int]:
        """Token grid (h, w, δ)."""
        h, w, d = (axis.tokens for axis in self.axes)
        return h, w, d


def plan(config: WalrusConfig, shape: Sequence[int], boundaries: Boundaries, jitter: bool) -> Grid:
    """Choose strides and paddings for a field of `shape` (H, W, D).

    With `jitter`, non-periodic axes are padded by half a token more on both ends, so that a shifted field stays inside.

    Raises:
        PhysteerError: The model has no stem for the number of axes longer than 1, an axis is periodic at one end only,
            or no stride fits an axis.
    """
    if len(shape) != 3:
        raise PhysteerError(f"a grid is (H, W, D); found {tuple(shape)}")
    n_axes = sum(size > 1 for size in shape)
    if n_axes not in config.dimensions:
        allowed = " or ".join(map(str, config.dimensions))
        raise PhysteerError(f"the grid {tuple(shape)} has {n_axes} axes longer than 1; this Walrus is for {allowed}")
    tokens = config.tokens_3d if n_axes == 3 else config.tokens_2d
    released = config.variant == "released"
    axes = []
    for name, size, codes in zip("HWD", shape, boundaries, strict=True):
        if size == 1:
            axes.append(Axis(1, (PERIODIC, PERIODIC), (1, 1), 0, 0, 0))
            continue
        if (codes[0] == PERIODIC) != (codes[1] == PERIODIC) or not {*codes} <= {WALL, OPEN, PERIODIC}:
            raise PhysteerError(f"boundary codes of axis {name} are {tuple(codes)}: 0 wall, 1 open, or (2, 2) periodic")
        if size % tokens or size // tokens not in STRIDES:
            allowed = ", ".join(str(tokens * ratio) for ratio in STRIDES)
            raise PhysteerError(f"axis {name} has {size} cells; with {tokens} tokens per axis it may have {allowed}")
        strides = STRIDES[size // tokens]
        axis = (_released_axis if released else _preview_axis)(size, (codes[0], codes[1]), strides, jitter)
        if axis.tokens < 1:  # `preview` pads too little for a handful of cells
            raise PhysteerError(f"axis {name} has {size} cells, fewer than the stem's convolutions reach over")
        axes.append(axis)
    return Grid((axes[0], axes[1], axes[2]))


def _released_axis(size: int, codes: tuple[int, int], strides: tuple[int, int], jitter: bool) -> Axis:
    (k1, k2), (s1, s2) = KERNELS, strides
    cells = s1 * s2  # per token
    padding = (k1 + s1 * (k2 - 1) - cells) // 2  # half of what a token sees beyond its own cells
    if codes[0] == PERIODIC:
        return Axis(size, codes, strides, 0, padding, size // 2 if cells > 1 else 0)
    padding += cells // 2 if jitter else 0
    return Axis(size, codes, strides, padding, 0, padding if cells > 1 else 0)


def _preview_axis(size: int, codes: tuple[int, int], strides: tuple[int, int], jitter: bool) -> Axis:
    (k1, k2), (s1, s2) = KERNELS, strides
    cells = s1 * s2
    room = cells // 2 if jitter and codes[0] != PERIODIC else 0
    even = (cells - ((size + 2 * room - k1 + s1 - k2 * s1) % cells)) // 2  # makes the strides end at the last cell
    return Axis(size, codes, strides, room + even, 0, cells // 2 + even)


@dataclass(frozen=True)
class Shifts:
    """The random shifts of one forward pass (jitter), per sample; both tensors live on the CPU."""

    pixels: Tensor
    """[B, 3] cells by which the padded field is rolled along H, W, D; zero where an axis does not move."""
    tokens: Tensor
    """[B, n_blocks, 3] tokens by which the grid is rolled before each block; zero where an axis does not move."""

    def __getitem__(self, rows: slice) -> "Shifts":
        """Return the shifts of some rows of the batch."""
        return Shifts(self.pixels[rows], self.tokens[rows])


def draw_shifts(config: WalrusConfig, grid: Grid, generators: Sequence[torch.Generator]) -> Shifts:
    """Draw shifts, sample by sample: each sample has its own generator, so no draw depends on the batch."""
    pixels = torch.zeros(len(generators), 3, dtype=torch.long)
    tokens = torch.zeros(len(generators), config.n_blocks, 3, dtype=torch.long)
    for row, generator in enumerate(generators):
        for i, axis in enumerate(grid.axes):
            if 2 * axis.shift_bound - 1 > 0:
                low, high = 1 - axis.shift_bound, axis.shift_bound
                pixels[row, i] = torch.randint(low, high, (), generator=generator)
        if config.variant == "released":
            for i, axis in enumerate(grid.axes):
                if axis.periodic and axis.tokens > 1:
                    tokens[row, :, i] = torch.randint(axis.tokens, (config.n_blocks,), generator=generator)
    return Shifts(pixels, tokens)


def pad(x: Tensor, dim: int, amount: int, mode: Literal["zeros", "circular"]) -> Tensor:
    """Add `amount` cells to both ends of one dimension."""
    if amount == 0:
        return x
    size = x.shape[dim]
    if mode == "zeros":
        edge = x.new_zeros((*x.shape[:dim], amount, *x.shape[dim % x.ndim + 1 :]))
        return torch.cat([edge, x, edge], dim)
    if amount > size:  # a padding longer than the axis wraps around more than once
        return x.index_select(dim, torch.arange(-amount, size + amount, device=x.device) % size)
    return torch.cat([x.narrow(dim, size - amount, amount), x, x.narrow(dim, 0, amount)], dim)


def crop(x: Tensor, dim: int, amount: int) -> Tensor:
    """Remove `amount` cells from both ends of one dimension."""
    return x.narrow(dim, amount, x.shape[dim] - 2 * amount)


def roll(x: Tensor, shifts: Tensor, dims: Sequence[int]) -> Tensor:
    """Roll each sample of `x` [B, …] by its own row of `shifts` [B, len(dims)] along `dims` of x."""
    if not bool(shifts.any()):
        return x
    if bool((shifts == shifts[:1]).all()):
        return x.roll(shifts[0].tolist(), tuple(dims))
    rows = (row.roll(shift, [dim - 1 for dim in dims]) for row, shift in zip(x, shifts.tolist(), strict=True))
    return torch.stack(tuple(rows))
